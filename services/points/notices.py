"""What residents are told about their points."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from linli.notification.v1.events_pb2 import Notified
from servicekit.database import Transaction

MY_ENTRIES: Final = "/v1/me/points/entries"


@dataclass(frozen=True, slots=True)
class Notice:
    """One account is told something; `kind` is a stable name for programs."""

    community_id: UUID
    account_id: UUID
    kind: str
    text_zh: str
    text_en: str
    link: str = MY_ENTRIES


def household_entries(household_id: UUID) -> str:
    """Where a household's entries are read."""
    return f"/v1/households/{household_id}/points/entries"


def tell(tx: Transaction, notice: Notice) -> None:
    """Tells one account, of the community that the transaction is in, or of any in the platform scope."""
    notified = Notified(
        account_id=str(notice.account_id), kind=notice.kind, text_zh=notice.text_zh, text_en=notice.text_en, link=notice.link
    )
    tx.publish(notified, community_id=notice.community_id)
