"""A real broker with the accounts that the platform gives it, ingest on it, and devices that speak MQTT."""

import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import nats
from nats.aio.client import Client

from infra.local import accounts
from infra.local.nats import NatsServer, start_nats
from servicekit.messaging import Publisher
from servicekit.service import Service
from services.ingest.nkeys import AccountKey, new_account_seed
from services.ingest.service import SERVICE
from tests.ingest.fleet import PARKING, Fleet, fleet
from tests.support import Servers

PASSWORDS = {name: f"password of {name}" for name in ("ingest", "parking", "access")} | {accounts.OPERATOR: "password-of-operators"}
SEED = new_account_seed()
# What access may do beside its events: it talks to its terminals itself.
ACCESS = Service(name="access", nats_publishes=["devices.*.snapshot", "devices.*.journal_wanted"])


class _AsOperator:
    """A broker whose address signs in as the operator, for what the test itself does."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return f"nats://{accounts.OPERATOR}:{PASSWORDS[accounts.OPERATOR]}@{self._server.host}:{self._server.port}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


@contextmanager
def guarded_servers(servers: Servers, folder: Path) -> Iterator[Servers]:
    """The servers, with a broker of their own that knows who may do what. It writes to `folder/nats/server.log`."""
    text = accounts.configuration([SERVICE, PARKING, ACCESS], PASSWORDS, AccountKey(SEED).public_key)
    broker = start_nats(folder / "nats", mqtt_port=0, configuration=text)
    own = copy.copy(servers)
    own.nats = _AsOperator(broker)  # type: ignore[assignment]
    try:
        yield own
    finally:
        broker.stop()


@asynccontextmanager
async def town_on_mqtt(guarded: Servers, folder: Path, *others: Service) -> AsyncIterator[Fleet]:
    """Runs ingest, and others beside it, on a guarded broker."""
    passwords: dict[str, Any] = {
        f"LINLI_{name.upper()}_NATS_{what}": value
        for name in ("ingest", "parking")
        for what, value in (("USER", name), ("PASSWORD", PASSWORDS[name]))
    }
    async with fleet(guarded, folder / "images", *others, LINLI_INGEST_MQTT_ISSUER_SEED=SEED, **passwords) as town:
        operator = await nats.connect(guarded.nats.url)
        town.others = Publisher(operator, "others")
        yield town
        await operator.close()


async def as_service(guarded: Servers, name: str, errors: list[str]) -> Client:
    """The connection of one service, with what it may do; `errors` hears what it may not."""

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    url = f"nats://{guarded.nats.host}:{guarded.nats.port}"
    return await nats.connect(
        url, user=name, password=PASSWORDS[name], inbox_prefix=f"_INBOX.{name}".encode(), error_cb=on_error, allow_reconnect=False
    )


def mqtt(guarded: Servers, device_id: str, secret: str, *, client_id: str | None = None) -> aiomqtt.Client:
    """A device's connection."""
    port = guarded.nats.mqtt_port
    assert port is not None
    return aiomqtt.Client(guarded.nats.host, port, username=device_id, password=secret, identifier=client_id or device_id, timeout=5)
