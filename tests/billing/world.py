"""Billing as its tests meet it: on real servers, with the sandbox provider over HTTP, and what the gateway does with notifications."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from google.api.httpbody_pb2 import HttpBody
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.sandbox_provider.server import Settings, application
from infra.sandbox_provider.signatures import generate_key
from linli.billing.v1 import billing_pb2 as pb
from linli.billing.v1.events_pb2 import ChargeRaised
from servicekit.database import PLATFORM
from servicekit.errors import ServiceError
from servicekit.identifiers import new_id
from servicekit.rpc import Call
from servicekit.times import to_timestamp
from services.billing import collection, reconciling
from services.billing.service import SERVICE
from tests.support import Caller, Platform, Servers, TestClock, eventually, free_address, platform, principal

API = "linli.billing.v1.BillingService"
STAFF = (
    "billing.charges.read",
    "billing.payments.read",
    "billing.refunds.create",
    "billing.reconciliations.run",
    "billing.reconciliations.read",
)
MERCHANT = "linli-test"


@dataclass(frozen=True, slots=True)
class Keys:
    """The key pairs of the provider and of the merchant: private and public, as base64."""

    provider: tuple[str, str] = field(default_factory=generate_key)
    merchant: tuple[str, str] = field(default_factory=generate_key)

    def of_billing(self) -> dict[str, str]:
        """Billing's environment."""
        return {
            "LINLI_BILLING_SANDBOX_MERCHANT_ID": MERCHANT,
            "LINLI_BILLING_SANDBOX_MERCHANT_KEY": f"m1:{self.merchant[0]}",
            "LINLI_BILLING_SANDBOX_PROVIDER_KEYS": f"p1:{self.provider[1]}",
        }

    def of_sandbox(self) -> dict[str, str]:
        """The sandbox provider's environment."""
        return {
            "LINLI_SANDBOX_KEY": f"p1:{self.provider[0]}",
            "LINLI_SANDBOX_MERCHANT_KEYS": f"m1:{self.merchant[1]}",
            "LINLI_SANDBOX_MERCHANT_ID": MERCHANT,
        }


class _HttpServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # The test runner's signals are its own.


