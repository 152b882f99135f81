"""What every protocol of devices stands on: who is asking, how often it may, and how an observation leaves.

What a protocol says is in its own module: `plate_push`, `viid`, `batches`, `observing`, or those that `device_messages` names.
"""

import asyncio
import base64
import uuid
from collections.abc import Awaitable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from servicekit import telemetry
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import ServiceError, Unauthenticated, Unavailable
from servicekit.events import envelope
from servicekit.identifiers import derived_id
from servicekit.messaging import Publisher
from services.ingest import device_http
from services.ingest.credentials import Vault, is_secret
from services.ingest.decisions import Decisions
from services.ingest.device_http import Answer, Request
from services.ingest.devices import Kind, KnownDevice
from services.ingest.digest import Nonces
from services.ingest.images import Images
from services.ingest.limits import Limit, Limits
from services.ingest.registry import Registry

CAMERA_LIMIT = Limit(requests_per_s=200, in_flight_max=128)
EDGE_BOX_LIMIT = Limit(requests_per_s=5000, in_flight_max=256)
# How long the broker may take to acknowledge a report about a barrier before it goes to the outbox.
_REPORT_S = 0.3
_CHALLENGE = (b"www-authenticate", b'Basic realm="linli", charset="UTF-8"')


class Background:
    """Work that an answer leaves behind; waited for when the service stops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Awaitable[None]) -> None:
        """Runs `work`; an error is logged."""
        task = asyncio.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, seconds: float) -> None:
        """Waits for what is in work, and cancels what takes longer."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, work: Awaitable[None]) -> None:
        try:
            await work
        except ServiceError as error:
            telemetry.log.warning("background_work_failed", error=telemetry.describe(error))
        except Exception as error:
            telemetry.log.error("background_work_failed", exc_info=error)


@dataclass(frozen=True, slots=True)
class Intake:
    """The resources of ingest, in one hand."""

    clock: Clock
    database: Database
    publisher: Publisher
    registry: Registry
    vault: Vault
    nonces: Nonces
    images: Images
    decisions: Decisions
    limits: Limits
    keep_face_pictures: bool
    viid_server_id: str
    background: Background = field(default_factory=Background)

    async def authenticated(self, request: Request, kinds: Collection[Kind]) -> KnownDevice:
        """The device of an HTTP Basic header. Raises Unauthenticated, the same whatever is wrong."""
        device_id, secret = basic(request.header(b"authorization"))
        return await self.recognised(device_id, secret, kinds)

    async def recognised(self, device_id: str, secret: str, kinds: Collection[Kind]) -> KnownDevice:
        """The enabled device with this secret. Raises Unauthenticated, the same whatever is wrong."""

        def fits(known: KnownDevice) -> bool:
            return is_secret(secret, known.secret_hash) and not known.disabled and known.kind in kinds

        known = await self.registry.find_if(device_id, fits)
        if known is None:
            is_secret(secret, None)
            raise refused()
        return known

    def admitted(self, known: KnownDevice, limit: Limit) -> AbstractContextManager[None]:
        """One request of a device in work; it was heard. Raises Exhausted past a limit."""
        self.registry.seen(known.device_id)
        return self.limits.admitted(known.device_id, limit)

    async def publish(self, known: KnownDevice, event_id: uuid.UUID, observation: Message) -> None:
        """Publishes an observation of a device straight to JetStream, and returns when it is kept. Raises Unavailable."""
        await self.publisher.publish(
            envelope(
                observation,
                known.community_id,
                event_id=str(event_id),
                # The broker's clock and ours agree; what the device's says is in the observation.
                occurred_at=self.clock(),
                traceparent=telemetry.traceparent(),
            )
        )

    async def report(self, community_id: uuid.UUID, report: Message, *identity: str) -> None:
        """Publishes what happened at a barrier, through the outbox when the broker is away. Raises Unavailable when both are."""
        event = envelope(
            report,
            community_id,
            event_id=str(derived_id(report.DESCRIPTOR.full_name, *identity)),
            occurred_at=self.clock(),
            traceparent=telemetry.traceparent(),
        )
        try:
            await asyncio.wait_for(self.publisher.publish(event), _REPORT_S)
        except (Unavailable, TimeoutError):
            async with self.database.transaction(community_id) as tx:
                tx.publish(report)


def refused() -> Unauthenticated:
    """The one answer to whoever cannot show who it is: it does not tell whether there is such a device."""
    return Unauthenticated("ingest.credential_refused", "设备不存在或凭证错误", "Unknown device or wrong credential")


def render(error: ServiceError, request: Request) -> Answer:
    """An error for a device that signs in with HTTP Basic."""
    answer = device_http.render(error, request)
    return replace(answer, headers=(_CHALLENGE,)) if isinstance(error, Unauthenticated) else answer


def basic(header: str) -> tuple[str, str]:
    """Id and secret of an HTTP Basic header (RFC 7617). Raises Unauthenticated."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise refused()
    try:
        device_id, separator, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:  # Neither base64 nor ASCII nor UTF-8.
        raise refused() from None
    if not separator:
        raise refused()
    return device_id, secret


async def within(seconds: float, work: Awaitable[None]) -> None:
    """Waits for `work`, for at most so long. Raises Unavailable when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        raise Unavailable("messaging.unavailable", "消息服务暂时不可用", "The message broker does not answer", retry_after_s=1) from None
