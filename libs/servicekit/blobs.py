"""The blob store: pictures and other files, in a folder or in anything that speaks S3; and the addresses that phones use for them.

A phone sends and fetches a blob itself, at an address that a service gives it for one blob and for some minutes. S3 has such addresses of
its own. A folder is served by the gateway, which believes tickets: what may be done with which blob until when, signed with a key that the
gateway and all services have. What a blob's key looks like and who may have it is its service's business.
"""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from servicekit import telemetry
from servicekit.config import SettingsError
from servicekit.database import forbid_in_transaction
from servicekit.errors import Conflict, Unavailable
from servicekit.identifiers import new_id

# Where the gateway serves a folder.
PATH: Final = "/v1/blobs/"
# As much of a blob as tells what it is.
HEAD_BYTES: Final = 32
_CHUNK_BYTES: Final = 256 * 1024
# What comes in is not in its place before it is whole.
_COMING_IN: Final = "coming-in"

Verb = Literal["GET", "PUT"]


class BlobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a service that keeps blobs: its own settings inherit these."""

    # A folder, which the gateway serves, or s3://bucket/prefix with credentials in the environment as S3's own tools read them. The same
    # for the gateway and all services.
    blobs_url: str = ".linli/images"
    # Signs the addresses of blobs in a folder: base64 of 32 random bytes, the same for the gateway and all services. Not needed with S3.
    blob_ticket_key: Annotated[str, msgspec.Meta(pattern="^([A-Za-z0-9+/]{43}=)?$")] = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a blob is: its size in bytes and the first of them."""

    size: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """Where a phone sends a blob. `url` is relative to the address of the API, or S3's own."""

    method: str
    url: str
    expires_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What may be done with a blob: PUT it, with at most so many bytes, or GET it; until when."""

    verb: Verb
    key: str
    bytes_max: int
    expires_at: datetime


class Tickets:
    """Writes and reads tickets."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, ticket: Ticket) -> str:
        """The ticket as a part of a path."""
        return self._signed(msgspec.json.encode((ticket.verb, ticket.key, ticket.bytes_max, int(ticket.expires_at.timestamp()))))

    def read(self, text: str) -> Ticket | None:
        """The ticket, which may have expired; None when it is none of ours, or was altered."""
        try:
            content = base64.urlsafe_b64decode(text.partition(".")[0] + "===")
        except ValueError:
            return None
        # The whole text is compared, because base64 has several spellings of the same bytes.
        if not hmac.compare_digest(self._signed(content).encode(), text.encode()):
            return None
        verb, key, bytes_max, expires_at_s = msgspec.json.decode(content, type=tuple[Verb, str, int, int])
        return Ticket(verb, key, bytes_max, datetime.fromtimestamp(expires_at_s, UTC))

    def _signed(self, content: bytes) -> str:
        signature = hmac.digest(self._key, b"linli.blob\0" + content, hashlib.sha256)
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (content, signature))


