"""The whole platform in one process, with communities that have some of everything, made through HTTP and device protocols only. What smart
bins say begins behind MQTT, as ingest passes it on.

Making them is a walk over all endpoints: each is called once by somebody who may, as soon as what it names exists.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import msgspec
import pytest
from google.protobuf.message import Message

from console import catalog
from console.secrets import Secrets
from console.seed import TARIFF
from console.simulator.cameras import PushCamera
from infra.sandbox_provider.server import Settings, application
from infra.sandbox_provider.signatures import Signer
from linli.device.v1.events_pb2 import BinDeposited, BinReported
from linli.points.v1 import points_pb2
from servicekit.database import PLATFORM
from services.identity import limits, operations
from services.identity.code_senders import newest_code
from services.identity.store import PLATFORM_COMMUNITY
from services.workorders import photo_operations, report_operations
from tests.billing.world import MERCHANT, Keys, served
from tests.platform import doors, orders
from tests.platform.builders import BUILDERS, GRANT_POINTS_MAX, PASSWORD, rules
from tests.platform.endpoints import (
    ENDPOINTS,
    NAMED,
    Endpoint,
    Naming,
    Underivable,
    UnknownId,
    Values,
    Words,
    instant,
    leaves,
    to_http,
)
from tests.platform.wire import Answer, Sent, Wire
from tests.support import UNLIMITED, Platform, Servers, eventually, free_address, platform

_AT_ONCE = 16
# What changes whoever looks: what devices tell and are to be told, addresses that are good for some minutes, the age of what is open.
_RESTLESS = {"online", "last_seen_at", "wanted_version", "url", "picture_urls", "oldest_open_s", "workorders.DownloadOrderFigures"}
_LONGEST_AGO = timedelta(days=1)


@dataclass(slots=True)
class Town:
    """The running platform, its operator and its communities."""

    running: Platform
    wire: Wire
    # For what does not go through the gateway: devices, and the provider's page.
    client: httpx.AsyncClient
    codes: Path
    provider: Signer
    operator: str = ""
    communities: list["Community"] = field(default_factory=list)

    async def send(self, sent: Sent, token: str | None = None, **headers: str) -> Answer:
        """Sends one request to the gateway; keywords are headers with `_` for `-`."""
        every = {**sent.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if token:
            every["authorization"] = f"Bearer {token}"
        return await self.wire.send(replace(sent, headers=every))

    async def call(self, name: str, values: Values, token: str | None = None, **headers: str) -> Any:
        """Calls an endpoint, which must succeed; returns its JSON, or the text of a document."""
        answer = await self.send(to_http(NAMED[name], values), token, **headers)
        assert answer.is_success, f"{name}: {answer.status} {answer.text}"
        return answer.json() if answer.headers.get("content-type") == "application/json" else answer.text

    async def sign_in(self, community_id: str, phone: str) -> Mapping[str, str]:
        """The tokens of a phone that signs in by code."""
        code = await self.send_code(community_id, phone)
        tokens: Mapping[str, str] = await self.call("identity.SignInWithCode", {"community_id": community_id, "phone": phone, "code": code})
        return tokens

    async def send_code(self, community_id: str, phone: str) -> str:
        """Asks for a code and reads it as the phone's owner does."""
        await self.call("identity.RequestCode", {"community_id": community_id, "phone": phone})
        code = newest_code(self.codes, phone)
        assert code is not None
        return code

    async def found(self) -> "Community":
        """One more community, with its manager, an owner and a guest signed in."""
        words = Words(len(self.communities))
        community = Community(self, words, phone=words.phone())
        self.communities.append(community)
        founding = {"name": words.text(), "modules": catalog.modules(), "manager_phone": community.phone}
        values = words.request(NAMED["identity.CreateCommunity"], founding)
        words.learn(await self.call("identity.CreateCommunity", values, self.operator))
        tokens = await self.sign_in(community.community_id, community.phone)
        community.manager = tokens["access_token"]
        await self.call("identity.SetPassword", {"new_password": PASSWORD}, community.manager)
        community.guest = (await self.sign_in(community.community_id, words.phone()))["access_token"]
        return community

    async def founded(self) -> "Community":
        """One more community that has some of everything."""
        community = await self.found()
        await community.furnish()
        return community


