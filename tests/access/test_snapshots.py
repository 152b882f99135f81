"""What terminals are told: in any order, with loss and repetition, they come to know what they are to know, and never go back."""

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linli.access.v1 import access_pb2 as pb
from servicekit.database import PLATFORM
from servicekit.identifiers import new_id
from servicekit.signing import PublicKeys, Signer
from services.access import snapshots
from services.access.deciding import Place, Reason
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.entries import Entry, Times
from services.access.service import SERVICE
from services.access.snapshots import Change, Knowledge, Settings, Taken, entry_of, entry_text, is_narrower, parts_of
from services.access.windows import Window
from tests.access.arrange import CARD, CODE, FACE, KEY, Community
from tests.access.arrange_terminals import PUBLIC_KEY, Device, asks, digest, terminal_at
from tests.support import eventually

SIGNER = Signer(KEY)
SIGN = partial(SIGNER.sign, snapshots.PURPOSE)
HAS_SIGNED = partial(PublicKeys(PUBLIC_KEY).has_signed, snapshots.PURPOSE)
HERE, DOOR = new_id(), new_id()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLACE = Place(HERE, DOOR, Direction.IN, frozenset(CredentialKind), AntiPassback.OFF, ZoneInfo("Asia/Shanghai"))
SETTINGS = Settings(PLACE, "Asia/Shanghai", 30)
SUBJECTS = [UUID(int=nth) for nth in range(1, 7)]


def entry(subject_id: UUID, *cards: int, entries_max: int = 0, times: tuple[Times, ...] = (Times(),)) -> Entry:
    digests = frozenset(card.to_bytes(32, "big") for card in cards)
    return Entry(subject_id, entries_max > 0, digests, frozenset(), False, None, True, False, times, entries_max)


def change(before: int, after: int, gone: Sequence[UUID] = (), entries: Sequence[Entry] = ()) -> Change:
    settings = SETTINGS if before else Settings(PLACE, "Asia/Shanghai", 30, bytes(32))
    return Change("t", HERE, before, after, settings, gone, [entry_text(each) for each in entries])


def parts(told: Change) -> list[bytes]:
    return parts_of(told, SIGN, SIGNER.key_id)


