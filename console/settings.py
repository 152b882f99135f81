"""What each process of `linli up` is told: addresses, files and, from `secrets.py`, credentials and keys."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from console import catalog, provisioning, secrets
from console.environment import CODES
from console.secrets import Postgres, Secrets
from infra.local.nats import NatsServer
from infra.local.postgres import PostgresServer
from servicekit import schema
from services.identity.store import PLATFORM_COMMUNITY

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


async def shared(folder: Path, known: Secrets, postgres: PostgresServer, nats: NatsServer, addresses: Addresses) -> dict[str, str]:
    """The environment of every service process; makes the databases that do not exist yet."""
    services = catalog.find(["all"])
    at = Postgres(postgres.host, postgres.port)
    await asyncio.gather(
        *(
            schema.provision(
                postgres.url(),
                service.name,
                known.password(f"{service.name}{secrets.OWNER}"),
                known.password(f"{service.name}-database"),
            )
            for service in services
            if service.migrations
        )
    )
    values = {
        "LINLI_NATS_URL": nats.url,
        "LINLI_DRAIN_S": "10",
        "LINLI_BLOBS_URL": str(folder / "images"),
        "LINLI_IDENTITY_CODE_SENDER": "development",
        "LINLI_IDENTITY_CODE_FILE": str(folder / CODES),
    }
    for each in secrets.installation(known, at, OPERATOR_PHONE).values():
        values |= {name: value for name, value in each.items() if name.startswith("LINLI_")}
    for name in catalog.SERVICES:
        values[f"LINLI_{name.upper()}_ADDRESS"] = addresses.of(name)
    for name, address in addresses.http.items():
        values[f"LINLI_{name.upper()}_HTTP_ADDRESS"] = address
    return {**values, **_billing(known, addresses)}


def _billing(known: Secrets, addresses: Addresses) -> dict[str, str]:
    """How billing reaches the sandbox payment provider."""
    return {
        "LINLI_BILLING_NOTIFICATION_URL_BASE": f"http://{addresses.http['gateway']}",
        "LINLI_BILLING_SANDBOX_URL": f"http://{addresses.provider}",
        "LINLI_BILLING_SANDBOX_MERCHANT_ID": _MERCHANT,
        "LINLI_BILLING_SANDBOX_MERCHANT_KEY": f"{_MERCHANT_KEY}:{known.signing_key('merchant')}",
        "LINLI_BILLING_SANDBOX_PROVIDER_KEYS": f"{_PROVIDER_KEY}:{known.public_key('provider')}",
    }


def provider_command(folder: Path, addresses: Addresses) -> list[str]:
    """How the sandbox payment provider is started."""
    return ["infra.sandbox_provider", "--address", addresses.provider, "--state", str(folder / "provider.sqlite")]


def provider_environment(known: Secrets) -> dict[str, str]:
    """The provider's own keys, and the merchant's public one."""
    return {
        "LINLI_SANDBOX_KEY": f"{_PROVIDER_KEY}:{known.signing_key('provider')}",
        "LINLI_SANDBOX_MERCHANT_KEYS": f"{_MERCHANT_KEY}:{known.public_key('merchant')}",
        "LINLI_SANDBOX_MERCHANT_ID": _MERCHANT,
    }


async def bootstrap_operator(environment: dict[str, str]) -> dict[str, str]:
    """Makes the operator of this installation and returns what it signs in with."""
    await provisioning.bootstrap(environment=environment)
    phone, password = environment["LINLI_OPERATOR_PHONE"], environment["LINLI_OPERATOR_PASSWORD"]
    return {"community_id": str(PLATFORM_COMMUNITY), "phone": phone, "password": password}
