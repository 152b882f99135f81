"""The reference terminal: what it never obeys, what it remembers when the power is cut, how fast it decides, and how it speaks with us."""

import asyncio
import base64
import copy
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import nats
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from console.simulator import terminals
from console.simulator.terminals import ConnectedTerminal, Decision, Terminal
from infra.local import accounts
from infra.local.nats import start_nats
from linli.access.v1 import access_pb2 as pb
from linli.identity.v1.events_pb2 import HouseholdChanged
from servicekit.commands import LIFETIME, CommandSigner
from servicekit.identifiers import new_id
from servicekit.messaging import Publisher
from servicekit.signing import Signer
from services.access import codes, snapshots
from services.access.codes import Code
from services.access.deciding import Place, Reason
from services.access.digests import card_digest
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.entries import Entry, Times
from services.access.service import SERVICE as ACCESS
from services.access.snapshots import Change, Settings, Taken, entry_text, parts_of
from services.ingest.devices import Kind
from services.ingest.nkeys import AccountKey
from services.ingest.service import SERVICE as INGEST
from tests.access import arrange
from tests.access.arrange import KEY, MONDAY_9
from tests.access.arrange_terminals import PUBLIC_KEY
from tests.ingest.broker import PASSWORDS, SEED
from tests.ingest.fleet import DOOR_KEY, Fleet, fleet
from tests.support import Servers, TestClock, eventually, principal

SIGNER = Signer(KEY)
HERE, DOOR, MATCHING = new_id(), new_id(), bytes(range(32))
PLACE = Place(HERE, DOOR, Direction.IN, frozenset(CredentialKind), AntiPassback.OFF, ZoneInfo("Asia/Shanghai"))
_CARD = CredentialKind.CARD


def resident(card: str) -> Entry:
    return Entry(new_id(), False, frozenset({card_digest(MATCHING, card)}), frozenset(), False, None, True, False, (Times(),), 0)


@pytest.fixture
def clock() -> TestClock:
    return TestClock(MONDAY_9)


def install(folder: Path, clock: TestClock, *entries: Entry, opened: list[str] | None = None) -> Terminal:
    """A terminal that knows these, or what it knew before."""
    terminal = Terminal(folder, "t", PUBLIC_KEY, clock, on_open=(opened if opened is not None else []).append)
    if entries:
        settings = Settings(PLACE, "Asia/Shanghai", 30, MATCHING)
        change = Change("t", HERE, 0, terminal.knowledge.version + 1, settings, (), [entry_text(each) for each in entries])
        taken = [terminal.take_snapshot(part) for part in parts_of(change, partial(SIGNER.sign, snapshots.PURPOSE), SIGNER.key_id)]
        assert taken[-1] is Taken.WHOLE
    return terminal


def command(clock: TestClock, counter: int, device_id: str = "t", signer: Signer = SIGNER) -> dict[str, Any]:
    signed = CommandSigner(signer).open(new_id(), device_id, counter, clock.now)
    return {"command": base64.b64encode(signed.command).decode(), "signature": base64.b64encode(signed.signature).decode()}


def code_for(subject_id: UUID, clock: TestClock, nonce: int = 1) -> str:
    code = Code(HERE, subject_id, None, nonce.to_bytes(codes.NONCE_BYTES, "big"), clock.now)
    return codes.write(code, partial(SIGNER.sign, codes.PURPOSE))


def test_ten_thousand_commands_that_are_replayed_altered_late_or_for_another_open_nothing(tmp_path: Path, clock: TestClock) -> None:
    opened: list[str] = []
    terminal, chance = install(tmp_path, clock, opened=opened), Random(7)
    stranger = Signer(base64.b64encode(bytes(32)).decode())
    genuine = [command(clock, nth) for nth in range(2, 12)]
    assert [terminal.obey(each, None)[1] for each in genuine] == ["opened"] * 10
    late = [command(clock, nth) for nth in range(20, 30)]
    clock.advance(seconds=LIFETIME.total_seconds() + 1)
    for _ in range(2500):
        flipped = dict(command(clock, 100))
        name = chance.choice(["command", "signature"])
        data = bytearray(base64.b64decode(flipped[name]))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        flipped[name] = base64.b64encode(data).decode()
        for each in (chance.choice(genuine), chance.choice(late), flipped, command(clock, 100, "other")):
            assert terminal.obey(each, None)[1] in ("refused", "expired")
    for each in (command(clock, 100, signer=stranger), command(clock, 1), {}, {"command": 7}, {"command": "x", "signature": None}):
        assert terminal.obey(each, None)[1] == "refused"
    assert len(opened) == 10
    assert terminal.obey(command(clock, 100), None)[1] == "opened"


