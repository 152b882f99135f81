"""The register of devices through its contract, and what ingest tells of devices that come and go."""

from pathlib import Path

import httpx
import pytest

from linli.device.v1.events_pb2 import DeviceChanged, DeviceOffline, DeviceOnline
from linli.ingest.v1.ingest_pb2 import (
    DisableDeviceRequest,
    GetDeviceRequest,
    ListDevicesRequest,
    RegisterDeviceRequest,
    RotateSecretRequest,
)
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from services.ingest.devices import Kind
from tests.ingest.fleet import CAMERA, EDGE_BOX, GATE, INGEST, VIID_CAMERA, Fleet, fleet
from tests.support import Servers, TestClock, eventually, principal


async def test_a_device_is_registered_and_its_secret_is_shown_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        secret = await town.register("new-1", Kind.PLATE_CAMERA)
        assert len(secret) == 24
        device = await town.device("new-1")
        assert (device.device_id, device.name, device.kind, device.online, device.disabled) == ("new-1", "new-1", 1, False, False)
        assert secret not in str(device)
        async with town.running.transaction("ingest", PLATFORM) as tx:
            for table in ("devices", "outbox", "idempotency_keys"):
                for row in await tx.fetch(f"SELECT t::text AS text FROM {table} t"):
                    assert secret not in row["text"]
                    assert secret.encode().hex() not in row["text"]
        changed = await town.running.event(DeviceChanged, lambda event: event.aggregate == "new-1")
        assert not changed.message.disabled


async def test_an_id_is_taken_whichever_community_has_it(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        stranger = town.running.caller(principal("ingest.devices.read", "ingest.devices.write"))
        refusals = []
        for caller in (town.caller, stranger):
            with pytest.raises(Conflict) as refused:
                await town.register(CAMERA, Kind.GATE, caller)
            refusals.append((refused.value.code, refused.value.en, refused.value.details))
        assert refusals[0] == refusals[1]
        assert refusals[0][0] == "ingest.device_exists"


async def test_a_device_of_another_community_cannot_be_seen_or_changed(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        stranger = town.running.caller(principal("ingest.devices.read", "ingest.devices.write"))
        for method, request in [
            ("GetDevice", GetDeviceRequest(device_id=CAMERA)),
            ("RotateSecret", RotateSecretRequest(device_id=CAMERA)),
            ("DisableDevice", DisableDeviceRequest(device_id=CAMERA)),
            ("GetDevice", GetDeviceRequest(device_id="nobody")),
        ]:
            with pytest.raises(NotFound):
                await stranger.call(f"{INGEST}/{method}", request)
        assert not (await stranger.call(f"{INGEST}/ListDevices", ListDevicesRequest())).devices
        assert not (await town.device(CAMERA)).disabled


async def test_only_who_may_write_devices_registers_them(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        reader = town.running.caller(principal("ingest.devices.read", community_id=town.community_id))
        with pytest.raises(Denied):
            await town.register("new", Kind.GATE, reader)
        for wrong in (
            {"device_id": "a b"},
            {"device_id": ""},
            {"device_id": "a.b"},
            {"device_id": "a" * 65},
            {"name": ""},
            {"kind": 0},
            {"kind": 99},
        ):
            request = RegisterDeviceRequest(**{"device_id": "new", "name": "n", "kind": 1, **wrong})  # type: ignore[arg-type]
            with pytest.raises(Invalid):
                await town.caller.call(f"{INGEST}/RegisterDevice", request)


async def test_devices_are_listed_by_id_a_page_at_a_time(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        found: list[str] = []
        token = ""
        while True:
            answer = await town.caller.call(f"{INGEST}/ListDevices", ListDevicesRequest(page_size=3, page_token=token))
            assert len(answer.devices) <= 3
            found += [device.device_id for device in answer.devices]
            token = answer.next_page_token
            if not token:
                break
        assert found == sorted([CAMERA, VIID_CAMERA, EDGE_BOX, GATE])
        with pytest.raises(Invalid):
            await town.caller.call(f"{INGEST}/ListDevices", ListDevicesRequest(page_token="garbage"))


async def test_a_disabled_device_is_refused_at_once_and_for_good(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        assert await heartbeat(town) == 200
        disabled = await town.caller.call(f"{INGEST}/DisableDevice", DisableDeviceRequest(device_id=CAMERA))
        assert disabled.disabled

        async def refused() -> bool:
            return await heartbeat(town) == 401

        await eventually(refused, deadline_s=2)
        rotated = await town.caller.call(f"{INGEST}/RotateSecret", RotateSecretRequest(device_id=CAMERA))
        town.secrets[CAMERA] = rotated.secret
        assert await heartbeat(town) == 401


async def heartbeat(town: Fleet) -> int:
    return (await town.push({"heartbeat": {}})).status_code


async def test_a_device_that_is_registered_after_it_was_refused_is_let_in(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        answer = await town.http.post("/devices/plate", json={"heartbeat": {}}, auth=httpx.BasicAuth("late", "x"))
        assert answer.status_code == 401
        await town.register("late", Kind.PLATE_CAMERA)

        async def let_in() -> bool:
            return (await town.push({"heartbeat": {}}, "late")).status_code == 200

        await eventually(let_in, deadline_s=3)


async def test_requests_are_served_from_memory_while_the_database_is_away(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        assert await heartbeat(town) == 200
        servers.postgres.kill()
        try:
            assert await heartbeat(town) == 200
            unknown = await town.http.post("/devices/plate", json={"heartbeat": {}}, auth=httpx.BasicAuth("unknown", "x"))
            assert (unknown.status_code, unknown.json()["code"]) == (503, "database.unavailable")
            assert int(unknown.headers["retry-after"]) >= 1
        finally:
            servers.postgres.restart()


async def test_a_device_comes_and_goes_and_each_turn_is_told_once(servers: Servers, tmp_path: Path) -> None:
    clock = TestClock()
    async with fleet(servers, tmp_path, clock=clock) as town:
        await town.turn()
        assert not (await town.device(CAMERA)).online
        await heartbeat(town)
        await town.turn()
        device = await town.device(CAMERA)
        assert (device.online, device.last_seen_at.ToDatetime(clock().tzinfo)) == (True, clock())
        for _ in range(3):
            clock.advance(seconds=89)
            await town.turn()
        assert (await town.device(CAMERA)).online
        clock.advance(seconds=4)
        await town.turn()
        assert not (await town.device(CAMERA)).online
        await heartbeat(town)
        await town.turn()

        await town.running.event(DeviceOffline)

        async def twice() -> bool:
            return len(set(turns(town, DeviceOnline))) >= 2

        await eventually(twice)
        online, offline = set(turns(town, DeviceOnline)), set(turns(town, DeviceOffline))
        assert (len(online), len(offline)) == (2, 1)
        assert len({version for _, _, version in online | offline}) == 3
        assert {aggregate for _, aggregate, _ in online | offline} == {CAMERA}


def turns(town: Fleet, kind: type[DeviceOnline] | type[DeviceOffline]) -> list[tuple[str, str, int]]:
    """What was told; the broker may be given one event twice, under one id."""
    return [(event.event_id, event.aggregate, event.version) for event in town.running.events(kind)]


async def test_a_disabled_device_goes_offline(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await heartbeat(town)
        await town.turn()
        await town.caller.call(f"{INGEST}/DisableDevice", DisableDeviceRequest(device_id=CAMERA))
        await town.turn()
        assert (await town.running.event(DeviceOffline)).message.device_id == CAMERA