class Blobs:
    """The store. Nothing that is awaited here is called in a transaction; addresses may be made there."""

    def __init__(self, url: str, ticket_key: bytes = b"") -> None:
        """`url` is a folder, or s3://bucket/prefix. Raises ValueError, OSError or obstore's errors when it cannot be one."""
        if "://" in url and not url.startswith("s3://"):
            raise ValueError("neither a folder nor s3://")
        self._store = S3Store.from_url(url) if "://" in url else LocalStore(Path(url).absolute(), mkdir=True)
        self.tickets: Final = Tickets(ticket_key)

    @property
    def is_folder(self) -> bool:
        """Whether the gateway serves it."""
        return isinstance(self._store, LocalStore)

    async def put(self, key: str, data: bytes) -> None:
        """Keeps a blob, in place of the one that has its key. Raises Unavailable."""
        with _reaching():
            await obstore.put_async(self._store, key, data)

    async def put_new(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        """Keeps what comes in as it comes, into a folder; it is there once it is whole.

        Raises Conflict when there is one already, Unavailable, and whatever `chunks` raises.
        """
        coming = f"{_COMING_IN}/{new_id()}"
        with _reaching():
            try:
                await obstore.put_async(self._store, coming, chunks, use_multipart=True, chunk_size=_CHUNK_BYTES, max_concurrency=1)
                await obstore.rename_async(self._store, coming, key, overwrite=False)
            except AlreadyExistsError:
                raise already_stored() from None
            finally:
                with suppress(FileNotFoundError):
                    await obstore.delete_async(self._store, coming)

    async def look(self, key: str) -> Stored | None:
        """What a blob is; None when there is none. Raises Unavailable."""
        with _reaching():
            try:
                size = (await obstore.head_async(self._store, key))["size"]
                head = await obstore.get_range_async(self._store, key, start=0, end=min(size, HEAD_BYTES)) if size else b""
            except FileNotFoundError:
                return None
        return Stored(size, bytes(head))

    async def read(self, key: str) -> bytes | None:
        """A blob, whose size was looked at before; None when there is none. Raises Unavailable."""
        with _reaching():
            try:
                return bytes(await (await obstore.get_async(self._store, key)).bytes_async())
            except FileNotFoundError:
                return None

    async def chunks(self, key: str) -> AsyncIterator[bytes]:
        """A blob part by part, nothing when there is none. Raises Unavailable."""
        with _reaching(), suppress(FileNotFoundError):
            async for chunk in (await obstore.get_async(self._store, key)).stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)

    async def delete(self, key: str) -> None:
        """Removes a blob, if there is one. Raises Unavailable."""
        with _reaching(), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)

    def upload(self, key: str, *, bytes_max: int, now: datetime, lasts: timedelta) -> Upload:
        """Where a phone may send the blob of a new key. Look at what came before it is used: S3 knows no `bytes_max`, and lets a phone send
        again until the address expires.
        """
        expires_at = now + lasts
        return Upload("PUT", self._address(Ticket("PUT", key, bytes_max, expires_at), lasts), expires_at)

    def download(self, key: str, *, now: datetime, lasts: timedelta) -> str:
        """Where a phone may fetch a blob. Relative to the address of the API, or S3's own."""
        return self._address(Ticket("GET", key, 0, now + lasts), lasts)

    def _address(self, ticket: Ticket, lasts: timedelta) -> str:
        if isinstance(self._store, LocalStore):
            return PATH + self.tickets.write(ticket)
        return obstore.sign(self._store, ticket.verb, ticket.key, lasts)


def open_blobs(settings: BlobSettings) -> Blobs:
    """The store that the settings name. Raises SettingsError."""
    try:
        blobs = Blobs(settings.blobs_url, base64.b64decode(settings.blob_ticket_key))
    except (BaseError, OSError, ValueError) as error:
        raise SettingsError(f"LINLI_BLOBS_URL is wrong: {type(error).__name__}") from None
    if blobs.is_folder and not settings.blob_ticket_key:
        raise SettingsError("LINLI_BLOB_TICKET_KEY is not set, and LINLI_BLOBS_URL is a folder")
    return blobs


def picture_type(head: bytes) -> str:
    """What kind of picture begins like this: "jpg", "png", "webp" or "heic", as cameras and phones make them; empty when it is none."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    # ISO/IEC 23008-12: a file type box, whose major brand is that of a still picture or of a sequence of them.
    return "heic" if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1") else ""


def already_stored() -> Conflict:
    """The error for a second blob under one key."""
    return Conflict("blob.exists", "文件已上传", "This has been uploaded already")


@contextmanager
def _reaching() -> Iterator[None]:
    forbid_in_transaction("reaching the blob store")
    try:
        yield
    except (BaseError, OSError) as error:
        telemetry.log.warning("blob_store_not_reached", error=type(error).__name__)
        raise Unavailable("blob.unavailable", "文件存储暂时不可用，请稍后再试", "Files cannot be reached now", retry_after_s=2) from None