def test_what_it_must_remember_it_remembers_when_the_power_is_cut_in_the_middle_of_a_word(tmp_path: Path, clock: TestClock) -> None:
    one = resident("04CAFE")
    terminal = install(tmp_path, clock, one)
    assert terminal.obey(command(clock, 5), None)[1] == "opened"
    code = code_for(one.subject_id, clock)
    assert terminal.decide_alone(terminal.show(CredentialKind.CODE, code)).opens
    records = list(terminal.journal.records)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"kind":"granted","at":"2026-')
    again = install(tmp_path, clock)
    assert again.journal.records == records
    assert (again.knowledge.version, again.knowledge.entries) == (1, {one.subject_id: one})
    assert again.obey(command(clock, 5), None)[1] == "refused"
    assert again.decide_alone(again.show(CredentialKind.CODE, code)).reason == Reason.CODE_USED
    assert again.decide_alone(again.show(_CARD, "04CAFE")).opens
    assert install(tmp_path, clock).journal.hashes == again.journal.hashes


def test_a_snapshot_that_is_older_than_its_own_is_refused_also_after_a_restart(tmp_path: Path, clock: TestClock) -> None:
    old = parts_of(
        Change("t", HERE, 0, 1, Settings(PLACE, "Asia/Shanghai", 30, MATCHING), (), [entry_text(resident("04DEAD"))]),
        partial(SIGNER.sign, snapshots.PURPOSE),
        SIGNER.key_id,
    )
    install(tmp_path, clock, resident("04CAFE"))
    install(tmp_path, clock, resident("04BEEF"))
    again = install(tmp_path, clock)
    assert [again.take_snapshot(part) for part in old] == [Taken.OLD]
    assert again.decide_alone(again.show(_CARD, "04DEAD")).reason == Reason.UNKNOWN


def test_who_loses_something_in_a_part_loses_it_though_the_power_is_cut_before_the_rest_comes(tmp_path: Path, clock: TestClock) -> None:
    one, others = resident("04CAFE"), [resident(f"CARD{nth}") for nth in range(300)]
    install(tmp_path, clock, one, *others)
    change = Change("t", HERE, 1, 2, Settings(PLACE, "Asia/Shanghai", 30), [one.subject_id], [entry_text(each) for each in others])
    first, *rest = parts_of(change, partial(SIGNER.sign, snapshots.PURPOSE), SIGNER.key_id)
    assert rest
    assert install(tmp_path, clock).take_snapshot(first) is Taken.PART
    again = install(tmp_path, clock)
    assert again.decide_alone(again.show(_CARD, "04CAFE")).reason == Reason.UNKNOWN
    assert again.knowledge.version == 1
    assert [again.take_snapshot(part) for part in rest][-1] is Taken.WHOLE


def test_it_tries_no_pins_for_somebody_who_guesses(tmp_path: Path, clock: TestClock) -> None:
    terminal = install(tmp_path, clock, resident("04CAFE"))
    for nth in range(5):
        assert terminal.decide_alone(terminal.show(CredentialKind.PIN, f"123400000{nth}")).reason == Reason.UNKNOWN
    assert install(tmp_path, clock).decide_alone(terminal.show(CredentialKind.PIN, "1234482913")).reason == Reason.TOO_MANY_ATTEMPTS
    clock.advance(minutes=5)
    assert terminal.decide_alone(terminal.show(CredentialKind.PIN, "1234482913")).reason == Reason.UNKNOWN


def test_a_clock_that_a_power_cut_put_back_lets_nobody_in_again_whose_time_is_over(tmp_path: Path, clock: TestClock) -> None:
    until = MONDAY_9 + timedelta(hours=1)
    visitor = replace(resident("04CAFE"), times=(Times(valid_until=until),))
    terminal = install(tmp_path, clock, visitor)
    clock.now = until
    assert terminal.decide_alone(terminal.show(_CARD, "04CAFE")).reason == Reason.EXPIRED
    clock.now = datetime(1970, 1, 1, tzinfo=UTC)
    again = install(tmp_path, clock)
    for _ in range(2):
        assert again.decide_alone(again.show(_CARD, "04CAFE")).reason == Reason.EXPIRED
    # It was the clock that was ahead.
    clock.now = MONDAY_9
    again.set_clock()
    assert install(tmp_path, clock).decide_alone(again.show(_CARD, "04CAFE")).opens


def test_without_a_snapshot_it_opens_for_nobody_and_asks_nothing_that_tells_a_number(tmp_path: Path, clock: TestClock) -> None:
    terminal = install(tmp_path, clock)
    shown = terminal.show(_CARD, "04CAFE")
    assert terminal.question(shown) is None
    assert terminal.decide_alone(shown).reason == Reason.UNKNOWN
    assert "04CAFE" not in "".join(terminal.journal.records)


