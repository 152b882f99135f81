"""What billing does when something happened elsewhere: one function for each event that it consumes."""

from typing import Final

from linli.billing.v1.events_pb2 import ChargeRaised, ChargeWithdrawn
from servicekit.database import Transaction
from servicekit.errors import malformed
from servicekit.events import Received
from servicekit.identifiers import to_id
from servicekit.times import to_datetime
from services.billing import operations
from services.billing.charges import AMOUNT_MAX_FEN, Charge, ChargeState

_MALFORMED: Final = "billing.charge_malformed"


async def raise_charge_on_charge_raised(tx: Transaction, event: Received[ChargeRaised]) -> None:
    """A charge is due. What cannot be a charge raises Invalid, and ends among the dead letters."""
    raised = event.message
    if not 0 < raised.amount_fen <= AMOUNT_MAX_FEN:
        raise malformed("amount_fen", "must be positive and below a thousand million yuan", _MALFORMED)
    charge = Charge(
        charge_id=to_id(raised.charge_id, "charge_id", _MALFORMED),
        origin=raised.origin,
        origin_id=raised.origin_id,
        amount_fen=raised.amount_fen,
        text_zh=raised.text_zh,
        text_en=raised.text_en,
        state=ChargeState.DUE,
        payable_until=to_datetime(raised.payable_until, "payable_until"),
        raised_at=event.occurred_at,
        replaces_charge_id=to_id(raised.replaces_charge_id, "replaces_charge_id", _MALFORMED) if raised.replaces_charge_id else None,
    )
    if "\0" in charge.origin + charge.origin_id + charge.text_zh + charge.text_en:
        raise malformed("text_zh", "must hold no NUL", _MALFORMED)
    await operations.raise_charge(tx, charge)


async def withdraw_charge_on_charge_withdrawn(tx: Transaction, event: Received[ChargeWithdrawn]) -> None:
    """Nothing is owed any more. Raises NotFound while the charge has not come, so that this comes again."""
    await operations.withdraw_charge(tx, to_id(event.message.charge_id, "charge_id", _MALFORMED))
