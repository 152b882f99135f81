"""Live notifications: what one account is told, as it is told it, once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from infra.local.accounts import OPERATOR, configuration
from infra.local.nats import start_nats
from linli.notification.v1.events_pb2 import Notified
from servicekit.auth import Principal
from servicekit.errors import Unavailable
from servicekit.events import envelope, event_type
from servicekit.identifiers import new_id
from services.gateway import notifications
from services.gateway.feed import Feed
from services.gateway.notifications import PATH
from services.gateway.service import SERVICE
from tests.gateway.conftest import Client, run_gateway
from tests.support import Servers, eventually, principal

NOBODY = "127.0.0.1:9"


@pytest.fixture
async def phone(servers: Servers) -> AsyncIterator[Client]:
    async with run_gateway(servers, NOBODY, {"LINLI_GATEWAY_NOTIFICATION_CONNECTIONS_PER_ACCOUNT": "3"}) as client:
        async with listening(client):
            pass
        yield client


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    data: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.data["text"])


class Stream:
    """An open stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Event | None:
        """The next event; None when the stream has ended."""
        identifier = 0
        async with asyncio.timeout(20):
            async for line in self._lines:
                if line.startswith("id: "):
                    identifier = int(line[4:])
                elif line.startswith("data: "):
                    return Event(identifier, httpx.Response(200, content=line[6:].encode()).json())
        return None

    async def take(self, count: int) -> list[Event]:
        events = [await self.next() for _ in range(count)]
        assert None not in events
        return [event for event in events if event is not None]

    async def line(self) -> str:
        async with asyncio.timeout(20):
            return await anext(self._lines)


@asynccontextmanager
async def listening(client: Client, **headers: str) -> AsyncIterator[Stream]:
    """An open stream of the client's account, as soon as there is a place for it."""

    async def try_to_open() -> httpx.Response | None:
        request = client.http.build_request("GET", PATH, headers={"accept": "text/event-stream", **headers})
        response = await client.http.send(request, stream=True)
        if response.status_code == 200:
            return response
        assert response.status_code in (429, 503), await response.aread()
        await response.aclose()
        return None

    response = await eventually(try_to_open)
    assert response is not None
    try:
        stream = Stream(response)
        assert await stream.line() == "retry: 1000"
        yield stream
    finally:
        await response.aclose()


async def tell(client: Client, who: Principal, *texts: str) -> None:
    """Tells an account something, through whatever the broker is going through."""
    for text in texts:
        message = Notified(account_id=str(who.account_id), kind="parking.vehicle_entered", text_zh=f"中{text}", text_en=text, link="/v1/me")
        event_id = str(new_id())

        async def publish(message: Notified = message, event_id: str = event_id) -> bool:
            try:
                await client.platform.publish(message, who.community_id, event_id=event_id)
            except Unavailable:
                return False
            return True

        await eventually(publish)


async def test_an_account_hears_what_it_is_told_as_it_is_told(phone: Client) -> None:
    async with listening(phone) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-store"
        assert "content-encoding" not in stream.response.headers
        await tell(phone, phone.who, "first", "second")
        first, second = await stream.take(2)
    assert first.data | {"occurred_at": ""} == {"kind": "parking.vehicle_entered", "text": "first", "link": "/v1/me", "occurred_at": ""}
    assert first.data["occurred_at"].endswith("Z")
    assert second.text == "second"
    assert second.id > first.id


async def test_texts_are_in_the_language_asked_for(phone: Client) -> None:
    async with listening(phone, **{"accept-language": "zh-CN"}) as stream:
        await tell(phone, phone.who, "a")
        assert [event.text for event in await stream.take(1)] == ["中a"]


async def test_nobody_hears_what_others_are_told(phone: Client) -> None:
    neighbour = principal(community_id=phone.who.community_id)
    namesake = principal(account_id=phone.who.account_id)
    async with listening(phone) as stream:
        await tell(phone, neighbour, "for the neighbour")
        await tell(phone, namesake, "for the same account id in another community")
        await tell(phone, phone.who, "for me")
        assert [event.text for event in await stream.take(1)] == ["for me"]


async def test_all_phones_of_an_account_hear_it(phone: Client) -> None:
    async with listening(phone) as one, listening(phone) as other:
        await tell(phone, phone.who, "a")
        assert [(await stream.take(1))[0].text for stream in (one, other)] == ["a", "a"]


