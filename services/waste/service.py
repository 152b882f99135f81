"""Waste: bins weigh what residents bring, and are emptied before they overflow. Read this first."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from linli.device.v1.events_pb2 import BinDeposited, BinReported, DeviceOffline, DeviceOnline
from linli.waste.v1 import waste_pb2
from linli.waste.v1.events_pb2 import BinAlarmCleared, BinAlarmRaised, DepositCounted, DepositWithdrawn
from servicekit import communities, households
from servicekit.config import SettingsError
from servicekit.messaging import on, on_batch
from servicekit.service import Running, Service, contract, every, every_outside
from services.waste import bin_operations, planning, reactions, rpc
from services.waste.codes import CodeSigner


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The key that signs what residents' phones show to bins."""

    # 32 bytes in base64.
    code_key: str


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What the operations find in their transactions. Raises SettingsError."""
    settings: Settings = running.settings
    try:
        signer = CodeSigner(settings.code_key)
    except ValueError:
        raise SettingsError("LINLI_WASTE_CODE_KEY is wrong: it must be 32 bytes in base64") from None
    yield [signer]


SERVICE = Service(
    name="waste",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(waste_pb2.DESCRIPTOR, "WasteService", rpc),
    resources=open_resources,
    publishes=[DepositCounted, DepositWithdrawn, BinAlarmRaised, BinAlarmCleared],
    consumes=[
        on_batch(BinDeposited, reactions.judge_deposits_on_bin_deposited),
        on_batch(BinReported, reactions.hear_bins_on_bin_reported),
        on(DeviceOffline, reactions.raise_silence_on_device_offline),
        on(DeviceOnline, reactions.clear_silence_on_device_online),
        communities.FOLLOWED,
        households.FOLLOWED,
    ],
    jobs=[
        every(minutes=1, run=bin_operations.forget_old),
        every_outside(minutes=5, run=planning.plan_tonight),
    ],
)