@asynccontextmanager
async def served(app: Any, address: str) -> AsyncIterator[str]:
    """An ASGI application on an address of this machine; yields its URL."""
    host, _, port = address.partition(":")
    server = _HttpServer(uvicorn.Config(app, host, int(port), log_config=None, access_log=False, lifespan="on"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task
        await asyncio.sleep(0.005)
    try:
        yield f"http://{address}"
    finally:
        server.should_exit = True
        await task


@dataclass(slots=True)
class Door:
    """Stands where the gateway stands: hands notifications to billing with their headers, and answers what billing answers."""

    caller: Caller | None = None
    # The code of each answer, in order: SUCCESS or that of the error.
    answers: list[str] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def application(self) -> Starlette:
        """The one route."""
        return Starlette(routes=[Route("/v1/payment-providers/{provider}/notifications", self._notify, methods=["POST"])])

    async def _notify(self, request: Request) -> Response:
        if self.caller is None:
            return Response(status_code=503)
        body, headers = await request.body(), dict(request.headers)
        self.received.append((headers, body))
        try:
            answer = await self.deliver(headers, body, request.path_params["provider"])
        except ServiceError as error:
            self.answers.append(error.code)
            return JSONResponse({"code": error.code}, error.http_status)
        self.answers.append("SUCCESS")
        return Response(answer.data, media_type=answer.content_type)

    async def deliver(self, headers: Mapping[str, str], body: bytes, provider: str = "sandbox") -> HttpBody:
        """Delivers a notification. Raises the service's errors."""
        assert self.caller is not None
        request = pb.ReceiveNotificationRequest(provider=provider, notification=HttpBody(content_type="application/json", data=body))
        metadata = {f"http-{name}": value for name, value in headers.items() if name.startswith("sandbox-")}
        answer: HttpBody = await self.caller.call(f"{API}/ReceiveNotification", request, **metadata)
        return answer


@dataclass(slots=True)
class World:
    """One community with its billing, and the provider."""

    running: Platform
    clock: TestClock
    door: Door
    keys: Keys
    sandbox_url: str
    http: httpx.AsyncClient
    community_id: uuid.UUID = field(default_factory=new_id)

    def payer(self, account_id: uuid.UUID | None = None) -> Caller:
        """Somebody of the community without any permission."""
        return self.running.caller(principal(community_id=self.community_id, account_id=account_id))

    def staff(self, *permissions: str, community_id: uuid.UUID | None = None) -> Caller:
        """Somebody who may do everything in billing, or what is named."""
        return self.running.caller(principal(*(permissions or STAFF), community_id=community_id or self.community_id))

    async def publish_charge(
        self, amount_fen: int = 1250, *, minutes: float = 15, community_id: uuid.UUID | None = None, **raised: Any
    ) -> str:
        """Publishes a charge that is payable for some minutes, and does not wait. Returns its id."""
        values = {
            "charge_id": str(new_id()),
            "origin": "parking",
            "origin_id": "stay-1",
            "text_zh": "停车费",
            "text_en": "Parking",
            **raised,
        }
        until = to_timestamp(self.clock.now + timedelta(minutes=minutes))
        event = ChargeRaised(amount_fen=amount_fen, payable_until=until, **values)
        await self.running.publish(event, community_id or self.community_id, occurred_at=self.clock.now)
        return event.charge_id

    async def raise_charge(self, amount_fen: int = 1250, **raised: Any) -> str:
        """The same, and waits until billing knows it."""
        charge_id = await self.publish_charge(amount_fen, **raised)
        await self.charge_where(charge_id, lambda _charge: True, raised.get("community_id"))
        return charge_id

    async def charge_where(self, charge_id: str, fits: Callable[[pb.Charge], bool], community_id: uuid.UUID | None = None) -> pb.Charge:
        """The charge, as soon as it fits."""

        async def probe() -> pb.Charge | None:
            try:
                charge: pb.Charge = await self.staff(community_id=community_id).call(
                    f"{API}/GetCharge", pb.GetChargeRequest(charge_id=charge_id)
                )
            except ServiceError as error:
                if error.code != "billing.charge_not_found":
                    raise
                return None
            return charge if fits(charge) else None

        found = await eventually(probe, f"charge {charge_id}")
        assert found is not None
        return found

    async def create_payment(self, charge_id: str, payer: Caller | None = None, **metadata: str) -> pb.Payment:
        """Starts a payment."""
        request = pb.CreatePaymentRequest(charge_id=charge_id, provider="sandbox")
        payment: pb.Payment = await (payer or self.payer()).call(f"{API}/CreatePayment", request, **metadata)
        return payment

    async def pay(self, payment: pb.Payment) -> list[str]:
        """Pays on the provider's page. Returns the provider's numbers."""
        answer = await self.http.post(payment.pay_url, headers={"accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return [taking["transaction_id"] for taking in answer.json()["transactions"]]

    async def arm(self, kind: str, **fault: Any) -> None:
        """Arms a fault of the provider."""
        answer = await self.http.post(f"{self.sandbox_url}/faults", json={"kind": kind, **fault})
        assert answer.status_code == 204, answer.text

    async def payments(self) -> list[pb.Payment]:
        """All payments of the community, newest first."""
        answer: pb.ListPaymentsResponse = await self.staff().call(f"{API}/ListPayments", pb.ListPaymentsRequest(page_size=100))
        return list(answer.payments)

    async def payments_where(self, fits: Callable[[list[pb.Payment]], bool]) -> list[pb.Payment]:
        """All payments, as soon as they fit."""

        async def probe() -> list[pb.Payment] | None:
            payments = await self.payments()
            return payments if fits(payments) else None

        found = await eventually(probe, "payments")
        assert found is not None
        return found

    async def payment_where(self, payment_id: str, state: int) -> pb.Payment:
        """A payment, as soon as it is in a state."""
        found = await self.payments_where(lambda payments: any(p.payment_id == payment_id and p.state == state for p in payments))
        return next(payment for payment in found if payment.payment_id == payment_id)

    async def refund(self, payment_id: str, amount_fen: int, reason: str = "多收") -> pb.Refund:
        """Asks for a refund."""
        request = pb.RefundPaymentRequest(payment_id=payment_id, amount_fen=amount_fen, reason=reason)
        refund: pb.Refund = await self.staff().call(f"{API}/RefundPayment", request)
        return refund

    async def refunds(self, payment_id: str) -> list[pb.Refund]:
        """The refunds of a payment."""
        answer: pb.ListRefundsResponse = await self.staff().call(f"{API}/ListRefunds", pb.ListRefundsRequest(payment_id=payment_id))
        return list(answer.refunds)

    async def refunds_where(self, payment_id: str, state: int, count: int = 1) -> list[pb.Refund]:
        """The refunds of a payment, as soon as so many of them are in a state."""

        async def probe() -> list[pb.Refund] | None:
            refunds = await self.refunds(payment_id)
            return refunds if sum(refund.state == state for refund in refunds) == count else None

        found = await eventually(probe, f"refunds of {payment_id}")
        assert found is not None
        return found

    def call(self) -> Call:
        """What a timer gets."""
        return self.running.host.running[0].call()

    async def recover(self, *, after_s: float = 2.0) -> None:
        """Some time later, the timer that asks about pending payments runs."""
        self.clock.advance(seconds=after_s)
        await collection.recover_payments(self.call())

    async def send_refunds(self, *, after_s: float = 2.0) -> None:
        """Some time later, the timer that sends refunds runs."""
        self.clock.advance(seconds=after_s)
        await collection.send_refunds(self.call())

    async def reconcile_yesterdays(self) -> None:
        """The timer that reconciles runs."""
        await reconciling.reconcile_yesterdays(self.call())

    async def reconcile(self, day: str, caller: Caller | None = None) -> pb.Reconciliation:
        """Reconciles a day."""
        request = pb.ReconcileRequest(provider="sandbox", day=day)
        result: pb.Reconciliation = await (caller or self.staff()).call(f"{API}/Reconcile", request)
        return result

    async def incidents(self) -> list[tuple[str, str]]:
        """The kind and reference of all incidents."""
        async with self.running.transaction("billing", PLATFORM) as tx:
            return [(row["kind"], row["reference"]) for row in await tx.fetch("SELECT kind, reference FROM incidents ORDER BY incident_id")]

    async def answered(self, *codes: str) -> None:
        """Waits until notifications were answered with these codes, in any order, and with no others."""

        async def probe() -> bool:
            return len(self.door.answers) >= len(codes)

        await eventually(probe, f"{len(codes)} notifications; {self.door.answers}")
        assert sorted(self.door.answers) == sorted(codes)


def reference(payment: pb.Payment) -> str:
    """A payment's order as the provider knows it."""
    return uuid.UUID(payment.payment_id).hex


@asynccontextmanager
async def world(servers: Servers, folder: Path, clock: TestClock | None = None) -> AsyncIterator[World]:
    """Everything running. The provider goes by the test's clock too, and repeats notifications quickly."""
    keys, door, clock = Keys(), Door(), clock or TestClock()
    sandbox = application(
        Settings(key=f"p1:{keys.provider[0]}", merchant_keys=f"m1:{keys.merchant[1]}", merchant_id=MERCHANT),
        folder / "sandbox.sqlite",
        clock=clock,
        retry_delays_s=(0.1,) * 20,
    )
    async with (
        served(sandbox, free_address()) as sandbox_url,
        served(door.application(), free_address()) as door_url,
        httpx.AsyncClient(trust_env=False) as http,
        platform(
            servers,
            SERVICE,
            clock=clock,
            settings={**keys.of_billing(), "LINLI_BILLING_SANDBOX_URL": sandbox_url, "LINLI_BILLING_NOTIFICATION_URL_BASE": door_url},
        ) as running,
    ):
        door.caller = running.caller()
        try:
            yield World(running, clock, door, keys, sandbox_url, http)
        finally:
            door.caller = None  # What the provider still sends finds nobody.


async def refusal(call: Awaitable[Any]) -> ServiceError:
    """The error that a call raises. Fails when it raises none."""
    try:
        answer = await call
    except ServiceError as error:
        return error
    raise AssertionError(f"answered {answer!r}")
