"""The errors that refusals become, with their texts for people."""

from ledger.transfers import DETAILS_MAX, POSTINGS_MAX, Refusal
from servicekit.errors import Conflict, Invalid, NotFound, ServiceError

_ERRORS: dict[Refusal, tuple[type[ServiceError], str, str]] = {
    Refusal.UNBALANCED: (Invalid, "借贷不平", "The postings do not sum to zero in each unit"),
    Refusal.OVERFLOW: (Invalid, "数额过大", "An amount or a balance does not fit 64 bits"),
    Refusal.ZERO_AMOUNT: (Invalid, "数额不能为零", "A posting of zero moves nothing"),
    Refusal.ACCOUNT_NAMED_TWICE: (Invalid, "同一账户出现两次", "The postings name an account twice"),
    Refusal.NO_POSTINGS: (Invalid, "没有分录", "A transfer needs postings"),
    Refusal.TOO_MANY_POSTINGS: (Invalid, f"分录超过 {POSTINGS_MAX} 条", f"A transfer has at most {POSTINGS_MAX} postings"),
    Refusal.DETAILS: (Invalid, "类型或附加信息无效", f"The kind or the details, at most {DETAILS_MAX} short ones, are not valid"),
    Refusal.REVERSAL_PENDING: (Invalid, "冲正交易不能待定", "A transfer that reverses another cannot be pending"),
    Refusal.ACCOUNT_INVALID: (Invalid, "账户单位或下限无效", "The unit or the floor of an account is not valid; a floor is 0 or less"),
    Refusal.ACCOUNT_NOT_FOUND: (NotFound, "账户不存在", "There is no such account"),
    Refusal.PENDING_NOT_FOUND: (NotFound, "没有这笔待定交易", "There is no such pending transfer"),
    Refusal.TRANSFER_NOT_FOUND: (NotFound, "没有这笔交易", "There is no such transfer"),
    Refusal.INSUFFICIENT: (Conflict, "余额不足", "The balance does not suffice"),
    Refusal.ACCOUNT_CLOSED: (Conflict, "账户已关闭", "The account is closed"),
    Refusal.ACCOUNT_NOT_EMPTY: (Conflict, "账户尚有余额或待定交易", "The account has a balance or pending transfers"),
    Refusal.ACCOUNT_DIFFERS: (Conflict, "同一编号的账户内容不同", "An account with this id and other content exists"),
    Refusal.TRANSFER_DIFFERS: (Conflict, "同一编号的交易内容不同", "A transfer with this id and other content exists"),
    Refusal.TRANSFER_NOT_POSTED: (Conflict, "该交易尚未入账，不能冲正", "The transfer has not taken effect, so it cannot be reversed"),
    Refusal.PENDING_RESOLVED: (Conflict, "待定交易已处理", "The pending transfer has been posted or voided"),
    Refusal.PENDING_EXPIRED: (Conflict, "待定交易已过期", "The pending transfer has expired"),
    Refusal.REVERSED_ALREADY: (Conflict, "该交易已冲正", "The transfer has been reversed before"),
    Refusal.STATEMENT_TOO_LONG: (Invalid, "期间内的记录过多，请缩短期间", "The period has too many entries; ask for a shorter one"),
}


def error_of(refusal: Refusal) -> ServiceError:
    """The error that tells a caller of a refusal."""
    kind, zh, en = _ERRORS[refusal]
    return kind(refusal.value, zh, en)
