"""What a service that was taken over may have the broker do for it, with controls that may do more; and what the operator alone does."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, RePublish, StreamConfig
from typer.testing import CliRunner

from console import catalog
from console.main import main
from infra.local import accounts
from infra.local.accounts import OPERATOR, Permissions, permissions_of
from infra.local.nats import NatsServer, start_nats
from servicekit.messaging import STREAM_AGE_S
from servicekit.service import Service
from tests.support import eventually

# What parking may say, and what it would like to have said; the consumers are its own and that of the one who would believe it.
OWN, FORGED = "linli.parking.VehicleHeld.c", "linli.billing.PaymentSucceeded.c"
CHARGE = "linli.billing.ChargeRaised"
MINE, THEIRS = "parking-release_vehicle_on_payment", "workorders-note_payment_on_payment_succeeded"
DECLARED = f"$JS.API.CONSUMER.CREATE.LINLI_BILLING.{MINE}.linli.billing.PaymentSucceeded.>"


@dataclass(frozen=True, slots=True)
class Town:
    """A broker with the platform's accounts and streams."""

    server: NatsServer
    operator: Client
    parking: Client
    workorders: Client
    errors: list[str]

    async def ask(self, subject: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """What the broker answers to parking; None when it did not hear it."""
        self.errors.clear()
        try:
            answer: dict[str, Any] = json.loads((await self.parking.request(subject, json.dumps(request).encode(), timeout=1)).data)
        except NatsTimeout:
            assert "permissions violation for publish" in self.errors[0].lower()
            return None
        return answer

    async def messages(self, stream: str) -> int:
        """How many messages a stream holds."""
        return (await self.operator.jetstream().stream_info(stream)).state.messages


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    services = catalog.find(["parking", "billing", "workorders"])
    passwords = dict.fromkeys([*(service.name for service in services), OPERATOR], "secret")
    server = start_nats(folder / "nats", configuration=accounts.configuration(services, passwords))
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    async def client(name: str) -> Client:
        prefix = f"_INBOX.{name}".encode()
        return await nats.connect(server.url, user=name, password="secret", inbox_prefix=prefix, error_cb=on_error)

    operator, parking, workorders = [await client(name) for name in (OPERATOR, "parking", "workorders")]
    try:
        for name in ("billing", "parking"):
            await operator.jetstream().add_stream(name=f"LINLI_{name.upper()}", subjects=[f"linli.{name}.>"])
        yield Town(server, operator, parking, workorders, errors)
    finally:
        await asyncio.gather(operator.close(), parking.close(), workorders.close())
        server.stop()


def allow(monkeypatch: pytest.MonkeyPatch, *subjects: str) -> None:
    """Everybody may ask this of the broker too."""

    def more(service: Service) -> Permissions:
        permissions = permissions_of(service)
        return replace(permissions, publish=[*permissions.publish, *subjects])

    monkeypatch.setattr(accounts, "permissions_of", more)


async def republish(here: Town) -> bool:
    """Has the broker publish what parking says as billing's. Returns whether it took the request."""
    config = StreamConfig(name="LINLI_PARKING", subjects=["linli.parking.>"], republish=RePublish(src=OWN, dest=FORGED))
    created = await here.ask("$JS.API.STREAM.CREATE.LINLI_PARKING", config.as_dict())
    assert created is not None
    assert "in use" in created["error"]["description"]
    updated = await here.ask("$JS.API.STREAM.UPDATE.LINLI_PARKING", config.as_dict())
    await here.parking.jetstream().publish(OWN, b"paid")
    return updated is not None


async def test_a_service_cannot_have_its_words_published_as_anothers(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        assert not await republish(here)
        assert (await here.operator.jetstream().stream_info("LINLI_PARKING")).config.republish is None
        assert await here.messages("LINLI_PARKING") == 1
        assert await here.messages("LINLI_BILLING") == 0


async def test_one_that_may_change_its_stream_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, "$JS.API.STREAM.UPDATE.*")
    async with town(tmp_path) as here:
        assert await republish(here)

        async def is_forged() -> bool:
            return await here.messages("LINLI_BILLING") == 1

        await eventually(is_forged)


def handing_over(**filters: Any) -> dict[str, Any]:
    """A consumer of parking's that delivers to a handler of workorders."""
    subject = f"deliver.{THEIRS}"
    config = ConsumerConfig(
        name=MINE, durable_name=MINE, deliver_subject=subject, deliver_group=THEIRS, ack_policy=AckPolicy.EXPLICIT, **filters
    )
    return {"stream_name": "LINLI_BILLING", "config": config.as_dict()}


async def test_a_service_cannot_have_its_words_handed_to_anothers_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From the next version on: until then the one before is let make its consumers as it does.
    monkeypatch.setattr(accounts, "FORMER", ())
    async with town(tmp_path) as here:
        asked = handing_over(filter_subject=f"{CHARGE}.>")
        assert await here.ask(f"$JS.API.CONSUMER.DURABLE.CREATE.LINLI_BILLING.{MINE}", asked) is None
        assert await here.ask("$JS.API.CONSUMER.CREATE.LINLI_BILLING", asked) is None
        assert await here.ask(f"$JS.API.CONSUMER.CREATE.LINLI_BILLING.{MINE}", asked) is None
        for filters in ({"filter_subject": f"{CHARGE}.>"}, {"filter_subjects": [f"{CHARGE}.>"]}, {}):
            answer = await here.ask(DECLARED, handing_over(**filters))
            assert answer is not None
            assert "error" in answer, filters
        # The right filter is taken, and brings what billing says itself.
        answer = await here.ask(DECLARED, handing_over(filter_subject="linli.billing.PaymentSucceeded.>"))
        assert answer is not None
        assert "error" not in answer


async def test_one_that_may_make_its_consumer_without_naming_the_filter_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, f"$JS.API.CONSUMER.DURABLE.CREATE.LINLI_BILLING.{MINE}")
    async with town(tmp_path) as here:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await here.workorders.subscribe(f"deliver.{THEIRS}", queue=THEIRS, cb=hear)
        await here.workorders.flush()
        answer = await here.ask(f"$JS.API.CONSUMER.DURABLE.CREATE.LINLI_BILLING.{MINE}", handing_over(filter_subject=f"{CHARGE}.>"))
        assert answer is not None
        assert "error" not in answer
        await here.parking.jetstream().publish(f"{CHARGE}.c", b"paid")

        async def is_heard() -> bool:
            return bool(heard)

        await eventually(is_heard)
        assert heard[0].reply.startswith("$JS.ACK.")


