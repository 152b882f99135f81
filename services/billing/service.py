"""Billing's table of contents: its settings, what it publishes, consumes and runs on a timer, and how it is wired."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec

from linli.billing.v1 import billing_pb2
from linli.billing.v1.events_pb2 import ChargeRaised, ChargeWithdrawn, PaymentRefunded, PaymentSucceeded
from linli.notification.v1.events_pb2 import Notified
from servicekit import communities
from servicekit.messaging import on
from servicekit.service import Running, Service, contract, every_outside
from services.billing import collection, reactions, reconciling, rpc, sandbox
from services.billing.providers import Provider, Providers


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Which providers there are, and where they report. A provider without an address is switched off.

    Keys are Ed25519, 32 bytes in base64, each behind its id: `id:key`, and several separated by commas.
    """

    # Under this the providers reach the gateway.
    notification_url_base: str = "http://127.0.0.1:8080"
    sandbox_url: str = ""
    sandbox_merchant_id: str = "linli"
    # Signs our requests; one key.
    sandbox_merchant_key: str = ""
    # Verify what comes from the provider; several while it changes them.
    sandbox_provider_keys: str = ""


@asynccontextmanager
async def open_providers(running: Running) -> AsyncIterator[Sequence[object]]:
    """The configured providers. Raises SettingsError."""
    settings: Settings = running.settings
    by_name: dict[str, Provider] = {}
    async with httpx.AsyncClient(trust_env=False) as client:
        if settings.sandbox_url:
            by_name[sandbox.NAME] = sandbox.Sandbox(
                client,
                settings.sandbox_url,
                merchant_id=settings.sandbox_merchant_id,
                merchant_key=sandbox.only_key(settings.sandbox_merchant_key, "LINLI_BILLING_SANDBOX_MERCHANT_KEY"),
                provider_keys=sandbox.keys(settings.sandbox_provider_keys, "LINLI_BILLING_SANDBOX_PROVIDER_KEYS"),
                notify_url=f"{settings.notification_url_base.rstrip('/')}/v1/payment-providers/{sandbox.NAME}/notifications",
                clock=running.clock,
            )
        yield [Providers(by_name)]


SERVICE = Service(
    name="billing",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(billing_pb2.DESCRIPTOR, "BillingService", rpc),
    resources=open_providers,
    publishes=[PaymentSucceeded, PaymentRefunded, Notified],
    consumes=[
        on(ChargeRaised, reactions.raise_charge_on_charge_raised),
        on(ChargeWithdrawn, reactions.withdraw_charge_on_charge_withdrawn),
        communities.FOLLOWED,
    ],
    jobs=[
        every_outside(seconds=1, run=collection.recover_payments),
        every_outside(seconds=1, run=collection.send_refunds),
        every_outside(minutes=10, run=reconciling.reconcile_yesterdays),
    ],
    outside=True,
)
