"""Problems: every error as RFC 9457 problem JSON, in the caller's language. The one place where errors become text.

Holds the gateway's own errors too; those of the services come as they raised them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from servicekit.errors import FieldViolation, Invalid, ServiceError

LANGUAGES = ("zh", "en")
CONTENT_TYPE = b"application/problem+json"
_FIELD_NAME_MAX = 200


class NotAcceptable(Invalid):
    """The answer exists in no form that the caller accepts."""

    http_status = 406


class TooSlow(Invalid):
    """The request did not come in within the time that it may take."""

    http_status = 408


class UriTooLong(Invalid):
    """The path and the query are longer than the limit."""

    http_status = 414


class TooLarge(Invalid):
    """The body is larger than the limit."""

    http_status = 413


class UnsupportedMedia(Invalid):
    """The body is of a type or an encoding that is not taken."""

    http_status = 415


class HeadersTooLarge(Invalid):
    """The headers are larger than the limit."""

    http_status = 431


class MethodNotAllowed(Invalid):
    """The path exists, but not with this verb; `allowed` are the verbs it has."""

    http_status = 405

    def __init__(self, code: str, zh: str, en: str, *, allowed: Sequence[str]) -> None:
        super().__init__(code, zh, en)
        self.allowed = allowed


# What the gateway itself says, of a request or of one of its fields.
TEXTS: Mapping[str, tuple[str, str]] = {
    "request.body_not_utf8": ("请求内容不是有效的 UTF-8", "The body is not valid UTF-8"),
    "request.json_malformed": ("请求内容不是有效的 JSON", "The body is not valid JSON"),
    "request.json_too_deep": ("JSON 嵌套过深", "The JSON is nested too deeply"),
    "request.field_unknown": ("没有这个字段", "There is no such field"),
    "request.field_repeated": ("字段重复", "The field is given more than once"),
    "request.field_type": ("字段的类型或格式不正确", "The field has the wrong type or form"),
    "request.field_range": ("数值超出范围", "The number is out of range"),
    "request.field_value": ("没有这个取值", "There is no such value"),
    "request.field_character": ("包含不允许的字符", "The text holds a character that is not allowed"),
    "request.path_not_utf8": ("路径不是有效的 UTF-8", "The path is not valid UTF-8"),
    "request.query_not_utf8": ("查询参数不是有效的 UTF-8", "The query is not valid UTF-8"),
    "request.query_too_long": ("查询参数过多", "The query has too many parameters"),
    "request.uri_too_long": ("请求地址过长", "The path and the query are too long"),
    "request.path_not_found": ("没有这个路径", "There is nothing at this path"),
    "request.method_not_allowed": ("此路径不支持该方法", "The path does not take this method"),
    "request.body_too_large": ("请求内容过大", "The body is too large"),
    "request.body_late": ("请求内容接收超时", "The body did not come in time"),
    "request.headers_too_large": ("请求头过大", "The headers are too large"),
    "request.media_type": ("请以 application/json 发送", "Send application/json"),
    "request.content_encoding": ("不支持该内容编码", "The content encoding is not supported"),
    "request.not_acceptable": ("无法以所请求的格式回答", "The answer cannot be given in the form asked for"),
    "request.idempotency_key": (
        "Idempotency-Key 应为 1 至 128 个可打印 ASCII 字符",
        "Idempotency-Key must be 1 to 128 printable ASCII characters",
    ),
    "request.timeout": ("X-Timeout-Ms 应为 1 至 30000 的整数", "X-Timeout-Ms must be a whole number from 1 to 30000"),
    "request.last_event_id": ("Last-Event-ID 不是收到过的编号", "Last-Event-ID is no id that was sent"),
    "request.too_frequent": ("请求过于频繁，请稍后再试", "Too many requests; please try again later"),
    "blob.ticket_refused": ("文件地址无效", "This is no address of a file that you were given"),
    "blob.ticket_expired": ("文件地址已过期，请重新获取", "The address of this file has expired; please ask for it again"),
    "blob.too_large": ("文件过大", "The file is too large"),
    "blob.not_found": ("没有找到该文件", "There is no such file"),
    "gateway.busy": ("系统繁忙，请稍后再试", "Too much is going on now; please try again"),
    "notifications.too_many_connections": ("通知连接过多，请稍后再试", "Too many notification streams; please try again later"),
    "notifications.unavailable": ("通知服务暂时不可用，请稍后再试", "Notifications are not available now; please try again"),
}

# What the contract's own rules say, for people who read Chinese; the rules themselves say it in English.
_RULES_ZH: Mapping[str, str] = {
    "required": "必填",
    "string.uuid": "应为 UUID",
    "string.uuid_empty": "应为 UUID",
    "string.pattern": "格式不正确",
    "string.min_len": "太短",
    "string.max_len": "太长",
    "string.min_bytes": "太短",
    "string.max_bytes": "太长",
    "enum.defined_only": "没有这个取值",
    "enum.not_in": "不允许这个取值",
    "repeated.min_items": "项数太少",
    "repeated.max_items": "项数太多",
    "repeated.unique": "有重复的项",
}
_RANGES = (".gt", ".gte", ".lt", ".lte", ".gt_lt", ".gte_lte", ".gt_lte", ".gte_lt")

_TITLES: Mapping[int, tuple[str, str]] = {
    400: ("请求有误", "Bad request"),
    401: ("需要登录", "Sign-in required"),
    403: ("没有权限", "Not allowed"),
    404: ("未找到", "Not found"),
    405: ("不支持的方法", "Method not allowed"),
    406: ("不支持的回答格式", "Not acceptable"),
    408: ("请求超时", "Request timeout"),
    409: ("状态冲突", "Conflict"),
    413: ("内容过大", "Content too large"),
    414: ("地址过长", "URI too long"),
    415: ("不支持的内容类型", "Unsupported media type"),
    429: ("请求过于频繁", "Too many requests"),
    431: ("请求头过大", "Headers too large"),
    500: ("服务内部错误", "Internal error"),
    503: ("服务暂时不可用", "Service unavailable"),
}


def violation(field: str, code: str) -> FieldViolation:
    """One of the gateway's own findings about a field. The field's name may be a stranger's, so it is shortened and made printable."""
    return FieldViolation(field[:_FIELD_NAME_MAX].encode(errors="replace").decode(), code, TEXTS[code][1])


