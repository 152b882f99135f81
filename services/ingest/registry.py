"""Devices in memory: a hundred pushes a second must not each read the database, nor each write when the device was last heard.

What is known of a device is used for a few seconds, refreshed beside the requests, and dropped when the device changes. While the
database is away it stays in use, for nobody can change a credential then. Devices that are asked for meanwhile are read together: all of
them come back at once when the broker does. Contacts are gathered and written together.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from servicekit import telemetry
from servicekit.clock import Clock
from servicekit.database import PLATFORM, Database
from servicekit.errors import Unavailable
from servicekit.rpc import Call
from services.ingest import store
from services.ingest.devices import DEVICE_ID, SILENCE_MAX, KnownDevice

# Used as it is, then refreshed beside the request that used it, then waited for.
_FRESH_S = 5.0
_STALE_S = 10.0
# A device that is not there may be registered any moment, and a secret that does not fit may be a new one.
_DOUBT_S = 1.0
_ENTRIES_MAX = 50_000


@dataclass(frozen=True, slots=True)
class _Entry:
    known: KnownDevice | None
    loaded_at: float


class Registry:
    """The devices that were asked for lately."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._loading: dict[str, asyncio.Future[KnownDevice | None]] = {}
        # Those of them that the next read takes.
        self._asked: dict[str, asyncio.Future[KnownDevice | None]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._seen: dict[str, datetime] = {}
        self._irregular: Counter[str] = Counter()

    async def find(self, device_id: str) -> KnownDevice | None:
        """A device of any community; None when there is none. Raises Unavailable when the database is away and we never knew."""
        entry = self._entries.get(device_id)
        if entry is None:
            return await self._load(device_id) if DEVICE_ID.fullmatch(device_id) else None
        age_s = monotonic() - entry.loaded_at
        if age_s < (_FRESH_S if entry.known else _DOUBT_S):
            return entry.known
        if entry.known is None or age_s >= _STALE_S:
            return await self._load(device_id)
        self._start_loading(device_id)
        return entry.known

    async def find_if(self, device_id: str, fits: Callable[[KnownDevice], bool]) -> KnownDevice | None:
        """The device, if it fits. One that does not is looked up again before it is refused, for it may have changed a moment ago."""
        known = await self.find(device_id)
        if known is None or fits(known):
            return known
        entry = self._entries.get(device_id)
        if entry is None or monotonic() - entry.loaded_at > _DOUBT_S:
            known = await self._load(device_id)
        return known if known is not None and fits(known) else None

    def forget(self, device_id: str) -> None:
        """Drops what is known of a device, because it has changed; what is being read now is not kept either."""
        self._entries.pop(device_id, None)
        self._loading.pop(device_id, None)

    def seen(self, device_id: str) -> None:
        """Notes that a device was heard now."""
        self._seen[device_id] = self._clock()

    def is_registered(self, known: KnownDevice, address: str) -> bool:
        """Whether a GA/T 1400 device registered from this address and has not fallen silent since."""
        times = [time for time in (known.last_seen_at, self._seen.get(known.device_id)) if time is not None]
        return known.registered_address == address and bool(times) and self._clock() - max(times) <= SILENCE_MAX

    def count_irregular(self, device_id: str) -> None:
        """Counts a record whose own id was unusable."""
        self._irregular[device_id] += 1

    async def write_contacts(self) -> None:
        """Writes what was gathered since the last time; what cannot be written is kept for the next."""
        seen, self._seen = self._seen, {}
        irregular, self._irregular = self._irregular, Counter()
        device_ids = sorted(seen.keys() | irregular.keys())
        if not device_ids:
            return
        try:
            async with self._database.transaction(PLATFORM) as tx:
                await store.update_contacts(tx, device_ids, [seen.get(i) for i in device_ids], [irregular[i] for i in device_ids])
        except BaseException:
            self._seen = seen | self._seen
            self._irregular.update(irregular)
            raise

    async def _load(self, device_id: str) -> KnownDevice | None:
        try:
            return await asyncio.shield(self._start_loading(device_id))
        except Unavailable:
            entry = self._entries.get(device_id)
            if entry is None or entry.known is None:
                raise
            return entry.known

    def _start_loading(self, device_id: str) -> asyncio.Future[KnownDevice | None]:
        loading = self._loading.get(device_id)
        if loading is None:
            loading = self._asked.get(device_id)  # Forgotten before it was read.
            if loading is None:
                loading = self._asked[device_id] = asyncio.get_running_loop().create_future()
                loading.add_done_callback(lambda done: self._loaded(device_id, done))
            self._loading[device_id] = loading
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
        return loading

    async def _read(self) -> None:
        """Reads what was asked for until nothing is."""
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                await self._read_together(asked)
        finally:
            self._reading = None

    async def _read_together(self, asked: Mapping[str, asyncio.Future[KnownDevice | None]]) -> None:
        try:
            async with self._database.transaction(PLATFORM) as tx:
                found = await store.select_known_devices(tx, list(asked))
        except Exception as error:
            telemetry.log.warning("devices_not_read", devices=len(asked), error=type(error).__name__)
            for loading in asked.values():
                loading.set_exception(error)
            return
        devices = {known.device_id: known for known in found}
        for device_id, loading in asked.items():
            loading.set_result(devices.get(device_id))

    def _loaded(self, device_id: str, loading: asyncio.Future[KnownDevice | None]) -> None:
        error = loading.exception()
        if self._loading.get(device_id) is not loading:
            return  # Forgotten while it was read.
        del self._loading[device_id]
        if error is None:
            if len(self._entries) >= _ENTRIES_MAX:
                self._entries.clear()
            self._entries[device_id] = _Entry(loading.result(), monotonic())


async def write_contacts(call: Call) -> None:
    """Writes when devices were last heard."""
    await call.resource(Registry).write_contacts()
