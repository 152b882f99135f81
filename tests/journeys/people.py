"""Who takes part in a journey: phones, staff, cameras and gates, each through its own protocol only."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest

from console.demonstration import Demonstration, DemonstrationLane
from console.environment import newest_code
from console.seed.lots import open_lane
from console.simulator.cameras import PushCamera, ViidCamera
from console.simulator.gates import Gate
from console.simulator.terminals import ConnectedTerminal, Terminal
from servicekit.clock import Clock, system_clock
from tests.support import eventually

T = TypeVar("T")
# How `linli up` runs the services of a test of which one way says enough.
ALL_IN_ONE = pytest.mark.parametrize("up", [()], indirect=True, ids=["all in one"])
ONE_PROCESS_EACH = pytest.mark.parametrize("up", [("--separate",)], indirect=True, ids=["one process each"])


@dataclass(slots=True)
class Phone:
    """A signed-in app."""

    client: httpx.AsyncClient
    url: str
    token: str = ""

    async def request(self, verb: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """One request; keywords are headers with `_` for `-`."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        if self.token:
            named["Authorization"] = f"Bearer {self.token}"
        return await self.client.request(verb, f"{self.url}{path}", json=body, headers=named)

    async def call(self, verb: str, path: str, body: object = None, **headers: str) -> Any:
        """One request that must succeed; returns its JSON."""
        answer = await self.request(verb, path, body, **headers)
        assert answer.is_success, f"{verb} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    @asynccontextmanager
    async def listening(self, told: "Told | None" = None) -> AsyncIterator["Told"]:
        """What this account is told live for as long as the block, after what `told` has heard already."""
        heard = told or Told()
        headers = {"Authorization": f"Bearer {self.token}", "Accept-Language": "en"}
        if heard.last_id:
            headers["Last-Event-ID"] = heard.last_id
        async with self.client.stream("GET", f"{self.url}/v1/me/notifications", headers=headers, timeout=None) as stream:
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            assert await anext(lines, None) is not None
            heard.ended.clear()
            task = asyncio.create_task(heard.hear(lines))
            try:
                yield heard
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def rows(self, path: str, name: str) -> list[Any]:
        """Every row of a list that answers with `name`, page by page. `path` has a query."""
        found: list[Any] = []
        token = ""
        while True:
            page = await self.call("GET", f"{path}&page_size=100&page_token={token}")
            found += page[name]
            token = page["next_page_token"]
            if not token:
                return found


@dataclass(slots=True)
class Told:
    """What an account was told, and where it can go on listening."""

    notices: list[Any] = field(default_factory=list)
    last_id: str = ""
    # Set when the stream breaks off.
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, lines: AsyncIterator[str]) -> None:
        """Takes in a stream until it ends."""
        try:
            async for line in lines:
                if line.startswith("id:"):
                    self.last_id = line[3:].strip()
                elif line.startswith("data:"):
                    self.notices.append(msgspec.json.decode(line[5:]))
        finally:
            self.ended.set()

    def of(self, link: str) -> list[str]:
        """The kinds of what it was told about one thing, in order."""
        return [notice["kind"] for notice in self.notices if notice["link"] == link]

    async def hears(self, link: str, *kinds: str) -> None:
        """Waits until it was told exactly this about one thing."""

        async def has_heard() -> bool:
            return self.of(link) == list(kinds)

        try:
            await eventually(has_heard)
        except AssertionError:
            assert self.of(link) == list(kinds)
            raise


