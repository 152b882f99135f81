"""Ties: somebody lives here, works here, or is let in by a rule of their own. With the last tie ends what is kept of them.

The purpose of templates, cards and consents is to let somebody in; without it they are deleted (Personal Information Protection Law art. 19
and 47). Doors shut at once, the rest waits for a day: whoever moves within the community leaves one household before joining the next, and
of two households the news come in any order. Whoever comes back later begins anew: nobody knows who has their card by then.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.timers import Due, set_timers
from services.access import care_operations, consent_operations, credential_operations, credential_store, door_operations, door_store
from services.access.entries import LEAVING, WhomKind

TIES: Final = "ties_end"


async def watch(tx: Transaction, account_ids: Iterable[UUID]) -> None:
    """Has looked at in a day who has just lost a tie."""
    await set_timers(tx, [Due(TIES, account_id, "", tx.now + LEAVING) for account_id in account_ids])


async def judge(tx: Transaction, due: Due) -> None:
    """Ends what somebody had by a tie, unless there is another by now."""
    await _judge(tx, due.subject_id)


async def _judge(tx: Transaction, account_id: UUID) -> None:
    await care_operations.part_households(tx, account_id)
    if not await credential_store.is_known(tx, account_id):
        await consent_operations.end_all(tx, account_id)
        await credential_operations.end_all(tx, account_id)


async def forget_rule(tx: Transaction, due: Due) -> None:
    """A rule has ended a day ago: nobody is inside by it any more, and terminals forget those whom nothing else lets in."""
    rule = await door_store.find_rule(tx, due.subject_id)
    if rule is None or rule.times.valid_until is None or tx.now < rule.times.valid_until + LEAVING:
        return
    await door_operations.refresh_whom(tx, rule.whom)
    kind, name = rule.whom
    if kind is WhomKind.ACCOUNT and isinstance(name, UUID):
        await _judge(tx, name)
