"""Photos by ticket: what a phone may send and fetch at an address that it was given, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from servicekit.blobs import PATH, Blobs, Ticket, Tickets
from servicekit.identifiers import new_id
from tests.gateway.conftest import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4000
MINUTE = timedelta(minutes=1)


@pytest.fixture
def blobs(client: Client) -> Blobs:
    """The store that the gateway serves."""
    (gateway,) = client.platform.host.running
    return gateway.resources.get(Blobs)


@pytest.fixture
async def phone(client: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A phone without an access token."""
    async with httpx.AsyncClient(base_url=client.url, headers={"accept-language": "en"}, timeout=20) as http:
        yield http


def upload_to(blobs: Blobs, key: str, bytes_max: int = len(JPEG), now: datetime | None = None) -> str:
    return blobs.upload(key, bytes_max=bytes_max, now=now or datetime.now(UTC), lasts=MINUTE).url


def download_of(blobs: Blobs, key: str, now: datetime | None = None) -> str:
    return blobs.download(key, now=now or datetime.now(UTC), lasts=MINUTE)


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    """A body whose length is not said."""
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_a_photo_is_sent_once_and_fetched_as_it_was(phone: httpx.AsyncClient, blobs: Blobs) -> None:
    key = f"photos/{new_id()}"
    address = upload_to(blobs, key)
    sent = await phone.put(address, content=in_parts(JPEG))
    assert (sent.status_code, sent.content) == (204, b"")
    assert code_of(await phone.put(address, content=JPEG)) == (409, "blob.exists")
    fetched = await phone.get(download_of(blobs, key))
    assert (fetched.status_code, fetched.content) == (200, JPEG)
    head = {name: fetched.headers[name] for name in ("content-type", "x-content-type-options", "content-length")}
    assert head == {"content-type": "image/jpeg", "x-content-type-options": "nosniff", "content-length": str(len(JPEG))}
    assert fetched.headers["content-security-policy"].startswith("default-src 'none'")
    looked = await phone.head(download_of(blobs, key))
    assert (looked.status_code, looked.content, looked.headers["content-length"]) == (200, b"", str(len(JPEG)))


async def test_what_is_no_picture_is_given_as_nothing_that_a_browser_runs(phone: httpx.AsyncClient, blobs: Blobs) -> None:
    await blobs.put("page", b"<script>alert(1)</script>")
    fetched = await phone.get(download_of(blobs, "page"))
    assert fetched.headers["content-type"] == "application/octet-stream"


async def test_a_file_above_the_tickets_limit_is_refused_and_not_kept(phone: httpx.AsyncClient, blobs: Blobs) -> None:
    key = f"photos/{new_id()}"
    address = upload_to(blobs, key, bytes_max=len(JPEG) - 1)
    assert code_of(await phone.put(address, content=JPEG)) == (413, "blob.too_large")
    assert code_of(await phone.put(address, content=in_parts(JPEG))) == (413, "blob.too_large")
    assert await blobs.look(key) is None
    assert (await phone.put(address, content=JPEG[:-1])).status_code == 204


async def test_a_phone_that_goes_away_in_the_middle_leaves_nothing(client: Client, phone: httpx.AsyncClient, blobs: Blobs) -> None:
    key = f"photos/{new_id()}"
    address = upload_to(blobs, key)
    host, _, port = client.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"PUT {address} HTTP/1.1\r\nHost: linli\r\nContent-Length: {len(JPEG)}\r\n\r\n".encode() + JPEG[:500_000])
    await writer.drain()
    writer.close()
    assert (await phone.put(address, content=JPEG)).status_code == 204
    assert await blobs.read(key) == JPEG


async def test_of_two_who_send_at_once_one_is_first(phone: httpx.AsyncClient, blobs: Blobs) -> None:
    key = f"photos/{new_id()}"
    address = upload_to(blobs, key)
    answers = await asyncio.gather(*(phone.put(address, content=in_parts(JPEG)) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [204, 409, 409, 409]
    assert await blobs.read(key) == JPEG


async def test_a_ticket_that_is_altered_expired_foreign_or_for_the_other_verb_opens_nothing(phone: httpx.AsyncClient, blobs: Blobs) -> None:
    key = f"photos/{new_id()}"
    await blobs.put(key, JPEG)
    good, hour_ago = download_of(blobs, key), datetime.now(UTC) - timedelta(hours=1)
    foreign = Tickets(b"another key").write(Ticket("GET", key, 0, datetime.now(UTC) + MINUTE))
    altered = good[:-1] + ("A" if good[-1] != "A" else "B")
    for wrong in (altered, PATH, PATH + "%00", PATH + "a.b", PATH + foreign, upload_to(blobs, key)):
        assert code_of(await phone.get(wrong)) == (403, "blob.ticket_refused"), wrong
    assert code_of(await phone.put(good, content=JPEG)) == (403, "blob.ticket_refused")
    assert code_of(await phone.get(download_of(blobs, key, now=hour_ago))) == (403, "blob.ticket_expired")
    assert code_of(await phone.put(upload_to(blobs, "new", now=hour_ago), content=JPEG)) == (403, "blob.ticket_expired")
    assert code_of(await phone.get(download_of(blobs, "nothing"))) == (404, "blob.not_found")
    assert (await phone.get(good)).status_code == 200


async def test_another_verb_is_not_allowed(phone: httpx.AsyncClient, blobs: Blobs) -> None:
    answer = await phone.post(download_of(blobs, "photo"))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")
    packed = await phone.put(upload_to(blobs, "packed"), content=JPEG, headers={"content-encoding": "gzip"})
    assert packed.status_code == 415