def _overlap(one: str, other: str) -> bool:
    pairs = zip(one.split("."), other.split("."), strict=False)
    for mine, theirs in pairs:
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return one.count(".") == other.count(".")


def of_itself(service: Service) -> list[str]:
    """The consumers that a service may make of what it publishes itself."""
    publish = permissions_of(service).publish
    said = [subject for subject in publish if not subject.startswith("$")]
    found = []
    for request in publish:
        if request.startswith("$JS.API.CONSUMER.CREATE."):
            stream, _, rest = request.removeprefix("$JS.API.CONSUMER.CREATE.").partition(".")
            # Without a filter in the request it is any subject of the stream.
            heard = rest.partition(".")[2] or f"{stream.lower().replace('_', '.', 1)}.>"
            found += [request for subject in said if _overlap(subject, heard)]
    return found


def test_no_service_may_make_a_consumer_of_what_it_publishes_itself() -> None:
    services = catalog.find(["all"])
    assert [request for service in services for request in of_itself(service)] == []
    parking = next(service for service in services if service.name == "parking")
    for more in ("$JS.API.CONSUMER.CREATE.LINLI_PARKING", "$JS.API.CONSUMER.CREATE.LINLI_BILLING.x.linli.billing.*.>"):
        assert of_itself(replace(parking, nats_publishes=[more])), more


def test_no_service_may_change_or_delete_a_stream() -> None:
    asked = [subject for service in catalog.find(["all"]) for subject in permissions_of(service).publish if "STREAM" in subject]
    assert asked
    assert {subject.split(".")[3] for subject in asked} <= {"CREATE", "INFO", "MSG"}
    assert {subject for subject in asked if ".MSG." in subject} == {"$JS.API.STREAM.MSG.GET.LINLI_NOTIFICATION"}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs `linli streams` on a broker, as the operator."""

    async def run(here: Town, *arguments: str, **settings: str) -> Any:
        signed = {"LINLI_NATS_URL": here.server.url, "LINLI_OPERATOR_NATS_USER": OPERATOR, "LINLI_OPERATOR_NATS_PASSWORD": "secret"}
        for name, value in (signed | settings).items():
            monkeypatch.setenv(name, value)
        return await asyncio.to_thread(CliRunner().invoke, main, ["streams", "--data", str(tmp_path / "none"), *arguments])

    return run


async def test_the_operator_brings_streams_to_what_is_declared(tmp_path: Path, command: Callable[..., Any]) -> None:
    async with town(tmp_path) as here:
        broker = here.operator.jetstream()
        await broker.update_stream(
            name="LINLI_PARKING", subjects=["linli.parking.>"], republish=RePublish(src=OWN, dest=FORGED), max_age=60
        )
        done = await command(here, "--without", "insights")
        assert done.exit_code == 0, done.output
        assert "LINLI_PARKING: changed" in done.output
        assert "$MQTT_msgs: as declared" in done.output
        config = (await broker.stream_info("LINLI_PARKING")).config
        assert (config.max_age, config.republish, config.num_replicas) == (STREAM_AGE_S, None, 1)
        again = await command(here)
        assert again.exit_code == 0
        assert "changed" not in again.output
        # A broker that is alone keeps one copy: what it refuses is named, and the way out says so.
        refused = await command(here, LINLI_STREAM_REPLICAS="3")
        assert refused.exit_code == 1
        assert "LINLI_PARKING: " in refused.output
        assert "replicas" in refused.output
