"""The blob store in a folder, and the addresses that phones get for it."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from servicekit.blobs import PATH, Blobs, BlobSettings, Stored, Ticket, Tickets, open_blobs, picture_type
from servicekit.config import SettingsError
from servicekit.errors import Conflict, Unavailable

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
KEY = "d2hhdCBhIGtleSB0aGF0IG5vYm9keSBjYW4gZ3Vlc3M="
JPEG = b"\xff\xd8\xff\xe0" + bytes(1000)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(BlobSettings(blobs_url=str(tmp_path / "blobs"), blob_ticket_key=KEY))


async def parts(*chunks: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    """What a phone sends, and what goes wrong after it."""
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


async def test_a_blob_is_kept_looked_at_read_and_deleted(blobs: Blobs) -> None:
    await blobs.put("here/a.jpg", JPEG)
    assert await blobs.look("here/a.jpg") == Stored(len(JPEG), JPEG[:32])
    assert await blobs.read("here/a.jpg") == JPEG
    assert b"".join([chunk async for chunk in blobs.chunks("here/a.jpg")]) == JPEG
    await blobs.delete("here/a.jpg")
    await blobs.delete("here/a.jpg")
    assert (await blobs.look("here/a.jpg"), await blobs.read("here/a.jpg")) == (None, None)
    await blobs.put("empty", b"")
    assert await blobs.look("empty") == Stored(0, b"")


async def test_what_comes_in_is_there_once_it_is_whole_and_is_not_replaced(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        await blobs.put_new("photo", parts(JPEG * 1000, then=KeyError("the phone went away")))
    assert await blobs.look("photo") is None
    await blobs.put_new("photo", parts(JPEG, b"more"))
    with pytest.raises(Conflict):
        await blobs.put_new("photo", parts(b"another"))
    assert await blobs.read("photo") == JPEG + b"more"
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["photo"]


async def test_a_store_that_cannot_be_reached_is_unavailable(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "blobs" / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        await blobs.put("file/under/a/file", JPEG)


def test_an_address_of_a_folder_holds_a_ticket(blobs: Blobs) -> None:
    upload = blobs.upload("photo", bytes_max=10, now=NOW, lasts=timedelta(minutes=5))
    assert (upload.method, upload.expires_at, upload.url[: len(PATH)]) == ("PUT", NOW + timedelta(minutes=5), PATH)
    assert blobs.tickets.read(upload.url[len(PATH) :]) == Ticket("PUT", "photo", 10, upload.expires_at)
    download = blobs.download("photo", now=NOW, lasts=timedelta(minutes=1))
    assert blobs.tickets.read(download[len(PATH) :]) == Ticket("GET", "photo", 0, NOW + timedelta(minutes=1))


def test_a_ticket_that_is_altered_in_any_place_or_signed_by_another_is_none() -> None:
    tickets, ticket = Tickets(b"k" * 32), Ticket("GET", "photo", 0, NOW)
    text = tickets.write(ticket)
    assert tickets.read(text) == ticket
    assert Tickets(b"x" * 32).read(text) is None
    for place, character in enumerate(text):
        for other in ("A", "B", ".", "", "=", "%"):
            if other != character:
                assert tickets.read(text[:place] + other + text[place + 1 :]) is None
    for wrong in ("", ".", "a", "é", "=.=", text + "A", text + "é", text.partition(".")[0]):
        assert tickets.read(wrong) is None


def test_s3_signs_its_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "cn-north-1"}.items():
        monkeypatch.setenv(name, value)
    bucket = open_blobs(BlobSettings(blobs_url="s3://bucket/prefix"))
    upload = bucket.upload("photo", bytes_max=10, now=NOW, lasts=timedelta(minutes=5))
    assert upload.url.startswith("https://")
    assert "/bucket/prefix/photo?" in upload.url
    assert "X-Amz-Expires=300" in upload.url
    assert "X-Amz-Signature" in bucket.download("photo", now=NOW, lasts=timedelta(minutes=1))


@pytest.mark.parametrize(
    ("url", "name"), [("/proc/nothing/here", "LINLI_BLOBS_URL"), ("ftp://host", "LINLI_BLOBS_URL"), ("", "LINLI_BLOB")]
)
def test_a_wrong_store_stops_the_start_with_the_name_of_the_setting(url: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=name):
        open_blobs(BlobSettings(blobs_url=url or str(tmp_path)))


def test_pictures_are_known_by_their_first_bytes() -> None:
    heads = {
        "jpg": JPEG[:12],
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0",
    }
    assert {picture_type(head): head for head in heads.values()} == heads
    for other in (b"", b"<svg", b"GIF89a", b"%PDF-1.7", b"RIFF\x10\0\0\0WAVEfmt ", b"\0\0\0\x18ftypmp42", b"MZ\x90"):
        assert picture_type(other) == ""
