"""What each process of `linli up` is told: addresses, credentials and keys, as the services' settings name them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from console import catalog
from console.environment import CODES, Secrets
from infra.local import accounts
from infra.local.nats import NatsServer
from infra.local.postgres import PostgresServer
from servicekit import schema
from servicekit.clock import system_clock
from servicekit.config import load
from servicekit.database import PLATFORM, Resources, open_database
from servicekit.service import Service
from services.identity import operations
from services.identity import service as identity
from services.identity.store import PLATFORM_COMMUNITY
from services.ingest.nkeys import AccountKey, new_account_seed

OPERATOR_PHONE = "13800000000"
_MERCHANT, _MERCHANT_KEY, _PROVIDER_KEY = "linli", "merchant1", "provider1"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens, as host:port. gRPC and operations by process, HTTP by service."""

    http: dict[str, str]
    grpc: dict[str, str]
    ops: dict[str, str]
    provider: str

    def of(self, service: str) -> str:
        """The gRPC address of a service."""
        return self.grpc.get(service) or self.grpc["all"]


async def shared(folder: Path, secrets: Secrets, postgres: PostgresServer, nats: NatsServer, addresses: Addresses) -> dict[str, str]:
    """The environment of every service process; makes the databases that do not exist yet."""
    values = {
        "LINLI_NATS_URL": nats.url,
        "LINLI_DRAIN_S": "10",
        "LINLI_BLOBS_URL": str(folder / "images"),
        "LINLI_BLOB_TICKET_KEY": secrets.key("blob-ticket"),
    }
    databases = [service for service in catalog.find(["all"]) if service.migrations]
    made = await asyncio.gather(
        *(
            schema.provision(
                postgres.url(), service.name, secrets.password(f"{service.name}-owner"), secrets.password(f"{service.name}-database")
            )
            for service in databases
        )
    )
    for service, credentials in zip(databases, made, strict=True):
        values[f"LINLI_{service.name.upper()}_DATABASE_URL"] = credentials.service_url
        values[f"LINLI_{service.name.upper()}_MIGRATION_URL"] = credentials.owner_url
    for name in catalog.SERVICES:
        values[f"LINLI_{name.upper()}_ADDRESS"] = addresses.of(name)
    for name in (*catalog.SERVICES, accounts.OPERATOR):
        values[f"LINLI_{name.upper()}_NATS_USER"] = name
        values[f"LINLI_{name.upper()}_NATS_PASSWORD"] = secrets.password(f"{name}-nats")
    for name, address in addresses.http.items():
        values[f"LINLI_{name.upper()}_HTTP_ADDRESS"] = address
    return {**values, **_own(folder, secrets, addresses)}


def _own(folder: Path, secrets: Secrets, addresses: Addresses) -> dict[str, str]:
    """What single services are told."""
    return {
        "LINLI_IDENTITY_DATA_KEYS": f"k1:{secrets.key('identity-data')}",
        "LINLI_IDENTITY_INDEX_KEY": secrets.key("identity-index"),
        "LINLI_IDENTITY_CODE_SENDER": "development",
        "LINLI_IDENTITY_CODE_FILE": str(folder / CODES),
        "LINLI_INGEST_CREDENTIALS_KEY": secrets.key("ingest-credentials"),
        "LINLI_INGEST_GATE_PUBLIC_KEY": secrets.public_key("gate"),
        "LINLI_INGEST_DOOR_PUBLIC_KEY": secrets.public_key("door"),
        "LINLI_INGEST_MQTT_ISSUER_SEED": issuer_seed(secrets),
        "LINLI_PARKING_GATE_KEY": secrets.signing_key("gate"),
        "LINLI_WASTE_CODE_KEY": secrets.key("waste-code"),
        "LINLI_ACCESS_DOOR_KEY": secrets.signing_key("door"),
        "LINLI_ACCESS_MATCHING_KEY": secrets.key("access-matching"),
        "LINLI_ACCESS_DATA_KEYS": f"k1:{secrets.key('access-data')}",
        "LINLI_WORKORDERS_DATA_KEYS": f"k1:{secrets.key('workorders-data')}",
        "LINLI_BILLING_NOTIFICATION_URL_BASE": f"http://{addresses.http['gateway']}",
        "LINLI_BILLING_SANDBOX_URL": f"http://{addresses.provider}",
        "LINLI_BILLING_SANDBOX_MERCHANT_ID": _MERCHANT,
        "LINLI_BILLING_SANDBOX_MERCHANT_KEY": f"{_MERCHANT_KEY}:{secrets.signing_key('merchant')}",
        "LINLI_BILLING_SANDBOX_PROVIDER_KEYS": f"{_PROVIDER_KEY}:{secrets.public_key('provider')}",
    }


def issuer_seed(secrets: Secrets) -> str:
    """The key by which ingest signs devices in at NATS."""
    return secrets.other("mqtt-issuer", new_account_seed)


def nats_configuration(services: Sequence[Service], secrets: Secrets) -> str:
    """NATS's accounts and users: each service may use what its declaration needs, devices are signed in by ingest."""
    passwords = {name: secrets.password(f"{name}-nats") for name in (*(service.name for service in services), accounts.OPERATOR)}
    return accounts.configuration(services, passwords, issuer=AccountKey(issuer_seed(secrets)).public_key)


def provider_command(folder: Path, addresses: Addresses) -> list[str]:
    """How the sandbox payment provider is started."""
    return ["infra.sandbox_provider", "--address", addresses.provider, "--state", str(folder / "provider.sqlite")]


def provider_environment(secrets: Secrets) -> dict[str, str]:
    """The provider's own keys, and the merchant's public one."""
    return {
        "LINLI_SANDBOX_KEY": f"{_PROVIDER_KEY}:{secrets.signing_key('provider')}",
        "LINLI_SANDBOX_MERCHANT_KEYS": f"{_MERCHANT_KEY}:{secrets.public_key('merchant')}",
        "LINLI_SANDBOX_MERCHANT_ID": _MERCHANT,
    }


async def bootstrap_operator(environment: dict[str, str], secrets: Secrets) -> dict[str, str]:
    """Makes the operator of this installation and returns what it signs in with."""
    password = secrets.password("operator")
    database = await open_database("identity", environment["LINLI_IDENTITY_DATABASE_URL"], pool_size=1, clock=system_clock)
    try:
        database.resources = Resources(identity.tools(load(identity.Settings, "identity", environment)))
        async with database.transaction(PLATFORM) as tx:
            await operations.bootstrap_operator(tx, OPERATOR_PHONE, "平台管理员", password)
    finally:
        await database.close()
    return {"community_id": str(PLATFORM_COMMUNITY), "phone": OPERATOR_PHONE, "password": password}
