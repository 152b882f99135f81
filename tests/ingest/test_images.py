"""Pictures in the blob store."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servicekit.blobs import Blobs
from services.ingest.images import PICTURES_MAX, Images
from tests.ingest.fleet import JPEG, PNG

COMMUNITY = uuid.UUID("0197f7a0-0000-7000-8000-000000000001")
DAY = datetime(2026, 1, 2, tzinfo=UTC)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@asynccontextmanager
async def bucket() -> AsyncIterator[tuple[str, dict[str, bytes]]]:
    """The least of an S3 server: it takes what is put. Yields its address and what it has."""
    objects: dict[str, bytes] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length"))
        method, path, _ = head.split(" ", 2)
        body = await reader.readexactly(length)
        if method == "PUT" and "authorization: AWS4-HMAC-SHA256" in head:
            objects[path] = body
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", objects


async def test_a_folder_keeps_each_picture_once_under_its_content(tmp_path: Path) -> None:
    images = Images(Blobs(str(tmp_path / "pictures")))
    first = await images.keep(COMMUNITY, DAY, [encoded(JPEG), encoded(PNG)], 5)
    again = await images.keep(COMMUNITY, DAY, [f"data:image/jpeg;base64,{encoded(JPEG)}"], 5)
    assert again == first[:1]
    kept = {path.relative_to(tmp_path / "pictures").as_posix() for path in (tmp_path / "pictures").rglob("*.*")}
    assert kept == set(first)
    assert all(key.startswith(f"{COMMUNITY}/2026-01-02/") for key in first)


async def test_a_record_has_at_most_so_many_pictures(tmp_path: Path) -> None:
    pictures = [encoded(JPEG + bytes([number])) for number in range(PICTURES_MAX + 5)]
    assert len(await Images(Blobs(str(tmp_path))).keep(COMMUNITY, DAY, pictures, 5)) == PICTURES_MAX


async def test_an_s3_bucket_is_configured_by_its_address_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bucket() as (address, objects):
        variables = {
            "ENDPOINT_URL": address,
            "ALLOW_HTTP": "true",
            "REGION": "cn-north-1",
            "ACCESS_KEY_ID": "id",
            "SECRET_ACCESS_KEY": "key",
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        (key,) = await Images(Blobs("s3://cameras/linli")).keep(COMMUNITY, DAY, [encoded(JPEG)], 5)
        assert objects == {f"/cameras/linli/{key}": JPEG}


async def test_a_bucket_that_does_not_answer_costs_the_picture_and_no_more_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENDPOINT_URL": "http://127.0.0.1:9",
        "ALLOW_HTTP": "true",
        "ACCESS_KEY_ID": "id",
        "SECRET_ACCESS_KEY": "key",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    images = Images(Blobs("s3://cameras"))
    started = asyncio.get_running_loop().time()
    assert await images.keep(COMMUNITY, DAY, [encoded(JPEG)], 0.2) == []
    assert asyncio.get_running_loop().time() - started < 2