async def test_a_phone_that_comes_for_the_first_time_hears_nothing_old(phone: Client) -> None:
    async with listening(phone) as stream:
        await tell(phone, phone.who, "old")
        await stream.take(1)
    async with listening(phone) as stream:
        await tell(phone, phone.who, "new")
        assert [event.text for event in await stream.take(1)] == ["new"]


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_phone_that_comes_back_misses_nothing_and_hears_nothing_twice(phone: Client, by: str) -> None:
    neighbour = principal(community_id=phone.who.community_id)
    async with listening(phone) as stream:
        await tell(phone, phone.who, "1", "2", "3")
        heard = await stream.take(2)
    await tell(phone, neighbour, "other")
    await tell(phone, phone.who, "4", "5")
    last = str(heard[-1].id)
    path, headers = (f"{PATH}?last_event_id={last}", {}) if by == "query" else (PATH, {"last-event-id": last})
    async with phone.http.stream("GET", path, headers=headers) as response:
        stream = Stream(response)
        await stream.line()
        await tell(phone, phone.who, "6", "7")
        assert [event.text for event in await stream.take(5)] == ["3", "4", "5", "6", "7"]


async def test_events_told_while_a_phone_catches_up_come_after_and_once(phone: Client) -> None:
    async with listening(phone) as stream:
        await tell(phone, phone.who, "0")
        first = (await stream.take(1))[0]
    texts = [str(number) for number in range(1, 61)]
    await tell(phone, phone.who, *texts[:30])
    async with phone.http.stream("GET", PATH, headers={"last-event-id": str(first.id)}) as response:
        telling = asyncio.create_task(tell(phone, phone.who, *texts[30:]))
        heard = await Stream(response).take(60)
        await telling
    assert [event.text for event in heard] == texts
    assert [event.id for event in heard] == sorted({event.id for event in heard})


async def test_a_restart_of_the_broker_loses_and_repeats_nothing_inside_a_connection(phone: Client, servers: Servers) -> None:
    async with listening(phone) as stream:
        await tell(phone, phone.who, "1", "2")
        heard = await stream.take(2)
        servers.nats.restart()
        await tell(phone, phone.who, "3", "4")
        heard += await stream.take(2)
        servers.nats.kill()
        servers.nats.restart()
        await tell(phone, phone.who, "5")
        heard += await stream.take(1)
    assert [event.text for event in heard] == ["1", "2", "3", "4", "5"]
    assert [event.id for event in heard] == sorted({event.id for event in heard})


async def test_a_broker_that_lost_its_disk_is_heard_again(phone: Client, servers: Servers) -> None:
    async with listening(phone) as stream:
        await tell(phone, phone.who, "1", "2", "3")
        last = (await stream.take(3))[-1].id
        await servers.forget_streams()
        await tell(phone, phone.who, "4")
        assert [event.text for event in await stream.take(1)] == ["4"]
    async with listening(phone, **{"last-event-id": str(last)}) as stream:
        await tell(phone, phone.who, "5")
        assert [event.text for event in await stream.take(2)] == ["4", "5"], "the position is of a stream that is no more"


async def test_an_event_that_cannot_be_read_is_passed_over(phone: Client) -> None:
    async with listening(phone) as stream:
        subject = event_type(Notified).subject(Notified(account_id=str(phone.who.account_id)), phone.who.community_id)
        await phone.platform.host.running[0].publisher.send(subject, b"\xff\xff", {"ce-type": "linli.notification.v1.Notified"})
        await tell(phone, phone.who, "a")
        assert [event.text for event in await stream.take(1)] == ["a"]


async def test_a_quiet_stream_carries_heartbeats(phone: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notifications.HEARTBEAT_S == 15
    monkeypatch.setattr(notifications, "HEARTBEAT_S", 0.05)
    async with listening(phone) as stream:
        lines = [await stream.line() for _ in range(5)]
    assert lines == ["", ": ", "", ": ", ""]


async def test_a_stream_ends_with_its_token(phone: Client) -> None:
    token = phone.platform.mint.token(phone.who, exp=int(time.time()) + 2)
    async with listening(phone, authorization=f"Bearer {token}") as stream:
        assert await stream.next() is None
    assert (await phone.get(PATH, headers={"authorization": f"Bearer {token}"})).status_code == 401


async def test_a_stream_needs_a_token(phone: Client) -> None:
    async with httpx.AsyncClient(base_url=phone.url) as stranger:
        response = await stranger.get(PATH)
        assert (response.status_code, response.json()["code"]) == (401, "auth.token_missing")
        response = await stranger.get(PATH, headers={"authorization": "Bearer nonsense"})
        assert (response.status_code, response.json()["code"]) == (401, "auth.token_malformed")


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "9" * 30, "१"])
async def test_a_position_that_is_none_is_refused(phone: Client, position: str) -> None:
    response = await phone.get(PATH, params={"last_event_id": position})
    assert (response.status_code, response.json()["code"]) == (400, "request.last_event_id")