@dataclass(slots=True)
class Town:
    """A running platform with its demonstration community."""

    demonstration: Demonstration
    folder: Path
    client: httpx.AsyncClient
    gates: dict[str, Gate] = field(default_factory=dict)

    def lane(self, *, entry: bool, protocol: str) -> DemonstrationLane:
        """The lane of this direction whose camera speaks this protocol."""
        return next(lane for lane in self.demonstration.lanes if lane.entry == entry and lane.protocol == protocol)

    def push_camera(self, *, entry: bool) -> PushCamera:
        """The entrance's or exit's camera that pushes."""
        lane = self.lane(entry=entry, protocol="push")
        secret = self.demonstration.secrets[lane.camera_device_id]
        return PushCamera(self.client, self.demonstration.ingest_url, lane.camera_device_id, secret)

    def viid_camera(self, *, entry: bool) -> ViidCamera:
        """The entrance's or exit's camera that speaks GA/T 1400."""
        lane = self.lane(entry=entry, protocol="viid")
        secret = self.demonstration.secrets[lane.camera_device_id]
        return ViidCamera(self.client, self.demonstration.ingest_url, lane.camera_device_id, secret)

    async def new_lane(self, manager: Phone, lot_id: str, name: str, *, entry: bool) -> PushCamera:
        """One more lane, in a lot of the test's own; returns its camera, which pushes."""
        secret = await open_lane(manager, lot_id, name, entry=entry)
        return PushCamera(self.client, self.demonstration.ingest_url, name, secret)

    def terminal(self, device_id: str, folder: Path, clock: Clock = system_clock) -> Terminal:
        """A door's terminal without its network; what it remembers is in a folder of its own in `folder`."""
        return Terminal(folder / device_id, device_id, self.demonstration.door_public_key, clock)

    @asynccontextmanager
    async def online(self, terminal: Terminal, *, mqtt_port: int = 0) -> AsyncIterator[ConnectedTerminal]:
        """The terminal on the network, for as long as the block; through another port when one is named."""
        plan = self.demonstration
        connected = ConnectedTerminal(plan.mqtt_host, mqtt_port or plan.mqtt_port, plan.secrets[terminal.device_id], terminal)
        task = asyncio.create_task(connected.run())
        try:
            await asyncio.wait_for(connected.connected.wait(), 20)
            yield connected
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def gate(self, lane: DemonstrationLane) -> Gate:
        """The lane's gate, connected over MQTT."""
        return self.gates[lane.gate_device_id]

    async def visitor(self, phone: str) -> Phone:
        """A phone that signs in by one-time code for the first time."""
        app = Phone(self.client, self.demonstration.gateway_url)
        body = {"community_id": self.demonstration.community_id, "phone": phone}
        await app.call("POST", "/v1/sign-in/codes", body)
        code = newest_code(self.folder, phone)
        tokens = await app.call("POST", "/v1/sign-in/code", {**body, "code": code})
        return Phone(self.client, app.url, tokens["access_token"])

    async def manager(self) -> Phone:
        """The property manager's phone."""
        return await self.staff(self.demonstration.manager_phone)

    async def staff(self, phone: str) -> Phone:
        """The phone of somebody of the staff, who signs in by password."""
        plan = self.demonstration
        body = {"community_id": plan.community_id, "phone": phone, "password": plan.manager_password}
        tokens = await Phone(self.client, plan.gateway_url).call("POST", "/v1/sign-in/password", body)
        return Phone(self.client, plan.gateway_url, tokens["access_token"])

    async def quote(self, phone: Phone, plate: str) -> Any:
        """What the car owes."""
        return await phone.call("POST", "/v1/parking/quotes", {"lot_id": self.demonstration.lot_id, "plate": plate})

    async def pay(self, phone: Phone, charge_id: str) -> Any:
        """Pays a charge at the sandbox provider and returns the payment when it has succeeded."""
        payment = await phone.call("POST", f"/v1/charges/{charge_id}/payments", {"provider": "sandbox"})
        assert (await self.client.post(payment["pay_url"])).is_success

        async def paid() -> Any:
            current = await phone.call("GET", f"/v1/payments/{payment['payment_id']}")
            return current if current["state"] == "PAYMENT_STATE_SUCCEEDED" else None

        return await eventually(paid, "the payment succeeds")

    async def session(self, manager: Phone, plate: str, state: str) -> Any:
        """The stay of a plate in a state; waits for it."""

        async def find() -> Any:
            answer = await manager.call("GET", f"/v1/parking/sessions?plate={plate}&state=SESSION_STATE_{state}")
            return answer["sessions"][0] if answer["sessions"] else None

        return await eventually(find, f"{plate} {state}")


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[Town]:
    """The town of a platform that runs on `folder`, its gates connected."""
    stored = msgspec.json.decode((folder / "demonstration.json").read_bytes(), type=Demonstration)
    async with httpx.AsyncClient(trust_env=False, timeout=15.0) as client:
        town = Town(stored, folder, client)
        for lane in stored.lanes:
            if lane.gate_device_id != lane.camera_device_id:
                secret = stored.secrets[lane.gate_device_id]
                gate = Gate(stored.mqtt_host, stored.mqtt_port, lane.gate_device_id, secret, stored.gate_public_key, lambda _command: None)
                town.gates[lane.gate_device_id] = gate
        tasks = [asyncio.create_task(gate.run()) for gate in town.gates.values()]
        try:
            await asyncio.wait_for(asyncio.gather(*(gate.connected.wait() for gate in town.gates.values())), 20)
            yield town
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Up:
    """`linli up` as a user starts it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        command = [sys.executable, "-m", "console.main", "up", "--data", str(folder), "--no-simulator", *options]
        ports = ["--gateway-port", "0", "--ingest-port", "0"]
        self._process = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_until_ready(self, deadline_s: float = 90.0) -> float:
        """Waits for the line `ready: ...` and returns how many seconds it took."""
        started = time.monotonic()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("ready: "):
                return time.monotonic() - started
            assert time.monotonic() - started < deadline_s, self.lines
        raise AssertionError("\n".join(self.lines))

    def stop(self) -> int:
        """Presses Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        with self._process:
            return self._process.wait(60)
