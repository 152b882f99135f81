"""What must always be true of a ledger, as questions to a live database: each answers with what breaks it, with nothing when it holds."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger import audit_store

if TYPE_CHECKING:
    from servicekit.database import Connection

BROKEN_MAX: Final = 10

INVARIANTS: Final = {
    "postings of every transfer sum to zero in each unit": audit_store.POSTINGS_SUM_TO_ZERO,
    "a balance is the sum of its entries": audit_store.BALANCES_ARE_SUMS,
    "versions have no gap": audit_store.VERSIONS_HAVE_NO_GAP,
    "floors hold": audit_store.FLOORS_HOLD,
    "balances chain": audit_store.BALANCES_CHAIN,
    "instants never go back": audit_store.INSTANTS_NEVER_GO_BACK,
    "entries are what transfers posted": audit_store.ENTRIES_ARE_POSTINGS,
    "a transfer exists, is reversed and is resolved once": audit_store.TRANSFERS_EXIST_ONCE,
    "what is held is what open holds take": audit_store.HELD_IS_WHAT_HOLDS_TAKE,
    "open holds are the unresolved pending transfers": audit_store.HOLDS_ARE_UNRESOLVED,
    "reversals and resolutions name a transfer": audit_store.REFERENCES_LEAD_SOMEWHERE,
    "closed accounts are empty": audit_store.CLOSED_ACCOUNTS_ARE_EMPTY,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What breaks an invariant: ids of accounts or transfers, or an account's with a version; at most BROKEN_MAX. Nothing: it holds."""

    invariant: str
    broken: tuple[str, ...]


async def audit(connection: "Connection") -> AsyncIterator[Finding]:
    """Checks every invariant for all communities. Millions of entries take minutes; a connection with a short timeout will not do."""
    for invariant, question in INVARIANTS.items():
        yield Finding(invariant, await audit_store.find_broken(connection, question))