def test_fire_opens_whatever_anybody_says_until_it_is_over_however_often_the_door_falls_shut(tmp_path: Path, clock: TestClock) -> None:
    opened: list[str] = []
    terminal = install(tmp_path, clock, opened=opened)
    terminal.release()
    assert opened == ["fire_release"]
    assert install(tmp_path, clock).is_released
    terminal.sense("closed")
    assert install(tmp_path, clock).is_released
    terminal.end_release()
    assert not install(tmp_path, clock).is_released


def test_what_opened_by_our_command_does_not_open_again_when_the_network_is_gone(tmp_path: Path, clock: TestClock) -> None:
    one, visitor = resident("04CAFE"), Entry(new_id(), True, frozenset(), frozenset(), False, None, True, False, (Times(),), 1)
    terminal = install(tmp_path, clock, one, visitor)
    code, entered = code_for(one.subject_id, clock, 1), code_for(visitor.subject_id, clock, 2)
    for nth, each in enumerate((code, entered), 1):
        assert terminal.obey(command(clock, nth), terminal.show(CredentialKind.CODE, each))[1] == "opened"
    for known in (terminal, install(tmp_path, clock)):
        assert known.decide_alone(known.show(CredentialKind.CODE, code)).reason == Reason.CODE_USED
        another = code_for(visitor.subject_id, clock, 3)
        assert known.decide_alone(known.show(CredentialKind.CODE, another)).reason == Reason.ENTRIES_USED


def test_it_decides_alone_among_five_thousand_within_five_milliseconds(tmp_path: Path, clock: TestClock) -> None:
    entries = [resident(f"CARD{nth:05d}") for nth in range(5000)]
    terminal = install(tmp_path, clock, *entries)
    chance, took = Random(3), []
    for nth in range(200):
        code = code_for(entries[nth].subject_id, clock, nth)
        kind, value = (_CARD, f"CARD{chance.randrange(5000):05d}") if nth % 2 else (CredentialKind.CODE, code)
        began = time.perf_counter()
        reason, *_ = terminal.judge(terminal.show(kind, value))
        took.append(time.perf_counter() - began)
        assert reason is Reason.NONE
    assert median(took) < 0.005


