"""Reading telemetry and observed objects."""

import asyncio
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from linli.device.v1.events_pb2 import ObjectObserved, Reading
from linli.identity.v1.events_pb2 import CommunityChanged
from linli.insights.v1.insights_pb2 import ListObservedObjectsRequest, ListObservedObjectsResponse, Point, ReadTelemetryRequest
from servicekit.auth import Principal
from servicekit.communities import remember_community_on_community_changed
from servicekit.database import PLATFORM
from servicekit.errors import Denied, Invalid
from servicekit.events import Received
from servicekit.times import to_timestamp
from services.insights import operations
from services.insights.steps import microseconds
from services.insights.store import Source
from tests.insights.builders import DAY, METRIC, batch, insights, read, reader, reading
from tests.support import Platform, Servers, eventually, principal

HOUR = timedelta(hours=1)


async def store(running: Platform, who: Principal, *batches: list[Reading], device_id: str = "sensor") -> None:
    """Stores each list of readings as a batch of its own."""
    async with running.transaction("insights", PLATFORM) as tx:
        sources = [Source(who.community_id, device_id, str(uuid.uuid4())) for _ in batches]
        await operations.write_batches(tx, [operations.Batch(*pair) for pair in zip(sources, batches, strict=True)])


async def live_in(running: Platform, who: Principal, zone: str, version: int = 1) -> None:
    await running.publish(CommunityChanged(community_id=str(who.community_id), time_zone=zone), who.community_id, version=version)

    async def known() -> bool:
        async with running.transaction("insights", who.community_id) as tx:
            return bool(await tx.fetchval("SELECT version = $1 FROM known_communities", version))

    await eventually(known)


# Few instants and values, so that steps and batches share readings.
READINGS = st.builds(
    lambda offset_us, value, sequence: Reading(metric=METRIC, at_us=microseconds(DAY) + offset_us, value=value, sequence=sequence),
    st.integers(-30, 60).map(lambda quarters: quarters * 900_000_000) | st.integers(-(10**11), 10**11),
    st.sampled_from([-40.0, 0.0, 21.5, 1e100]) | st.floats(-1e6, 1e6),
    st.integers(0, 1),
)


