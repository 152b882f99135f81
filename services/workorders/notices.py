"""What people are told about work orders. Texts name an order by its number alone: they are read on lock screens."""

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from linli.notification.v1.events_pb2 import Notified
from servicekit.database import Transaction
from services.workorders.orders import Order, Target

Texts = tuple[str, str]

# By the action of the step. Actions that are absent concern nobody who has to be told.
_TO_REPORTER: Final[Mapping[str, Texts]] = {
    "triaged": ("已受理", "has been looked at"),
    "offered": ("正在安排人员", "is being given to somebody"),
    "opened": ("正在安排人员", "is being given to somebody"),
    "dispatched": ("已派单", "has been given to somebody"),
    "accepted": ("已有人接单", "has been accepted"),
    "planned": ("已约定上门时间，请查看", "has an agreed time of visit, please look"),
    "arrived": ("处理人员已到场", "somebody is on site"),
    "paused": ("处理暂停，请查看原因", "is on hold, please see why"),
    "resumed": ("已恢复处理", "goes on"),
    "quoted": ("有新的报价待您确认", "has a quote that waits for your answer"),
    "done": ("已完成，请确认", "is done, please confirm"),
    "paid": ("已收到付款", "is paid"),
    "refunded": ("款项已退回", "was refunded"),
    "confirmed": ("已确认完成", "is confirmed as done"),
    "reopened": ("已重新处理", "was opened again"),
    "cancelled": ("已取消", "was cancelled"),
    "commented": ("有新的留言", "has a new comment"),
    "followed_up": ("有新的回访记录", "has a new note of a follow-up"),
    "linked": ("已并入同一问题的工单", "was joined to another about the same thing"),
    "unlinked": ("已恢复单独处理", "is on its own again"),
}
_TO_TECHNICIAN: Final[Mapping[str, Texts]] = {
    "offered": ("待您接单", "is offered to you"),
    "dispatched": ("已派给您，请接单", "was given to you, please accept it"),
    "planned": ("已约定上门时间", "has an agreed time of visit"),
    "resumed": ("可以继续处理", "can go on"),
    "agreed": ("报价已获同意", "has its quote agreed to"),
    "refused": ("报价被拒绝", "has its quote refused"),
    "paid": ("已付款", "is paid"),
    "confirmed": ("已由报单人确认", "is confirmed by its reporter"),
    "rated": ("已收到评价", "was rated"),
    "reopened": ("已被重新打开", "was opened again"),
    "cancelled": ("已取消", "was cancelled"),
    "commented": ("有新的留言", "has a new comment"),
    "passed_on": ("已转给他人", "has gone to somebody else"),
}
_TARGETS: Final[Mapping[Target, Texts]] = {
    Target.RESPONSE: ("响应", "response"),
    Target.ON_SITE: ("到场", "arrival"),
    Target.DONE: ("完成", "completion"),
}


def tell(tx: Transaction, account_ids: Iterable[UUID], order: Order, kind: str, texts: Texts) -> None:
    """Tells each account, once, of an order: `kind` is a stable name, the texts say what there is about the order."""
    zh, en = texts
    for account_id in dict.fromkeys(account_ids):
        notified = Notified(
            account_id=str(account_id),
            kind=f"workorders.{kind}",
            text_zh=f"工单 #{order.number} {zh}",
            text_en=f"Work order #{order.number} {en}",
            link=f"/v1/work-orders/{order.order_id}",
        )
        tx.publish(notified, community_id=order.community_id)


def tell_step(tx: Transaction, before: Order, after: Order, action: str, account_id: UUID | None) -> None:
    """Tells of a step whom it concerns and who did not take it: the reporter, and the technician that has, is offered or has had it."""
    to_reporter = _TO_REPORTER.get(action)
    # The next offer of the same order, and that it was triaged by itself, are nothing to a reporter.
    is_news = after.state != before.state or action not in ("offered", "opened", "dispatched")
    if to_reporter and is_news and after.reporter_account_id not in (None, account_id) and (action != "triaged" or account_id):
        assert after.reporter_account_id is not None
        tell(tx, [after.reporter_account_id], after, action, to_reporter)
    to_technician = _TO_TECHNICIAN.get(action)
    if to_technician:
        now = after.offered_to_account_id or after.technician_account_id
        technician = before.technician_account_id if action in ("reopened", "passed_on") else now or before.offered_to_account_id
        if technician not in (None, account_id, after.reporter_account_id):
            assert technician is not None
            tell(tx, [technician], after, action, to_technician)


def warning(target: Target, percent: str) -> Texts:
    """That so much of a promise's time has run."""
    zh, en = _TARGETS[target]
    return f"{zh}时限已过 {percent}%", f"has used {percent} % of the time for its {en}"


def missed(target: Target) -> Texts:
    """That a promise was missed, for those of the chain."""
    zh, en = _TARGETS[target]
    return f"{zh}已超时", f"has missed the time for its {en}"


def sorry(target: Target) -> Texts:
    """That a promise was missed, for the reporter."""
    zh, en = _TARGETS[target]
    return f"{zh}未能按时，已上报督办", f"is late with its {en}; we have told those in charge"
