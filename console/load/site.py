"""The installation that is loaded: how it is reached, and the devices of the load, which the manager of a community registers.

They are called `load-...` and stay, so that the next run finds them.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from console.demonstration import Demonstration, DemonstrationBin
from console.load.http import Pool
from console.seed.api import Api
from console.seed.devices import register_device
from console.seed.lots import lane_of_camera, open_lot

LANES_OF_A_LOT = 5
# A lane has a car a second at the very most, and nobody comes to a door or a bin more often than every other second.
CARS_PER_LANE, PER_DOOR, PER_BIN = 1.0, 0.5, 0.5
_DEVICES_MAX = 200
_CAPACITY = 100_000
_CATEGORY = "recyclable"
CARD_NUMBER = "10AD000001"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where an installation is, and the manager of a community in it. `door_public_key` is that of commands to doors."""

    gateway_url: str
    ingest_url: str
    mqtt_host: str
    mqtt_port: int
    community_id: str
    phone: str
    password: str
    door_public_key: str


def find(folder: Path, given: Mapping[str, str]) -> Address:
    """What is `given` by the names of an `Address`; what is not (it is empty) is the demonstration's of `linli up`, which is in `folder`.

    Raises FileNotFoundError when something is not given and there is no demonstration, and msgspec.ValidationError for a wrong port.
    """
    known = {name: value for name, value in given.items() if value}
    if len(known) < len(msgspec.structs.fields(Address)):
        known = {**msgspec.to_builtins(_demonstration(folder)), **known}
    return msgspec.convert(known, Address, strict=False)


def _demonstration(folder: Path) -> Address:
    plan = msgspec.json.decode((folder / "demonstration.json").read_bytes(), type=Demonstration)
    return Address(
        gateway_url=plan.gateway_url,
        ingest_url=plan.ingest_url,
        mqtt_host=plan.mqtt_host,
        mqtt_port=plan.mqtt_port,
        community_id=plan.community_id,
        phone=plan.manager_phone,
        password=plan.manager_password,
        door_public_key=plan.door_public_key,
    )


@dataclass(slots=True)
class Site:
    """An installation with everything that the kinds of load need of it."""

    address: Address
    client: httpx.AsyncClient
    gateway: Pool
    ingest: Pool
    # What devices that are simulated remember.
    folder: Path
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    token: str = ""

    @property
    def manager(self) -> Api:
        """The gateway, as the manager."""
        return Api(self.client, self.address.gateway_url, self.token)

    async def sign_in(self) -> None:
        """Gets a token, which is good for ten minutes. Raises SeedError."""
        who = {"community_id": self.address.community_id, "phone": self.address.phone, "password": self.address.password}
        answer = await Api(self.client, self.address.gateway_url).call("POST", "/v1/sign-in/password", who)
        self.token = answer["access_token"]

    async def cameras(self, cars_per_second: float) -> dict[str, str]:
        """Cameras at lanes on the way in, each wired to its barrier. Returns their secrets."""
        lots = await self._named("/v1/parking/lots", "lots", "lot_id")
        secrets = {}
        for nth in range(_count(cars_per_second, CARS_PER_LANE)):
            camera, lot = f"load-cam-{nth}", f"load {nth // LANES_OF_A_LOT}"
            if lot not in lots:
                lots[lot] = await open_lot(self.manager, lot, capacity=_CAPACITY)
            secrets[camera] = await register_device(self.manager, camera, camera, "PLATE_CAMERA")
            lane = lane_of_camera(camera, entry=True)
            await self.manager.call("POST", f"/v1/parking/lots/{lots[lot]}/lanes", lane, expect=httpx.codes.CONFLICT)
        return secrets

    async def terminals(self, passages_per_second: float) -> dict[str, str]:
        """Terminals at doors of one zone that everybody may use. Returns their secrets."""
        zones = await self._named("/v1/access/zones", "zones", "zone_id")
        if "load" not in zones:
            body = {"name": "load", "kind": "ZONE_KIND_COMMUNITY"}
            zones["load"] = (await self.manager.call("POST", "/v1/access/zones", body))["zone_id"]
        doors = await self._named("/v1/access/doors", "doors", "door_id")
        secrets = {}
        for nth in range(_count(passages_per_second, PER_DOOR)):
            terminal = f"load-door-{nth}"
            if terminal not in doors:
                door = {
                    "zone_id": zones["load"],
                    "name": terminal,
                    "kind": "DOOR_KIND_COMMUNITY_GATE",
                    "credential_kinds": ["CREDENTIAL_KIND_CARD"],
                    "anti_passback": "ANTI_PASSBACK_OFF",
                }
                doors[terminal] = (await self.manager.call("POST", "/v1/access/doors", door))["door_id"]
            secrets[terminal] = await register_device(self.manager, terminal, terminal, "TERMINAL")
            place = {"device_id": terminal, "direction": "DIRECTION_IN"}
            await self.manager.call("POST", f"/v1/access/doors/{doors[terminal]}/terminals", place, expect=httpx.codes.CONFLICT)
        return secrets

    async def bins(self, deposits_per_second: float) -> Mapping[str, tuple[DemonstrationBin, str]]:
        """Smart bins of one compartment, with their secrets."""
        bins = {}
        for nth in range(_count(deposits_per_second, PER_BIN)):
            name = f"load-bin-{nth}"
            secret = await register_device(self.manager, name, name, "BIN")
            compartment = {"name": _CATEGORY, "category": f"CATEGORY_{_CATEGORY.upper()}", "capacity_grams": 1_000_000}
            place = {"latitude": 39.98, "longitude": 116.31}
            body = {"name": name, "device_id": name, "place": place, "compartments": [compartment]}
            await self.manager.call("POST", "/v1/waste/bins", body, expect=httpx.codes.CONFLICT)
            bins[name] = DemonstrationBin("", name, name, {_CATEGORY: 1_000_000}), secret
        return bins

    async def box(self) -> tuple[str, str]:
        """An edge box and its secret."""
        return "load-box", await register_device(self.manager, "load-box", "load-box", "EDGE_BOX")

    async def card(self, path: str) -> str:
        """The number of a card that a resident has, for doors or for bins; where nobody lives, one that nobody knows."""
        homes = (await self.manager.call("GET", "/v1/households?page_size=100"))["households"]
        member = next((member for home in homes for member in home["members"]), None)
        if member is not None:
            body = {"card_number": CARD_NUMBER, "account_id": member["account"]["account_id"]}
            await self.manager.call("POST", path, body, expect=httpx.codes.CONFLICT)
        return CARD_NUMBER

    async def category_id(self) -> str:
        """What work orders are about."""
        categories = (await self.manager.call("GET", "/v1/work-order-categories"))["categories"]
        return str(next(each["category_id"] for each in categories if each["code"] == "power.light"))

    async def _named(self, path: str, listed: str, identifier: str) -> dict[str, str]:
        """What there is, by name."""
        found: dict[str, str] = {}
        cursor = ""
        while True:
            page: dict[str, Any] = await self.manager.call("GET", f"{path}?page_size=100&page_token={cursor}")
            found |= {each["name"]: each[identifier] for each in page[listed]}
            cursor = page.get("next_page_token", "")
            if not cursor:
                return found


def _count(per_second: float, per_device: float) -> int:
    return min(_DEVICES_MAX, math.ceil(per_second / per_device))