def naive(batches: list[list[Reading]], since: datetime, until: datetime, step_s: int, zone: ZoneInfo) -> dict[int, list[float]]:
    """The values of each step, by the instant at which it begins."""
    once: dict[tuple[int, int], float] = {}
    for each in (each for readings in batches for each in readings):
        key = (each.at_us, each.sequence)
        once[key] = min(each.value, once.get(key, each.value))
    by_step: defaultdict[int, list[float]] = defaultdict(list)
    for (at_us, _), value in sorted(once.items()):
        if microseconds(since) <= at_us < microseconds(until):
            begin = at_us - at_us % (step_s * 1_000_000) if step_s else at_us
            if step_s == 86_400:
                local = datetime.fromtimestamp(at_us // 1_000_000, zone)
                begin = microseconds(datetime(local.year, local.month, local.day, tzinfo=zone))
            by_step[begin].append(value)
    return by_step


def instant_us(point: Point) -> int:
    return point.at.seconds * 1_000_000 + point.at.nanos // 1000


def test_downsampling_agrees_with_a_naive_model(servers: Servers) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        running = runner.run(stack.enter_async_context(insights(servers)))
        people = {zone: reader() for zone in ("Asia/Shanghai", "Asia/Kathmandu", "America/New_York")}
        for zone, who in people.items():
            runner.run(live_in(running, who, zone))

        @settings(max_examples=60, deadline=None)
        @given(
            batches=st.lists(st.lists(READINGS, max_size=20), min_size=1, max_size=6),
            begin=st.integers(-24, 20),
            minutes=st.integers(1, 2 * 1440),
            step_s=st.sampled_from([60, 77, 900, 3_600, 86_400]),
            zone=st.sampled_from(sorted(people)),
        )
        def check(batches: list[list[Reading]], begin: int, minutes: int, step_s: int, zone: str) -> None:
            who, device_id = people[zone], str(uuid.uuid4())
            since, until = DAY + begin * HOUR, DAY + begin * HOUR + timedelta(minutes=minutes)
            runner.run(store(running, who, *batches, device_id=device_id))
            points = runner.run(read(running, who, since, until, step_s, device_id=device_id))
            expected = naive(batches, since, until, step_s, ZoneInfo(zone))
            assert [instant_us(point) for point in points] == sorted(expected)
            for point in points:
                measured = expected[instant_us(point)]
                assert (point.readings, point.minimum, point.maximum) == (len(measured), min(measured), max(measured))
                assert point.average == pytest.approx(sum(measured) / len(measured), abs=1e-6 * max(map(abs, measured)))
            singly = runner.run(read(running, who, since, until, 0, device_id=device_id))
            flat = naive(batches, since, until, 0, ZoneInfo(zone))
            assert sorted((instant_us(p), p.average) for p in singly) == sorted((at, v) for at, vs in flat.items() for v in vs)

        try:
            check()
        finally:
            runner.run(stack.aclose())


async def test_a_step_of_a_day_begins_at_the_communitys_own_midnight(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        await store(running, who, [reading(DAY + 15 * HOUR, 1), reading(DAY + 17 * HOUR, 3)])
        in_china = await read(running, who, step_s=86_400)
        assert [(point.at.ToDatetime(UTC), point.average) for point in in_china] == [(DAY - 8 * HOUR, 1), (DAY + 16 * HOUR, 3)]
        await live_in(running, who, "UTC", version=2)
        async with running.transaction("insights", who.community_id) as tx:
            late = CommunityChanged(community_id=str(who.community_id), time_zone="Asia/Tokyo")
            older = Received(event_id="", community_id=who.community_id, aggregate="", version=1, occurred_at=DAY, message=late)
            await remember_community_on_community_changed(tx, older)
        in_utc = await read(running, who, step_s=86_400)
        assert [(point.at.ToDatetime(UTC), point.average, point.readings) for point in in_utc] == [(DAY, 2, 2)]


async def test_the_end_of_a_range_is_outside_of_it(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        await store(running, who, [reading(DAY, 1), reading(DAY + HOUR, 2), reading(DAY + 2 * HOUR, 3)])
        assert [point.average for point in await read(running, who, DAY, DAY + 2 * HOUR)] == [1, 2]
        assert [point.average for point in await read(running, who, DAY + timedelta(microseconds=1), DAY + 3 * HOUR)] == [2, 3]


async def test_nobody_reads_another_communitys_telemetry_or_objects(servers: Servers) -> None:
    who, stranger = reader(), reader()
    async with insights(servers) as running:
        await store(running, who, [reading(DAY)])
        await running.publish(seen("r1"), who.community_id)
        await eventually(lambda: objects(running, who))
        assert len(await read(running, who)) == 1
        assert await read(running, stranger) == []
        assert await read(running, stranger, step_s=60) == []
        assert (await objects(running, stranger)) == []
        with pytest.raises(Denied):
            await read(running, principal("insights.objects.read", community_id=who.community_id))


@pytest.mark.parametrize(
    ("since", "until", "step_s", "code"),
    [
        (DAY, DAY, 60, "insights.range_inverted"),
        (DAY + HOUR, DAY, 0, "insights.range_inverted"),
        (DAY, DAY + timedelta(days=30), 60, "insights.too_many_points"),
        (datetime(2000, 1, 1, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC), 86_400, "insights.range_too_long"),
        (DAY, DAY + HOUR, -1, "request.invalid"),
        (DAY, DAY + HOUR, 86_401, "request.invalid"),
        (datetime(1999, 1, 1, tzinfo=UTC), DAY, 60, "request.invalid"),
        (DAY, datetime(9999, 12, 31, tzinfo=UTC), 60, "request.invalid"),
    ],
)
async def test_a_range_that_makes_no_sense_is_refused(servers: Servers, since: datetime, until: datetime, step_s: int, code: str) -> None:
    async with insights(servers) as running:
        with pytest.raises(Invalid) as refused:
            await read(running, reader(), since, until, step_s)
        assert refused.value.code == code


async def test_a_request_without_a_range_or_with_an_absurd_instant_is_refused(servers: Servers) -> None:
    async with insights(servers) as running:
        caller = running.caller(reader())
        since, until = to_timestamp(DAY), to_timestamp(DAY + HOUR)
        for request in (
            ReadTelemetryRequest(device_id="sensor", metric=METRIC),
            request_for(until=Timestamp(seconds=2**62), **{"from": since}),
            request_for(until=Timestamp(seconds=-(2**62)), **{"from": since}),
            request_for(until=until, device_id="a b", **{"from": since}),
            request_for(until=until, metric="x\0y", **{"from": since}),
        ):
            with pytest.raises(Invalid):
                await caller.call("linli.insights.v1.InsightsService/ReadTelemetry", request)


async def test_too_many_single_readings_are_refused_with_the_step_to_use(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        await store(running, who, [reading(DAY + timedelta(seconds=n), n) for n in range(5_001)])
        with pytest.raises(Invalid) as refused:
            await read(running, who)
        assert refused.value.code == "insights.too_many_points"
        step_s = int(refused.value.details["step_s"])
        assert f"step_s of {step_s}" in refused.value.en
        assert f"step_s 设为 {step_s}" in refused.value.zh
        assert sum(point.readings for point in await read(running, who, step_s=step_s)) == 5_001
        assert len(await read(running, who, DAY, DAY + timedelta(seconds=5_000))) == 5_000


async def test_a_range_with_more_readings_than_one_answer_reads_is_refused(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    who = reader()
    monkeypatch.setattr(operations, "_ANSWER_READINGS_MAX", 10)
    async with insights(servers) as running:
        await store(running, who, [reading(DAY + timedelta(minutes=n), n) for n in range(11)])
        with pytest.raises(Invalid) as refused:
            await read(running, who, step_s=86_400)
        assert refused.value.code == "insights.too_many_readings"


def request_for(**fields: object) -> ReadTelemetryRequest:
    return ReadTelemetryRequest(**{"device_id": "sensor", "metric": METRIC, **fields})  # type: ignore[arg-type]


def seen(record_id: str, occurred_at: datetime = DAY, images: int = 0, device_id: str = "camera") -> ObjectObserved:
    return ObjectObserved(
        device_id=device_id,
        record_id=record_id,
        kind="face",
        occurred_at=to_timestamp(occurred_at),
        received_at=to_timestamp(occurred_at + timedelta(seconds=1)),
        image_keys=[f"{record_id}/{n}" for n in range(images)],
        record_json='{"FaceID": "1"}',
    )


async def objects(running: Platform, who: Principal, device_id: str = "camera") -> list[str]:
    return [each.record_id for each in (await list_objects(running, who, device_id=device_id)).objects]


async def list_objects(running: Platform, who: Principal, **request: object) -> ListObservedObjectsResponse:
    asked = ListObservedObjectsRequest(**{"device_id": "camera", **request})  # type: ignore[arg-type]
    answer: ListObservedObjectsResponse = await running.caller(who).call("linli.insights.v1.InsightsService/ListObservedObjects", asked)
    return answer


async def test_objects_are_listed_newest_first_page_by_page_and_once_each(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        for n in (3, 1, 5, 2, 4):
            await running.publish(seen(f"r{n}", DAY + n // 2 * HOUR, images=n), who.community_id)
        await running.publish(seen("r5", DAY + 2 * HOUR, images=5), who.community_id)  # the camera sends it again
        await running.publish(seen("r9", device_id="other"), who.community_id)
        await eventually(lambda: objects(running, who, "other"))

        async def all_five() -> bool:
            return len(await objects(running, who)) == 5

        await eventually(all_five)
        first = await list_objects(running, who, page_size=2)
        second = await list_objects(running, who, page_size=2, page_token=first.next_page_token)
        third = await list_objects(running, who, page_size=2, page_token=second.next_page_token)
        pages = [[(each.record_id, each.images) for each in page.objects] for page in (first, second, third)]
        assert pages == [[("r5", 5), ("r4", 4)], [("r3", 3), ("r2", 2)], [("r1", 1)]]
        assert third.next_page_token == ""
        with pytest.raises(Invalid):
            await list_objects(running, who, page_token="nonsense")


async def test_objects_that_are_no_longer_kept_are_deleted(servers: Servers) -> None:
    who = reader()
    async with insights(servers, retention_days="20") as running:
        await running.publish(seen("old", DAY - timedelta(days=10)), who.community_id)
        await running.publish(seen("new"), who.community_id)

        async def both() -> bool:
            return await objects(running, who) == ["new", "old"]

        await eventually(both)
        running.clock.advance(days=8)
        async with running.transaction("insights", PLATFORM) as tx:
            await operations.forget_old(tx)
        assert await objects(running, who) == ["new"]


async def test_a_batch_travels_from_the_stream_to_a_reader(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        await running.publish(batch([reading(DAY, 20), reading(DAY + HOUR, 22)]), who.community_id)
        (step,) = await eventually(lambda: read(running, who, step_s=21_600))
        assert (step.at.ToDatetime(UTC), step.average, step.minimum, step.maximum, step.readings) == (DAY, 21, 20, 22, 2)
