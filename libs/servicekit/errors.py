"""The one error family.

Services raise these with a stable dotted code and a text for people in both languages. `rpc` carries them across gRPC, the gateway renders
them as problem JSON (RFC 9457). Anything else that is raised is a defect: it is logged, and its text never leaves the process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "linli"
DETAILS_TRAILER = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of a request; `field` is its path as JSON names it, such as `plates[2]`."""

    field: str
    code: str
    text: str


class ServiceError(Exception):
    """Something went wrong that the caller may know about. Raise one of the subclasses.

    `code` is stable and dotted, `zh` and `en` are for people, `details` are for programs. `retry_after_s` is in seconds.
    """

    status: ClassVar[grpc.StatusCode]
    http_status: ClassVar[int]

    def __init__(
        self,
        code: str,
        zh: str,
        en: str,
        *,
        details: Mapping[str, str] | None = None,
        fields: Sequence[FieldViolation] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {en}")
        self.code = code
        self.zh = zh
        self.en = en
        self.details = dict(details or {})
        self.fields = tuple(fields)
        self.retry_after_s = retry_after_s


class Invalid(ServiceError):
    """The request itself is wrong, whatever the state of the system."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


def malformed(field: str, text: str, code: str) -> Invalid:
    """The error for an event that cannot be; `text` says what its `field` must be."""
    return Invalid(code, "事件内容有误", "This event cannot be", fields=[FieldViolation(field, code, text)])


class Unauthenticated(ServiceError):
    """Nobody we know is asking."""

    status = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class Denied(ServiceError):
    """We know who asks, and they may not."""

    status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403


class NotFound(ServiceError):
    """It does not exist, or the caller may not know that it does."""

    status = grpc.StatusCode.NOT_FOUND
    http_status = 404


class Conflict(ServiceError):
    """The request is fine, the state of the thing does not allow it."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409


class Exhausted(ServiceError):
    """A limit is reached; `retry_after_s` says when to try again."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429


class Unavailable(ServiceError):
    """Something we depend on does not answer; trying again is right."""

    status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class Internal(ServiceError):
    """A defect on the other side of a call. Never raised on purpose; what it says is the same for every defect."""

    status = grpc.StatusCode.INTERNAL
    http_status = 500

    def __init__(self) -> None:
        super().__init__("internal", "服务内部错误，请稍后再试", "Something went wrong on our side; please try again later")


FAMILY: tuple[type[ServiceError], ...] = (
    Invalid,
    Unauthenticated,
    Denied,
    NotFound,
    Conflict,
    Exhausted,
    Unavailable,
)
_BY_STATUS = {kind.status: kind for kind in FAMILY}


def to_status(error: ServiceError) -> bytes:
    """The error as a serialized google.rpc.Status, for the `grpc-status-details-bin` trailer."""
    details: list[Any] = []

    def add(
        message: error_details_pb2.ErrorInfo | error_details_pb2.LocalizedMessage | error_details_pb2.BadRequest,
    ) -> None:
        packed = Any()
        packed.Pack(message)
        details.append(packed)

    metadata = dict(error.details)
    if error.retry_after_s is not None:
        metadata["retry_after_s"] = str(error.retry_after_s)
    add(error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=metadata))
    add(error_details_pb2.LocalizedMessage(locale="zh", message=error.zh))
    add(error_details_pb2.LocalizedMessage(locale="en", message=error.en))
    if error.fields:
        violations = [error_details_pb2.BadRequest.FieldViolation(field=f.field, reason=f.code, description=f.text) for f in error.fields]
        add(error_details_pb2.BadRequest(field_violations=violations))
    status = status_pb2.Status(code=error.status.value[0], message=error.en, details=details)
    serialized: bytes = status.SerializeToString()
    return serialized


def from_status(code: grpc.StatusCode, serialized: bytes | None) -> ServiceError:
    """The error that crossed a gRPC call. What carries none of our details is Unavailable or Internal, by its gRPC status."""
    if serialized is None:
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            return Unavailable(
                "unavailable",
                "服务暂时不可用，请稍后再试",
                "The service does not answer; please try again",
                retry_after_s=1,
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return NotFound("method_not_found", "该服务未启用", "This service is not running here")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Exhausted(
                "too_large_or_too_many",
                "请求过大或过于频繁",
                "The request is too large or too frequent",
                retry_after_s=1,
            )
        return Internal()
    status = status_pb2.Status.FromString(serialized)
    reason, texts, metadata = "internal", {"zh": "", "en": status.message}, {}
    fields: list[FieldViolation] = []
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.LocalizedMessage.DESCRIPTOR):
            text = error_details_pb2.LocalizedMessage.FromString(detail.value)
            texts[text.locale] = text.message
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            fields = [FieldViolation(v.field, v.reason, v.description) for v in bad.field_violations]
    kind = _BY_STATUS.get(code)
    if kind is None:
        return Internal()
    retry_after = metadata.pop("retry_after_s", None)
    return kind(
        reason,
        texts["zh"],
        texts["en"],
        details=metadata,
        fields=fields,
        retry_after_s=None if retry_after is None else int(retry_after),
    )