async def test_only_get_and_only_events_are_served(phone: Client) -> None:
    response = await phone.post(PATH, json={})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, OPTIONS")
    assert (await phone.get(PATH, headers={"accept": "application/json"})).status_code == 406


async def test_an_account_has_a_limited_number_of_streams(phone: Client) -> None:
    async with listening(phone) as first, listening(phone), listening(phone):
        refused = await phone.get(PATH)
        assert (refused.status_code, refused.json()["code"]) == (429, "notifications.too_many_connections")
        assert refused.headers["retry-after"]
        other = phone.platform.mint.token(principal())
        async with listening(phone, authorization=f"Bearer {other}"):
            pass
        await first.response.aclose()
        async with listening(phone):
            pass  # A place that was left is free again.


async def test_there_is_a_limited_number_of_streams_in_all(servers: Servers) -> None:
    async with run_gateway(servers, NOBODY, {"LINLI_GATEWAY_NOTIFICATION_CONNECTIONS_MAX": "1"}) as client, listening(client):
        other = client.platform.mint.token(principal())
        assert (await client.get(PATH, headers={"authorization": f"Bearer {other}"})).status_code == 429


async def test_a_phone_that_does_not_read_is_dropped_and_can_come_back(phone: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "_WRITE_S", 0.5)
    reader, writer = await _slow_stream(phone)
    filler = "x" * 40_000
    told = [f"{number} {filler}" for number in range(600)]
    await tell(phone, phone.who, *told)
    received = b""
    async with asyncio.timeout(30):
        while chunk := await reader.read(65536):
            received += chunk
    writer.close()
    heard = [int(line[4:]) for line in received.decode().splitlines() if line.startswith("id: ")]
    assert 0 < len(heard) < len(told), "it was dropped before it had heard everything"
    assert heard == list(range(heard[0], heard[0] + len(heard)))
    async with listening(phone, **{"last-event-id": str(heard[-1] - 1)}) as stream:
        texts = [event.text for event in await stream.take(3)]
    assert texts == told[len(heard) - 1 : len(heard) + 2]


async def _slow_stream(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that reads nothing until it is told to, beyond what its socket holds."""
    host, _, port = client.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
    authorization = client.http.headers["authorization"]
    headers = f"host: a\r\nconnection: close\r\naccept-language: en\r\nauthorization: {authorization}\r\n\r\n"
    writer.write(f"GET {PATH} HTTP/1.1\r\n{headers}".encode())
    await reader.readuntil(b"retry: 1000")
    return reader, writer


async def test_streams_end_when_the_gateway_drains(servers: Servers) -> None:
    async with run_gateway(servers, NOBODY, {"LINLI_DRAIN_S": "60"}) as client, listening(client) as stream:
        stopping = asyncio.create_task(client.platform.host.stop())
        assert await stream.next() is None
        async with asyncio.timeout(10):
            await stopping


async def test_the_gateway_asks_no_more_of_nats_than_it_declares(tmp_path: Path) -> None:
    passwords = dict.fromkeys(("gateway", OPERATOR), "secret")
    server = start_nats(tmp_path / "nats", configuration=configuration([SERVICE], passwords))
    who = principal()
    message = Notified(account_id=str(who.account_id), kind="test", text_en="a")
    event = envelope(message, who.community_id, event_id=str(new_id()), occurred_at=datetime.now(UTC))
    try:
        gateway = await nats.connect(server.url, user="gateway", password="secret", inbox_prefix=b"_INBOX.gateway")
        operator = await nats.connect(server.url, user=OPERATOR, password="secret", inbox_prefix=f"_INBOX.{OPERATOR}".encode())
        feed = Feed(gateway, 1)
        following = asyncio.create_task(feed.run())

        async def is_ready() -> bool:
            return feed.is_ready

        await eventually(is_ready)
        with feed.listen(who.community_id, who.account_id) as listener:
            await operator.jetstream().publish(event.subject, event.body, headers=event.headers("test"))
            notice = await listener.next(10)
        assert notice is not None
        assert notice.message == message
        assert [missed async for missed in feed.missed(who.community_id, who.account_id, 0, notice.sequence)] == [notice]
        assert await feed.holds(notice.sequence)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await asyncio.gather(gateway.close(), operator.close())
    finally:
        server.stop()


async def test_many_phones_share_one_consumer_of_the_broker(phone: Client) -> None:
    jetstream = phone.platform.host.running[0].nats.jetstream()
    async with listening(phone), listening(phone):
        consumers = await jetstream.consumers_info("LINLI_NOTIFICATION")
    assert len(consumers) == 1