def invalid(code: str, *, kind: type[Invalid] = Invalid, fields: Sequence[FieldViolation] = ()) -> Invalid:
    """One of the gateway's own errors about a request."""
    zh, en = TEXTS[code]
    return kind(code, zh, en, fields=fields)


@lru_cache(maxsize=1024)
def language_of(accept_language: str) -> str:
    """The language of an `Accept-Language` header (RFC 9110 §12.5.4): `zh` or `en`, Chinese when neither is asked for."""
    best, best_weight = LANGUAGES[0], 0.0
    for part in accept_language.split(","):
        tag, _, parameters = part.partition(";")
        primary = tag.strip().lower().partition("-")[0]
        weight = weight_of(parameters)
        if primary in LANGUAGES and weight > best_weight:
            best, best_weight = primary, weight
    return best


def weight_of(parameters: str) -> float:
    """The weight `q` of a header's list member (RFC 9110 §12.4.2), 1 when it has none, 0 when it is malformed."""
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    value = value.strip()
    return float(value) if len(value) <= 5 and value.replace(".", "", 1).isdecimal() and value.isascii() else 0.0


class _FieldProblem(msgspec.Struct):
    field: str
    code: str
    text: str


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem as it is written: RFC 9457's members and ours."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[_FieldProblem] = []
    details: dict[str, str] = {}


_encoder = msgspec.json.Encoder()


def render(error: ServiceError, language: str, request_id: str) -> bytes:
    """The problem document of an error in `language`."""
    place = LANGUAGES.index(language)
    status = error.http_status
    problem = Problem(
        type=f"urn:linli:problem:{error.code}",
        title=_TITLES[status][place],
        status=status,
        detail=error.zh if language == "zh" else error.en,
        code=error.code,
        request_id=request_id,
        errors=[_FieldProblem(field.field, field.code, _field_text(field, language)) for field in error.fields],
        details=error.details,
    )
    return _encoder.encode(problem)


def _field_text(field: FieldViolation, language: str) -> str:
    if field.code in TEXTS:
        return TEXTS[field.code][LANGUAGES.index(language)]
    if language == "en":
        return field.text
    if field.code.endswith(_RANGES):
        return TEXTS["request.field_range"][0]
    return _RULES_ZH.get(field.code, field.text)


def headers_of(error: ServiceError, language: str) -> list[tuple[bytes, bytes]]:
    """The headers that an error's answer carries beside those of every answer."""
    headers = [(b"content-type", CONTENT_TYPE), (b"content-language", language.encode()), (b"cache-control", b"no-store")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if error.http_status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