class SlowBroker:
    """A connection on which no answer comes in time."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    async def publish(self, topic: str, payload: str, qos: int = 0) -> None:
        del qos
        self.said.append((topic.rpartition("/")[2], json.loads(payload)))


async def test_an_answer_that_comes_after_it_has_decided_alone_is_not_obeyed(
    tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "ANSWER_S", 0.05)
    opened: list[str] = []
    broker, terminal = SlowBroker(), install(tmp_path, clock, resident("04CAFE"), opened=opened)
    connected = ConnectedTerminal("", 0, "", terminal)
    connected._client = broker  # type: ignore[assignment]
    assert await connected.present(_CARD, "04DEAD") == Decision(Reason.UNKNOWN, offline=True)
    [(_, asked)] = broker.said
    late = {**command(clock, 1), "presentation": asked["id"]}
    await connected._hear_command(broker, json.dumps(late).encode())  # type: ignore[arg-type]
    assert not opened
    assert broker.said[-1][0] == "acknowledgements"
    assert broker.said[-1][1]["outcome"] == "expired"


# On a broker, with ingest and access behind it.


@contextmanager
def broker_of(servers: Servers, folder: Path) -> Iterator[Servers]:
    """The servers, with a broker of their own that speaks MQTT and knows who may do what."""
    text = accounts.configuration([INGEST, ACCESS], PASSWORDS, AccountKey(SEED).public_key)
    broker = start_nats(folder / "nats", mqtt_port=0, configuration=text)
    own = copy.copy(servers)
    own.nats = broker
    try:
        yield own
    finally:
        broker.stop()


@asynccontextmanager
async def town_of(servers: Servers, folder: Path) -> AsyncIterator[Fleet]:
    door_key = base64.b64encode(DOOR_KEY.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())).decode()
    own: dict[str, Any] = {**arrange.settings(str(folder / "blobs")), "LINLI_ACCESS_DOOR_KEY": door_key}
    for name in ("ingest", "access"):
        own |= {f"LINLI_{name.upper()}_NATS_USER": name, f"LINLI_{name.upper()}_NATS_PASSWORD": PASSWORDS[name]}
    async with fleet(servers, folder / "images", ACCESS, LINLI_INGEST_MQTT_ISSUER_SEED=SEED, **own) as town:
        yield town


class _Operated:
    """A broker whose address signs in as the operator, for what the test itself does."""

    def __init__(self, server: Any) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return f"nats://{accounts.OPERATOR}:{PASSWORDS[accounts.OPERATOR]}@{self._server.host}:{self._server.port}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Servers, Fleet]]:
    folder = tmp_path_factory.mktemp("town")
    with broker_of(servers, folder) as own:
        own.nats = _Operated(own.nats)  # type: ignore[assignment]
        async with town_of(own, folder) as running:
            operator = await nats.connect(own.nats.url)
            running.others = Publisher(operator, "others")
            yield own, running
            await operator.close()


async def call(town: Fleet, method: str, request: Any, account_id: UUID | None = None) -> Any:
    who = principal(*arrange.PERMISSIONS, community_id=town.community_id, account_id=account_id)
    return await town.running.caller(who).call(f"{arrange.CONTRACT.full_name}/{method}", request)


@pytest.mark.asyncio(loop_scope="module")
async def test_over_mqtt_it_asks_obeys_decides_alone_when_cut_off_and_tells_all_of_it_later(
    town: tuple[Servers, Fleet], tmp_path: Path
) -> None:
    servers, running = town
    account_id, device_id = new_id(), "terminal-east"
    secret = await running.register(device_id, Kind.TERMINAL)
    household = HouseholdChanged(household_id=str(new_id()), building_id=str(new_id()), account_ids=[str(account_id)])
    await running.publish(household, version=1)
    zone = await call(running, "CreateZone", pb.CreateZoneRequest(name="小区", kind=pb.ZONE_KIND_COMMUNITY))
    door = pb.CreateDoorRequest(
        zone_id=zone.zone_id,
        name="东门",
        kind=pb.DOOR_KIND_COMMUNITY_GATE,
        credential_kinds=arrange.ALL_KINDS,
        anti_passback=pb.ANTI_PASSBACK_OFF,
    )
    door_id = (await call(running, "CreateDoor", door)).door_id
    await call(running, "AddTerminal", pb.AddTerminalRequest(door_id=door_id, device_id=device_id, direction=pb.DIRECTION_IN))

    async def lives_here() -> bool:
        try:
            await call(running, "IssueCard", pb.IssueCardRequest(account_id=str(account_id), card_number="04CAFE"))
        except Exception:
            return False
        return True

    await eventually(lives_here, "the resident is known")
    public_key = base64.b64encode(DOOR_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    opened: list[str] = []
    terminal = Terminal(tmp_path, device_id, public_key, on_open=opened.append)
    port = servers.nats.mqtt_port
    assert port is not None
    device = ConnectedTerminal(servers.nats.host, port, secret, terminal)
    running_device = asyncio.create_task(device.run())
    try:

        async def knows() -> bool:
            return account_id in terminal.knowledge.entries

        await eventually(knows, "the terminal knows the resident")
        assert await device.present(_CARD, "04cafe") == Decision(Reason.NONE, offline=False)
        assert await device.present(_CARD, "04DEAD") == Decision(Reason.UNKNOWN, offline=False)
        code = await call(running, "CreateMyCode", pb.CreateMyCodeRequest(), account_id)
        assert await device.present(CredentialKind.CODE, code.code) == Decision(Reason.NONE, offline=False)
        await call(running, "OpenDoor", pb.OpenDoorRequest(door_id=door_id, reason="快递员"))
        await eventually(partial(_count, opened, 3), "the door opens from afar")
    finally:
        running_device.cancel()
        await asyncio.gather(running_device, return_exceptions=True)
    assert await device.present(_CARD, "04CAFE") == Decision(Reason.NONE, offline=True)
    # The power is cut; it comes back, and tells what happened.
    again = ConnectedTerminal(servers.nats.host, port, secret, Terminal(tmp_path, device_id, public_key))
    running_device = asyncio.create_task(again.run())
    try:

        async def told() -> bool:
            found = (await call(running, "ListPassages", pb.ListPassagesRequest())).passages
            return sorted((each.outcome, each.offline) for each in found) == [
                (pb.PASSAGE_OUTCOME_OPENED, False),
                (pb.PASSAGE_OUTCOME_OPENED, False),
                (pb.PASSAGE_OUTCOME_OPENED, False),
                (pb.PASSAGE_OUTCOME_OPENED, True),
                (pb.PASSAGE_OUTCOME_REFUSED, False),
            ]

        await eventually(told, "all passages")
        [state] = (await call(running, "ListTerminals", pb.ListTerminalsRequest())).terminals
        assert not state.journal_broken
    finally:
        running_device.cancel()
        await asyncio.gather(running_device, return_exceptions=True)


async def _count(opened: list[str], count: int) -> bool:
    return len(opened) == count