@dataclass(slots=True)
class Community:
    """One community. `manager`, `owner`, `clerk` and `guest` are access tokens; the manager lives where the owner does."""

    town: Town
    words: Words
    phone: str
    manager: str = ""
    owner: str = ""
    clerk: str = ""
    guest: str = ""
    # A car that is inside and owes, and one whose stay is paid.
    parked: str = ""
    # The request that each endpoint was called with, and what it answered.
    examples: dict[str, Values] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    _cameras: dict[str, PushCamera] = field(default_factory=dict)
    # The category of work orders that are made to be used up.
    chores: str = ""
    # The id and the secret of the edge box.
    box: tuple[str, str] = ("", "")
    # The device and the compartment that deposits are made at, and the manager's card.
    _bin: Mapping[str, Any] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def community_id(self) -> str:
        """Its id."""
        return self.words.ids["community_id"]

    @property
    def manager_id(self) -> str:
        """The manager's account."""
        return account_of(self.manager)

    async def do(self, name: str, **given: Any) -> Any:
        """The manager does something, which must succeed. Returns the answer and remembers its ids."""
        answer = await self.town.call(name, self.words.request(NAMED[name], given), self.manager)
        self.words.learn(answer)
        return answer

    async def prepare(self, endpoint: Endpoint) -> Values:
        """A right request, and everything that it needs. Raises Underivable, UnknownId."""
        builder = BUILDERS.get(endpoint.name)
        return self.words.request(endpoint, {} if builder is None else await builder(self))

    def name_of(self, naming: Naming) -> str:
        """What stands in its place when it means something of this community."""
        known = {"phone": self.phone, "plate": self.parked}
        return known.get(naming.described.name) or self.words.id_of(naming.described)

    def caller(self, endpoint: Endpoint) -> str:
        """The token of somebody who may call an endpoint."""
        permission = endpoint.authority.permission
        return self.manager if not permission or permission in permissions(self.manager) else self.town.operator

    async def furnish(self) -> None:
        """Makes some of everything, and calls every endpoint on the way."""
        for name in ("identity.CreateBuilding", "identity.CreateUnit", "identity.CreateHousehold"):
            await self.do(name)
        # Somebody whom the manager may give something: they live elsewhere.
        await self.do("identity.AddMember", household_id=(await self.do("identity.CreateHousehold"))["household_id"])
        phone = self.words.phone()
        await self.do("identity.AddMember", phone=phone)
        self.owner = (await self.town.sign_in(self.community_id, phone))["access_token"]
        await self.do("identity.AddMember", phone=self.phone)
        await self.do("parking.CreateLot", admits_temporary=True)
        await self.do("parking.CreateArea", capacity=1000)
        await self.do("parking.PublishTariff", rules=TARIFF, effective_from=instant(datetime.now(UTC) - _LONGEST_AGO))
        await self._let_cars_in_and_pay()
        await self._measure()
        await orders.staff(self)
        await self._give_points()
        await self._sort()
        await orders.furnish(self)
        await doors.furnish(self)
        await self.walk()
        await eventually(self._is_settled, "refunds are paid out and booked")

    async def walk(self) -> None:
        """Calls every endpoint, each as soon as what it names exists. Those that cannot be called stay out of `answers`."""
        left = [endpoint for endpoint in ENDPOINTS if endpoint.name not in self.answers]
        while left:
            before = len(left)
            for endpoint in list(left):
                try:
                    values = await self.prepare(endpoint)
                except (UnknownId, Underivable):
                    continue
                left.remove(endpoint)
                await self._try(endpoint, values)
            if len(left) == before:
                return

    async def _try(self, endpoint: Endpoint, values: Values) -> None:
        async def ask() -> Answer | None:
            answer = await self.town.send(to_http(endpoint, values), self.caller(endpoint))
            # Three communities that plan their night at once are one too many.
            return None if answer.status == HTTPStatus.TOO_MANY_REQUESTS else answer

        answer = await eventually(ask, f"the platform has time for {endpoint}")
        assert answer is not None
        self.examples[endpoint.name], self.answers[endpoint.name] = values, answer
        if answer.is_success and answer.headers.get("content-type") == "application/json" and not endpoint.authority.public:
            self.words.learn(answer.json())
            # Some things are called by whoever tells of them.
            self.words.learn(values)

    async def _let_cars_in_and_pay(self) -> None:
        for direction in ("ENTRY", "EXIT"):
            device = await self.new_device("DEVICE_KIND_PLATE_CAMERA")
            device_id = device["device"]["device_id"]
            self._cameras[direction] = PushCamera(self.town.client, self.town.running.http_urls["ingest"], device_id, device["secret"])
            lane = {"direction": f"DIRECTION_{direction}", "camera_device_id": device_id, "gate_device_id": device_id}
            await self.do("parking.CreateLane", **lane)
        paid, self.parked = self.words.plate(), self.words.plate()
        for plate in (paid, self.parked):
            assert (await self._cameras["ENTRY"].push(plate, datetime.now(UTC))).opened
            await eventually(lambda plate=plate: self._stays(plate), f"{plate} is inside")  # type: ignore[misc]
        charge = await self.do("parking.QuoteStay", plate=paid)
        payment = await self.do("billing.CreatePayment", charge_id=charge["charge_id"])
        page = await self.town.client.post(payment["pay_url"])
        assert page.is_success, page.text
        await eventually(self._is_paid, "the payment succeeds")
        # The other charge is not paid: it is the one that a payment can be started for.
        self.words.ids["charge_id"] = (await self.do("parking.QuoteStay", plate=self.parked))["charge_id"]

    async def _stays(self, plate: str) -> Any:
        return (await self.do("parking.ListSessions", plate=plate))["sessions"]

    async def _is_paid(self) -> bool:
        payment = await self.do("billing.GetPayment")
        return bool(payment["state"] == "PAYMENT_STATE_SUCCEEDED")

    async def _is_settled(self) -> bool:
        refunds = (await self.do("billing.ListRefunds"))["refunds"]
        back = sum(int(refund["amount_fen"]) for refund in refunds)
        payment, stay = await self.do("billing.GetPayment"), await self.do("parking.GetSession")
        booked = int(payment["refunded_fen"]) == back and int(stay["paid_fen"]) == int(payment["amount_fen"]) - back
        return booked and all(refund["state"] == "REFUND_STATE_SUCCEEDED" for refund in refunds)

    async def _measure(self) -> None:
        """An edge box measures, and a camera sees a face."""
        url = self.town.running.http_urls["ingest"]
        box = await self.new_device("DEVICE_KIND_EDGE_BOX")
        box_id = box["device"]["device_id"]
        self.box = (box_id, box["secret"])
        reading = {"metric": "temperature", "at_us": time.time_ns() // 1000, "value": self.words.number + 0.123456}
        batch = {"batch_id": "b1", "readings": [reading]}
        sent = await self.town.client.post(f"{url}/devices/readings", json=batch, auth=httpx.BasicAuth(*self.box))
        assert sent.is_success, sent.text
        camera = await self.new_device("DEVICE_KIND_VIID", f"{33010299011190000000 + self.words.number}")
        camera_id = camera["device"]["device_id"]
        digest = httpx.DigestAuth(camera_id, camera["secret"])
        headers = {"user-identify": camera_id, "content-type": "application/VIID+JSON"}
        source = f"{camera_id}02{datetime.now(UTC):%Y%m%d%H%M%S}00001"
        face = {"FaceID": f"{source}0600001", "InfoKind": 1, "SourceID": source, "DeviceID": camera_id}
        content = msgspec.json.encode({"FaceListObject": {"FaceObject": [face]}})
        sent = await self.town.client.post(f"{url}/VIID/Faces", content=content, headers=headers, auth=digest)
        assert sent.json()["ResponseStatusListObject"]["ResponseStatusObject"][0]["StatusCode"] in (0, "0"), sent.text

        async def is_known() -> bool:
            points = (await self.do("insights.ReadTelemetry", device_id=box_id, **_the_last_hours()))["points"]
            objects = (await self.do("insights.ListObservedObjects", device_id=camera_id))["objects"]
            return bool(points and objects)

        await eventually(is_known, "the readings and the face are known")
        self.words.ids["device_id"] = camera_id
        self.examples |= {
            "insights.ReadTelemetry": {"device_id": box_id, "metric": "temperature", **_the_last_hours()},
            "insights.ListObservedObjects": {"device_id": camera_id},
        }

    async def _give_points(self) -> None:
        """There are rules, and the manager has points to spend."""
        await self.do("points.PublishRules", effective_from=instant(datetime.now(UTC)), **rules(self.words))
        self.clerk = (await self.staff("property_clerk"))["access_token"]
        for account_id in self._residents():
            await self.at_last("points.GetResidentPoints", {"account_id": account_id})
        await self.grant(self.manager_id, GRANT_POINTS_MAX)

    async def grant(self, account_id: str, points: int) -> str:
        """The clerk grants points. Returns the grant's id."""
        grant = self.words.request(NAMED["points.GrantPoints"], {"grant_id": str(uuid4()), "account_id": account_id, "points": points})
        return str((await self.town.call("points.GrantPoints", grant, self.clerk))["grant_id"])

    async def _sort(self) -> None:
        """There is a bin that once was too hot, and the manager has put something in."""
        device_id = (await self.new_device("DEVICE_KIND_BIN"))["device"]["device_id"]
        made = await self.do("waste.CreateBin", device_id=device_id)
        for account_id in self._residents():
            card = {"card_number": self.words.text(), "account_id": account_id}
            await self.at_last("waste.RegisterCard", card)
        self._bin = {"device_id": device_id, "compartment": made["compartments"][0]["name"], "card_number": card["card_number"]}
        await self.publish(BinReported(device_id=device_id, smoke=True))

        async def burns() -> Any:
            return (await self.do("waste.ListBinAlarms"))["alarms"]

        await eventually(burns, "the bin is too hot")
        await self.new_deposit()

    def _residents(self) -> Sequence[str]:
        """The accounts of a neighbour and of the manager."""
        return [self.words.id_for("account_id"), self.manager_id]

    async def at_last(self, name: str, values: Values, token: str = "") -> Any:
        """The manager, or another, calls an endpoint until it works: news takes its time from one service to another."""

        async def ask() -> Answer | None:
            answer = await self.town.send(to_http(NAMED[name], values), token or self.manager)
            assert answer.status < HTTPStatus.INTERNAL_SERVER_ERROR, f"{name}: {answer.text}"
            return answer if answer.is_success else None

        answer = await eventually(ask, f"{name} works")
        assert answer is not None
        return answer.json()

    async def publish(self, event: Message) -> None:
        """One of the community's devices says something, as ingest passes it on."""
        await self.town.running.publish(event, UUID(self.community_id))

    async def new_deposit(self, *, heavier_grams: int = 0) -> str:
        """The manager puts something into the bin. Returns the deposit's id."""
        grams = heavier_grams + next(self._numbers) + 1
        deposited = BinDeposited(**self._bin, record_id=self.words.text(), grams=grams, fill_permille=-1)
        deposited.occurred_at.GetCurrentTime()
        deposited.received_at.GetCurrentTime()
        await self.publish(deposited)

        async def find() -> str | None:
            deposits = (await self.do("waste.ListDeposits", page_size=100))["deposits"]
            return next((deposit["deposit_id"] for deposit in deposits if deposit["grams"] == str(grams)), None)

        found = await eventually(find, "the deposit")
        assert found is not None
        return found

    def new_trip(self) -> Values:
        """A walk of the manager's that ended before the last one that was made here began."""
        ended_at = datetime.now(UTC) - next(self._numbers) * timedelta(minutes=2)
        started_at = ended_at - timedelta(minutes=1.5)
        when = {"started_at": instant(started_at), "ended_at": instant(ended_at)}
        return self.words.message(points_pb2.Trip.DESCRIPTOR, trip_id=str(uuid4()), **when, distance_m=100, steps=150)

    async def new_device(self, kind: str, device_id: str = "") -> Any:
        """A device that was just registered, with its secret."""
        return await self.do("ingest.RegisterDevice", device_id=device_id or f"device-{self.words.text()}", kind=kind)

    async def new_review(self) -> str:
        """A passage that a person must look at: a car leaves that never came in."""
        plate = self.words.plate()
        await self._cameras["EXIT"].push(plate, datetime.now(UTC))

        async def find() -> str | None:
            reviews = (await self.do("parking.ListReviews", page_size=100))["reviews"]
            return next((review["review_id"] for review in reviews if review["plate_read"] == plate), None)

        found = await eventually(find, "the review")
        assert found is not None
        return found

    async def staff(self, role: str) -> Mapping[str, str]:
        """The tokens of somebody who was given a role and has signed in."""
        phone = self.words.phone()
        await self.do("identity.GrantRole", phone=phone, role=role)
        return await self.town.sign_in(self.community_id, phone)

    async def listings(self, service: str = "") -> Mapping[str, Any]:
        """All that the manager can read of the community, or of one service, except what devices change by themselves."""
        reads = [each for each in ENDPOINTS if each.is_read and not each.authority.public and each.route.service.startswith(service)]
        answers = await asyncio.gather(*(self._read(endpoint) for endpoint in reads))
        found: Mapping[str, Any] = _rested(dict(zip((endpoint.name for endpoint in reads), answers, strict=True)))
        return found

    async def _read(self, endpoint: Endpoint) -> Any:
        values = self.examples[endpoint.name]
        if not any(each.name == "page_token" for each in endpoint.fields):
            return await self.town.call(endpoint.name, values, self.manager)
        pages: list[Any] = []
        token = ""
        while not pages or token:
            pages.append(await self.town.call(endpoint.name, {**values, "page_size": 100, "page_token": token}, self.manager))
            token = pages[-1].pop("next_page_token")
        return pages

    async def secrets_from(self, other: "Community") -> set[str]:
        """The texts that this community can read and the other cannot: names, ids, plates, instants."""
        ours, theirs = [await community.listings() for community in (self, other)]
        return {str(value) for _, value in leaves(dict(ours)) if len(str(value)) > 5} - {str(value) for _, value in leaves(dict(theirs))}


def _rested(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: _rested(value) for name, value in answer.items() if name not in _RESTLESS}
    return [_rested(value) for value in answer] if isinstance(answer, list) else answer


@cache
def permissions(token: str) -> frozenset[str]:
    """What the holder of an access token may do in the whole community."""
    return frozenset(_claims(token)["per"])


def account_of(token: str) -> str:
    """Whose access token it is."""
    return str(_claims(token)["sub"])


@cache
def _claims(token: str) -> Mapping[str, Any]:
    claims: Mapping[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _the_last_hours() -> dict[str, str]:
    now = datetime.now(UTC)
    return {"from": instant(now - timedelta(hours=2)), "until": instant(now + timedelta(hours=1))}


@asynccontextmanager
async def town(servers: Servers, folder: Path) -> AsyncIterator[Town]:
    """All services in this process, the sandbox provider beside them, and an operator who is signed in."""
    keys, gateway, provider = Keys(), free_address(), free_address()
    sandbox = Settings(key=f"p1:{keys.provider[0]}", merchant_keys=f"m1:{keys.merchant[1]}", merchant_id=MERCHANT)
    with pytest.MonkeyPatch.context() as patch:
        # Thousands of requests come from one address here. No installation chooses how often one may try a password.
        patch.setattr(limits, "PASSWORDS_PER_ACCOUNT_AND_ADDRESS", 100_000)
        patch.setattr(limits, "PASSWORDS_PER_ACCOUNT", 100_000)
        # Nor how many live in one home, and what they have reported.
        patch.setattr(operations, "MEMBERS_MAX", 1000)
        patch.setattr(report_operations, "_OPEN_MAX", 100_000)
        patch.setattr(photo_operations, "_WAITING_MAX", 100_000)
        async with (
            served(application(sandbox, folder / "provider.sqlite", retry_delays_s=(0.1,) * 20), provider),
            httpx.AsyncClient(trust_env=False, timeout=20) as client,
            platform(servers, *catalog.find(["all"]), settings=_settings(folder, keys, gateway, provider)) as running,
            aclosing(Wire(gateway, _AT_ONCE)) as wire,
        ):
            made = Town(running, wire, client, folder / "codes", Signer(f"p1:{keys.provider[0]}"))
            async with running.transaction("identity", PLATFORM) as tx:
                await operations.bootstrap_operator(tx, _OPERATOR_PHONE, "Operator", PASSWORD)
            signing_in = {"community_id": str(PLATFORM_COMMUNITY), "phone": _OPERATOR_PHONE, "password": PASSWORD}
            made.operator = (await made.call("identity.SignInWithPassword", signing_in))["access_token"]
            yield made


_OPERATOR_PHONE = "13900000000"


def _settings(folder: Path, keys: Keys, gateway: str, provider: str) -> Mapping[str, str]:
    secrets = Secrets()
    return {
        **keys.of_billing(),
        "LINLI_BILLING_SANDBOX_URL": f"http://{provider}",
        "LINLI_BILLING_NOTIFICATION_URL_BASE": f"http://{gateway}",
        "LINLI_GATEWAY_HTTP_ADDRESS": gateway,
        **UNLIMITED,
        "LINLI_IDENTITY_DATA_KEYS": f"k1:{secrets.key('data')}",
        "LINLI_IDENTITY_INDEX_KEY": secrets.key("index"),
        "LINLI_IDENTITY_CODE_SENDER": "development",
        "LINLI_IDENTITY_CODE_FILE": str(folder / "codes"),
        "LINLI_IDENTITY_CODES_PER_ADDRESS_HOUR": "100000",
        "LINLI_IDENTITY_CODES_PER_COMMUNITY_HOUR": "100000",
        "LINLI_IDENTITY_SIGN_INS_PER_ADDRESS_HOUR": "100000",
        "LINLI_INGEST_CREDENTIALS_KEY": secrets.key("credentials"),
        "LINLI_INGEST_GATE_PUBLIC_KEY": secrets.public_key("gate"),
        "LINLI_INGEST_DOOR_PUBLIC_KEY": secrets.public_key("door"),
        "LINLI_BLOBS_URL": str(folder / "images"),
        "LINLI_ACCESS_DOOR_KEY": secrets.signing_key("door"),
        "LINLI_ACCESS_MATCHING_KEY": secrets.key("matching"),
        "LINLI_ACCESS_DATA_KEYS": f"k1:{secrets.key('faces')}",
        "LINLI_ACCESS_VISITOR_PASSES_MAX": "1000",
        "LINLI_WORKORDERS_DATA_KEYS": f"k1:{secrets.key('phones')}",
        "LINLI_PARKING_GATE_KEY": secrets.signing_key("gate"),
        "LINLI_WASTE_CODE_KEY": secrets.key("waste-code"),
        "LINLI_PARKING_VISITOR_PASSES_MAX": "1000",
    }
