"""What waste does when it hears of something. Bins may say anything: what is no time or no text is made into one that can be kept."""

import hashlib
from collections.abc import Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from linli.device.v1.events_pb2 import BinDeposited, BinReported, DeviceOffline, DeviceOnline
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.times import to_datetime_or
from services.waste import bin_operations, clocks, deposit_operations
from services.waste.bin_operations import Report
from services.waste.deposit_operations import Weighed
from services.waste.operations import normal_card_number

# Nothing that is right is longer. What is, is kept by its beginning and a digest of all, so that it is still told from others.
_TEXT_LENGTH_MAX: Final = 128
_BEGINNING: Final = 64


async def judge_deposits_on_bin_deposited(tx: Transaction, events: Sequence[Received[BinDeposited]]) -> None:
    """Judges and keeps all deposits that wait."""
    await deposit_operations.take_deposits(tx, [_weighed(event) for event in events])


def _weighed(event: Received[BinDeposited]) -> Weighed:
    said = event.message
    return Weighed(
        community_id=event.community_id,
        device_id=_text(said.device_id),
        record_id=_text(said.record_id),
        card_number=normal_card_number(_text(said.card_number)),
        code=_text(said.code),
        compartment=_text(said.compartment),
        grams=said.grams,
        fill_permille=said.fill_permille,
        said_us=_said_us(said.occurred_at) if said.HasField("occurred_at") else None,
        received_at=to_datetime_or(said.received_at, event.occurred_at),
    )


async def hear_bins_on_bin_reported(tx: Transaction, events: Sequence[Received[BinReported]]) -> None:
    """Takes in all reports that wait."""
    await bin_operations.hear_reports(tx, [_report(event) for event in events])


def _report(event: Received[BinReported]) -> Report:
    said = event.message
    return Report(
        community_id=event.community_id,
        device_id=_text(said.device_id),
        fills=dict(said.fill_permille),
        smoke=said.smoke,
        temperature_c=said.temperature_c if said.HasField("temperature_c") else None,
        said_us=_said_us(said.occurred_at) if said.HasField("occurred_at") else None,
        received_at=to_datetime_or(said.received_at, event.occurred_at),
    )


def _text(text: str) -> str:
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(clean) <= _TEXT_LENGTH_MAX:
        return clean
    return f"{clean[:_BEGINNING]}…{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _said_us(timestamp: Timestamp) -> int | None:
    return clocks.possible(timestamp.seconds * clocks.SECOND_US + timestamp.nanos // 1000)


async def raise_silence_on_device_offline(tx: Transaction, event: Received[DeviceOffline]) -> None:
    """A bin that is not heard any more needs somebody."""
    await bin_operations.note_status(tx, event.message.device_id, event.version, is_heard=False, at=event.occurred_at)


async def clear_silence_on_device_online(tx: Transaction, event: Received[DeviceOnline]) -> None:
    """A bin that is heard again does not."""
    await bin_operations.note_status(tx, event.message.device_id, event.version, is_heard=True, at=event.occurred_at)
