"""The gateway: HTTP and JSON for phones in front of every service, generated from their contracts, and live notifications."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Annotated

import msgspec
from starlette.middleware.cors import CORSMiddleware

from servicekit.blobs import BlobSettings, open_blobs
from servicekit.config import Count, SettingsError
from servicekit.service import Asgi, Running, Service
from services.gateway import contracts, openapi
from services.gateway.app import Gateway, Limits
from services.gateway.blobs import BlobRoute
from services.gateway.documentation import Pages
from services.gateway.feed import NATS_PUBLISHES, Feed
from services.gateway.notifications import Connections, Notifications
from services.gateway.rate_limits import RateLimit, networks
from services.gateway.routes import compile_routes
from services.gateway.transcode import compile_route

_REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "X-Request-Id", "X-Timeout-Ms")
_ANSWER_HEADERS = ("ETag", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id")
RatePerMinute = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class Settings(BlobSettings, frozen=True, kw_only=True):
    """What an installation may choose. A rate of 0 is no limit."""

    account_requests_per_minute: RatePerMinute = 600
    # Many phones share one address of a mobile network, or a proxy's when none is trusted.
    address_requests_per_minute: RatePerMinute = 6000
    requests_in_flight_max: Count = 1000
    body_bytes_max: Count = 1024 * 1024
    timeout_s: Annotated[int, msgspec.Meta(ge=1, le=30)] = 10
    # Comma-separated networks whose X-Forwarded-For is believed, such as 10.0.0.0/8.
    trusted_proxies: str = ""
    # Comma-separated origins of web pages that may call the API, such as https://app.example; none by default.
    cors_origins: str = ""
    notification_connections_max: Count = 10_000
    notification_connections_per_account: Count = 8


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """The gateway with its channels to the services, and the feed that it hears notifications from."""
    settings: Settings = running.settings
    store = open_blobs(settings)
    feed = Feed(running.nats, running.process.stream_replicas)
    known = contracts.load()
    peers = {name: running.peer(name) for name in running.peers}
    connections = Connections(settings.notification_connections_per_account, settings.notification_connections_max)
    table = compile_routes(known.services)
    transcodings = [compile_route(route) for route in table.routes]
    gateway = Gateway(
        table=table,
        transcodings=transcodings,
        peers=peers,
        verifier=running.verifier,
        pages=Pages(openapi.build(known, transcodings)),
        live=Notifications(feed, connections),
        blob_route=BlobRoute(store, running.clock) if store.is_folder else None,
        limits=_limits(settings),
    )
    following = asyncio.create_task(feed.run())
    draining = asyncio.create_task(_end_on_drain(running, feed))
    try:
        yield [gateway, store]
    finally:
        for task in (following, draining):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(peer.close() for peer in peers.values()))


def _limits(settings: Settings) -> Limits:
    try:
        trusted = networks(settings.trusted_proxies)
    except ValueError:
        raise SettingsError("LINLI_GATEWAY_TRUSTED_PROXIES is wrong: it must be a comma-separated list of networks") from None
    return Limits(
        body_bytes_max=settings.body_bytes_max,
        in_flight_max=settings.requests_in_flight_max,
        timeout_s=settings.timeout_s,
        by_account=RateLimit("account", settings.account_requests_per_minute, monotonic),
        by_address=RateLimit("address", settings.address_requests_per_minute, monotonic),
        trusted_proxies=trusted,
    )


async def _end_on_drain(running: Running, feed: Feed) -> None:
    await running.draining.wait()
    feed.end()


def application(running: Running) -> Asgi:
    """The gateway, behind the rules for other origins' web pages when there are any."""
    gateway = running.resources.get(Gateway)
    settings: Settings = running.settings
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if not origins:
        return gateway
    return CORSMiddleware(
        gateway,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_ANSWER_HEADERS,
        max_age=600,
    )


SERVICE = Service(
    name="gateway",
    settings=Settings,
    resources=open_resources,
    http=application,
    nats_publishes=NATS_PUBLISHES,
    calls=contracts.services(),
    always_on=True,
)