@pytest.fixture(scope="module", autouse=True)
def _small_parts() -> Iterator[None]:
    """Two subjects in a part, so that few make several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "_BODY_BYTES", 400)
        yield


# A community's history: which card each subject gets, from whoever had it; None when the subject is to be forgotten.
HISTORIES = st.lists(st.tuples(st.sampled_from(SUBJECTS), st.none() | st.integers(1, 3)), min_size=1, max_size=12)


@given(HISTORIES, st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5), st.randoms(use_true_random=False))
def test_parts_in_any_order_lost_and_repeated_lead_to_what_the_service_knows(
    history: list[tuple[UUID, int | None]], runs: list[tuple[int, int]], chance: Random
) -> None:
    states: list[dict[UUID, Entry]] = [{}]
    for subject_id, card in history:
        state = {each: known for each, known in states[-1].items() if each != subject_id}
        if card is not None:
            state = {each: entry(each) if entry(each, card) == known else known for each, known in state.items()}
            state[subject_id] = entry(subject_id, card)
        states.append(state)

    def lead(before: int, after: int) -> Change:
        both = zip(states[before:after], states[before + 1 : after + 1], strict=True)
        named = {each for one, other in both for each in one.keys() | other.keys() if one.get(each) != other.get(each)}
        gone = [each for each in sorted(named) if each not in states[after] and before]
        return change(before, after, gone, [known for each, known in states[after].items() if not before or each in named])

    newest = len(history)
    asked = [(min(pair) % (newest + 1), max(1, max(pair) % (newest + 1))) for pair in runs]
    sent = [part for before, after in asked if before < after for part in parts(lead(before, after))]
    sent = [part for part in sent for _ in range(chance.choice([0, 1, 1, 2]))]
    chance.shuffle(sent)
    known = Knowledge("t")
    for part in sent:
        version = known.version
        if known.take(part, HAS_SIGNED) is Taken.WHOLE:
            assert known.version > version
            assert known.entries == states[known.version]
    if known.version < newest:
        assert Taken.WHOLE in [known.take(part, HAS_SIGNED) for part in parts(lead(known.version, newest))]
    assert known.entries == states[newest]
    assert all(known.find(digest) == each for each in states[newest].values() for digest in each.cards)
    restored = Knowledge.restored("t", known.stored())
    assert (restored.version, restored.entries, restored.settings) == (known.version, known.entries, known.settings)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_bit_of_a_part_can_be_another(place: int, bit: int) -> None:
    [genuine] = parts(change(0, 1, entries=[entry(SUBJECTS[0], 1)]))
    flipped = bytearray(genuine)
    flipped[place % len(flipped)] ^= 1 << bit
    one, other = Knowledge("t"), Knowledge("t")
    one.take(genuine, HAS_SIGNED)
    if other.take(bytes(flipped), HAS_SIGNED) is Taken.WHOLE:
        # What is not signed is not believed either: the id of the key, blanks, how base64 ends.
        assert other.stored() == one.stored()
    else:
        assert (other.version, other.entries) == (0, {})


def test_what_is_older_for_another_or_leaves_a_gap_is_refused() -> None:
    known = Knowledge("t")
    first = parts(change(0, 5, entries=[entry(each, nth) for nth, each in enumerate(SUBJECTS, 1)]))
    assert [known.take(part, HAS_SIGNED) for part in first] == [Taken.PART] * (len(first) - 1) + [Taken.WHOLE]
    assert {known.take(part, HAS_SIGNED) for part in first} == {Taken.OLD}
    assert known.take(parts(change(0, 4))[0], HAS_SIGNED) is Taken.OLD
    assert known.take(parts(change(6, 7))[0], HAS_SIGNED) is Taken.GAP
    assert Knowledge("other").take(first[0], HAS_SIGNED) is Taken.STRANGE
    assert known.take(b"{}", HAS_SIGNED) is Taken.UNREADABLE
    newer = parts(change(5, 9, [SUBJECTS[0]], [entry(each, 7) for each in SUBJECTS[1:]]))
    assert known.take(newer[0], HAS_SIGNED) is Taken.PART
    # Of one whose beginning it has heard, no earlier one is taken in any more.
    assert known.take(parts(change(5, 8, [], [entry(SUBJECTS[0], 1)]))[0], HAS_SIGNED) is Taken.OLD
    assert SUBJECTS[0] not in known.entries


def test_halves_of_two_snapshots_between_the_same_versions_are_no_whole() -> None:
    one, other, *rest = [entry(each, nth) for nth, each in enumerate(SUBJECTS, 1)]
    first, second = parts(change(0, 5, entries=[one, other, *rest])), parts(change(0, 5, entries=[*rest, one, other]))
    assert len(first) == len(second) > 1
    known = Knowledge("t")
    assert {known.take(part, HAS_SIGNED) for part in (first[0], *second[1:])} == {Taken.PART}
    assert known.version == 0
    assert known.take(second[0], HAS_SIGNED) is Taken.WHOLE
    assert known.entries.keys() == set(SUBJECTS)


def test_whoever_loses_something_loses_it_with_the_first_part() -> None:
    known = Knowledge("t")
    for part in parts(change(0, 1, entries=[entry(each, nth) for nth, each in enumerate(SUBJECTS, 1)])):
        known.take(part, HAS_SIGNED)
    told = parts(change(1, 2, [SUBJECTS[3]], [entry(SUBJECTS[2]), *(entry(each, 9) for each in SUBJECTS[:2])]))
    assert len(told) > 1
    assert known.take(told[0], HAS_SIGNED) is Taken.PART
    assert known.find((3).to_bytes(32, "big")) is None
    assert known.find((4).to_bytes(32, "big")) is None
    assert known.version == 1


WINDOWS = st.builds(Window, st.frozensets(st.integers(1, 7), min_size=1), st.integers(0, 1439), st.integers(1, 1440))
INSTANTS = st.none() | st.integers(1_600_000_000_000_000, 4_000_000_000_000_000).map(lambda us: EPOCH + timedelta(microseconds=us))
TIMES = st.builds(Times, st.lists(WINDOWS, max_size=2).map(tuple), INSTANTS, INSTANTS)


@given(st.builds(entry, st.sampled_from(SUBJECTS), st.integers(0, 9), entries_max=st.integers(0, 2), times=st.tuples(TIMES)))
def test_an_entry_is_read_as_it_was_written(written: Entry) -> None:
    assert entry_of(json.loads(entry_text(written))) == written
    assert not is_narrower(written, written)


def test_every_part_fits_into_a_message_and_a_whole_community_into_parts() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "_BODY_BYTES", 28 * 1024)
        told = parts(change(0, 1, [new_id() for _ in range(3000)], [entry(new_id(), nth, nth + 10_000) for nth in range(5000)]))
    assert max(map(len, told)) <= snapshots.PART_BYTES_MAX
    known = Knowledge("t")
    assert [known.take(part, HAS_SIGNED) for part in told][-1] is Taken.WHOLE
    assert len(known.entries) == 5000


# With the service.

at_once = pytest.mark.asyncio(loop_scope="module")


@at_once
async def test_a_terminal_comes_to_know_who_may_enter_and_decides_alone_as_we_would(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(people=2), await community.door()
    await community.card(home.people[0], "04AABB01")
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        assert device.terminal.knowledge.entries.keys() == set(home.people)
        assert device.terminal.decide_alone(device.shows(CredentialKind.CARD, "04aabb01")).opens
        assert device.terminal.decide_alone(device.shows(CredentialKind.CARD, "04AABB02")).reason == Reason.UNKNOWN


@at_once
async def test_a_revocation_reaches_a_connected_terminal_without_its_asking(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(), await community.door()
    card = await community.card(home.people[0], "04AABB03")
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=card.credential_id))
        await _until_taken(device)
        assert device.terminal.decide_alone(device.shows(CredentialKind.CARD, "04AABB03")).reason == Reason.UNKNOWN


async def _until_taken(device: Device) -> None:
    """Waits until a whole snapshot has come, without a report."""

    async def taken() -> bool:
        return Taken.WHOLE in await device.hears()

    await eventually(taken, "a snapshot", deadline_s=5)


@at_once
async def test_consent_withdrawn_while_terminals_are_offline_is_confirmed_by_each_when_it_returns(
    community: Community, tmp_path: Path
) -> None:
    home, gates = await community.home(), [await community.door(kinds=[FACE, CARD]) for _ in range(3)]
    account = home.people[0]
    kinds = (pb.CONSENT_KIND_FACE_ON_TERMINALS, pb.CONSENT_KIND_FACE_ON_SERVER)
    consents = await community.consent(account, *kinds)
    await community.call_as(account, "EnrolMyFace", pb.EnrolMyFaceRequest(template=b"a face as terminals write it"))

    async def waiting() -> set[str]:
        listed = await community.call_as(account, "ListMyConsents", pb.ListMyConsentsRequest())
        return {each.device_id for consent in listed.consents for each in consent.removals if not each.HasField("confirmed_at")}

    folders = [tmp_path / gate.entrance for gate in gates]
    for gate, folder in zip(gates, folders, strict=True):
        async with terminal_at(community, gate, folder) as device:
            await device.sync()
            assert device.terminal.knowledge.templates[account] == b"a face as terminals write it"
    await community.call_as(account, "WithdrawConsent", pb.WithdrawConsentRequest(consent_id=consents[0].consent_id))
    community.clock.advance(hours=1)
    left = {gate.entrance for gate in gates}
    assert await waiting() == left
    for gate, folder in zip(gates, folders, strict=True):
        async with terminal_at(community, gate, folder) as device:
            assert device.terminal.decide_alone(device.shows(CredentialKind.FACE, str(account))).opens
            await device.sync()
            assert device.terminal.decide_alone(device.shows(CredentialKind.FACE, str(account))).reason == Reason.UNKNOWN
            assert not device.terminal.knowledge.templates
            assert base64.b64encode(b"a face as terminals write it").decode() not in device.terminal.knowledge.stored()
        left.remove(gate.entrance)
        assert await waiting() == left


@at_once
async def test_a_terminal_that_was_reset_is_told_everything_again(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(), await community.door()
    async with terminal_at(community, gate, tmp_path / "before") as device:
        await device.sync()
    async with terminal_at(community, gate, tmp_path / "after") as device:
        await device.sync()
        assert device.terminal.knowledge.entries.keys() == set(home.people)


@at_once
async def test_a_terminal_that_knows_more_than_a_restored_database_goes_forward(community: Community, tmp_path: Path) -> None:
    gate = await community.door()
    gone, home = new_id(), await community.home()
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        ahead = change(0, device.terminal.knowledge.version + 20, entries=[entry(gone, 1)])
        lost = Change(gate.entrance, community.community_id, 0, ahead.to_version, ahead.settings, (), ahead.entries)
        assert Taken.WHOLE in [device.terminal.take_snapshot(part) for part in parts(lost)]

        async def is_told() -> bool:
            await device.report()
            await device.hears()
            return device.terminal.knowledge.entries.keys() == set(home.people)

        await eventually(is_told, "the terminal knows what we know", every_s=0.05)
        assert device.terminal.knowledge.version > ahead.to_version


@at_once
async def test_a_terminal_takes_everything_anew_after_a_restore_though_its_version_is_one_that_we_give_out_again(
    community: Community, tmp_path: Path
) -> None:
    gate = await community.door()
    gone, home = new_id(), await community.home()
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        lost = change(0, device.terminal.knowledge.version + 1, entries=[entry(gone, 1)])
        lost = Change(gate.entrance, community.community_id, 0, lost.to_version, lost.settings, (), lost.entries)
        assert Taken.WHOLE in [device.terminal.take_snapshot(part) for part in parts(lost)]
        async with community.running.transaction("access", PLATFORM) as tx:
            assert SERVICE.after_restore is not None
            await SERVICE.after_restore(tx)
        await community.card(home.people[0], "04AABB77")
        await device.sync()
        assert device.terminal.knowledge.entries.keys() == set(home.people)


@at_once
async def test_a_terminal_that_was_taken_away_forgets_everything_and_comes_back(community: Community, tmp_path: Path) -> None:
    home, gate, other = await community.home(), await community.door(), await community.door()
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        await community.call("RemoveTerminal", pb.RemoveTerminalRequest(device_id=device.device_id))
        await device.sync()
        assert (device.terminal.knowledge.entries, device.terminal.knowledge.settings.matching_key) == ({}, None)
        await community.terminal(other.door_id, device.device_id, pb.DIRECTION_IN)
        await community.settle()
        await device.sync()
        place = device.terminal.knowledge.settings.place
        assert place is not None
        assert str(place.door_id) == other.door_id
        assert device.terminal.knowledge.settings.matching_key is not None
        assert device.terminal.knowledge.entries.keys() == set(home.people)


@at_once
async def test_a_door_that_takes_no_cards_any_more_says_so_to_its_terminals(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(), await community.door()
    await community.card(home.people[0], "04AABB05")
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        await community.call("UpdateDoor", pb.UpdateDoorRequest(door_id=gate.door_id, credential_kinds=[FACE, CODE]))
        await community.settle()
        await device.sync()
        assert device.terminal.decide_alone(device.shows(CredentialKind.CARD, "04AABB05")).reason == Reason.KIND_NOT_TAKEN
        assert not any(each.cards for each in device.terminal.knowledge.entries.values())


@at_once
async def test_who_was_let_in_where_a_terminal_was_is_not_let_in_where_it_is_now(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(), await community.door()
    office = await community.door(await community.zone(pb.ZONE_KIND_STAFF))
    await community.card(home.people[0], "04AABB06")
    card = digest(community, CARD, "04AABB06")
    assert await asks(community, gate.entrance, CARD, card) == ""
    await community.call("RemoveTerminal", pb.RemoveTerminalRequest(device_id=gate.entrance))
    await community.terminal(office.door_id, gate.entrance, pb.DIRECTION_IN)
    assert await asks(community, gate.entrance, CARD, card) == "unknown"
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        assert not device.terminal.knowledge.entries


@at_once
async def test_a_door_that_is_taken_out_of_use_lets_nobody_in_from_then_on(community: Community) -> None:
    home, gate = await community.home(), await community.door(has_exit=True)
    await community.card(home.people[0], "04AABB07")
    await community.call("UpdateDoor", pb.UpdateDoorRequest(door_id=gate.door_id, in_use=False))
    assert not await community.knows(gate.entrance, home.people[0])
    assert await community.knows(gate.exit, home.people[0])


@at_once
async def test_a_report_that_a_later_one_has_overtaken_says_nothing(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(), await community.door()
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        first = device.terminal.knowledge.version
        community.clock.advance(seconds=5)
        await community.card(home.people[0], "04AABB08")
        await device.sync()
        wanted = await community.wanted_version(gate.entrance)
        await community.reports(gate.entrance, first, after=timedelta(seconds=-5))
        community.clock.advance(seconds=5)
        await community.reports(gate.entrance, wanted)

        async def is_heard() -> bool:
            sql = "SELECT last_reported_at = $2 FROM terminals WHERE device_id = $1"
            return bool(await community.value(sql, gate.entrance, community.clock.now))

        await eventually(is_heard, "the last report")
        assert await community.wanted_version(gate.entrance) == wanted


@at_once
async def test_a_strangers_report_is_nobodys(community: Community, tmp_path: Path) -> None:
    gate, stranger = await community.door(), Community(community.town)
    await stranger.reports(gate.entrance, 1 << 62)
    await stranger.reports("no-such-terminal", 3)
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        assert device.terminal.knowledge.version < 100
