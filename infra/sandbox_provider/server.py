"""The sandbox provider's HTTP server: the merchant's API, the payer's page and the faults. The protocol is described in the package."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.sandbox_provider.books import Books, Order, Refund, Refusal, Taking
from infra.sandbox_provider.courier import RETRY_DELAYS_S, Courier
from infra.sandbox_provider.faults import Fault, FaultKind, Faults
from infra.sandbox_provider.signatures import Signer, Verifier
from servicekit.clock import Clock, system_clock

T = TypeVar("T")
Answer = Callable[[Request, bytes], Awaitable[object]]
_BODY_BYTES_MAX = 64 * 1024
_Text = Annotated[str, msgspec.Meta(max_length=500)]
_Number = Annotated[str, msgspec.Meta(min_length=6, max_length=32)]
_Fen = Annotated[int, msgspec.Meta(gt=0, le=10**14)]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """From the environment, as LINLI_SANDBOX_KEY or LINLI_SANDBOX_KEY_FILE. Keys are `id:key`, 32 bytes of Ed25519 in base64."""

    # The provider's private key, which signs notifications and answers.
    key: str
    # The merchant's public keys, separated by commas.
    merchant_keys: str
    merchant_id: str = "linli"


class _OrderRequest(msgspec.Struct):
    out_trade_no: _Number
    amount_fen: _Fen
    description: _Text
    attach: _Text
    time_expire: _Instant
    notify_url: _Text


class _RefundRequest(msgspec.Struct):
    out_refund_no: _Number
    out_trade_no: _Number
    transaction_id: _Number
    amount_fen: _Fen
    total_fen: _Fen
    reason: _Text
    notify_url: _Text


def application(
    settings: Settings,
    state: Path,
    *,
    notify_url: str = "",
    clock: Clock = system_clock,
    retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> Starlette:
    """The server as an ASGI application. `state` is its file; `notify_url` takes every notification when it is not empty.

    Raises ValueError when a key is malformed.
    """
    books, faults, signer = Books(state), Faults([]), Signer(settings.key)
    courier = Courier(books, faults, signer, clock, notify_url, retry_delays_s)
    server = Server(settings, books, faults, courier, signer, clock)

    @asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncIterator[None]:
        delivering = asyncio.create_task(courier.run())
        yield
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        books.close()

    return Starlette(routes=server.routes(), lifespan=lifespan)


class Server:
    """Answers requests of the merchant, of payers, and of whoever tests with them."""

    def __init__(self, settings: Settings, books: Books, faults: Faults, courier: Courier, signer: Signer, clock: Clock) -> None:
        self._merchant_id = settings.merchant_id
        self._verifier = Verifier(settings.merchant_keys)
        self._books = books
        self._faults = faults
        self._courier = courier
        self._signer = signer
        self._clock = clock

    def routes(self) -> list[Route]:
        """The paths of the protocol."""
        return [
            self._merchant_route("POST", "/v3/orders", "prepay", self._prepay),
            self._merchant_route("GET", "/v3/orders/{out_trade_no}", "query", self._query),
            self._merchant_route("POST", "/v3/orders/{out_trade_no}/close", "close", self._close),
            self._merchant_route("POST", "/v3/refunds", "refund", self._refund),
            self._merchant_route("GET", "/v3/refunds/{out_refund_no}", "query_refund", self._query_refund),
            self._merchant_route("GET", "/v3/bills/{day}", "bill", self._bill),
            Route("/pay/{page}", self._page, methods=["GET"]),
            Route("/pay/{page}", self._pay, methods=["POST"]),
            Route("/faults", self._arm, methods=["POST"]),
            Route("/faults", self._disarm, methods=["DELETE"]),
            Route("/livez", lambda _request: PlainTextResponse("ok"), methods=["GET"]),
        ]

    def _merchant_route(self, method: str, path: str, operation: str, answer: Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            path = request.url.path
            signed = self._verifier.accepts(method, path, request.headers, body, self._clock())
            if not signed or request.headers.get("sandbox-merchant") != self._merchant_id:
                return self._respond(401, {"code": "SIGN_ERROR"})
            if len(body) > _BODY_BYTES_MAX:
                return self._respond(413, {"code": "TOO_LARGE"})
            if failure := await self._failure(operation, after=False):
                return failure
            try:
                content, status = await answer(request, body), 200
            except Refusal as refusal:
                content, status = {"code": refusal.code}, refusal.status
            except msgspec.DecodeError as error:
                content, status = {"code": "PARAM_ERROR", "message": str(error)}, 400
            return await self._failure(operation, after=True) or self._respond(status, content)

        return Route(path, endpoint, methods=[method])

    async def _failure(self, operation: str, *, after: bool) -> Response | None:
        if fault := self._faults.strikes(FaultKind.HANG, operation, after=after):
            await asyncio.sleep(fault.seconds)
        elif not self._faults.strikes(FaultKind.FAIL, operation, after=after):
            return None
        return self._respond(500, {"code": "SYSTEM_ERROR"})

    def _respond(self, status: int, content: object) -> Response:
        is_text = isinstance(content, str)
        body = content.encode() if isinstance(content, str) else msgspec.json.encode(content)
        media_type = "text/csv; charset=utf-8" if is_text else "application/json"
        return Response(body, status, self._signer.headers(body, self._clock()), media_type)

    async def _prepay(self, request: Request, body: bytes) -> object:
        asked = msgspec.json.decode(body, type=_OrderRequest)
        order = self._books.put_order(
            asked.out_trade_no,
            asked.amount_fen,
            asked.description,
            asked.attach,
            asked.time_expire,
            asked.notify_url,
            self._clock(),
        )
        return {"pay_url": f"{request.base_url}pay/{order.page}"}

    async def _query(self, request: Request, _body: bytes) -> object:
        order = self._books.order(request.path_params["out_trade_no"])
        takings = self._books.takings(order.out_trade_no)
        return {"out_trade_no": order.out_trade_no, "trade_state": self._trade_state(order, takings), "transactions": takings}

    def _trade_state(self, order: Order, takings: Sequence[Taking]) -> str:
        if takings:
            return "SUCCESS"
        return "CLOSED" if order.closed or self._clock() >= order.time_expire else "NOTPAY"

    async def _close(self, request: Request, _body: bytes) -> object:
        self._books.close_order(request.path_params["out_trade_no"])
        return {}

    async def _refund(self, _request: Request, body: bytes) -> object:
        asked = msgspec.json.decode(body, type=_RefundRequest)
        if self._faults.strikes(FaultKind.REFUSE_REFUND):
            raise Refusal(409, "NOT_ENOUGH")
        slow = self._faults.strikes(FaultKind.SLOW_REFUND)
        delay_s = slow.seconds if slow else 0.0
        refund, is_new = self._books.put_refund(
            asked.out_refund_no,
            asked.out_trade_no,
            asked.transaction_id,
            asked.amount_fen,
            self._clock() + timedelta(seconds=delay_s),
            abnormal=self._faults.strikes(FaultKind.ABNORMAL_REFUND) is not None,
        )
        if is_new:
            state = "ABNORMAL" if refund.abnormal else "SUCCESS"
            resource = {**self._refund_content(refund, state), "merchant_id": self._merchant_id}
            self._courier.send(asked.notify_url, f"REFUND.{state}", resource, delay_s)
        return self._refund_content(refund, refund.state(self._clock()))

    async def _query_refund(self, request: Request, _body: bytes) -> object:
        refund = self._books.refund(request.path_params["out_refund_no"])
        return self._refund_content(refund, refund.state(self._clock()))

    def _refund_content(self, refund: Refund, state: str) -> dict[str, object]:
        content: dict[str, object] = {
            "out_refund_no": refund.out_refund_no,
            "refund_id": refund.refund_id,
            "state": state,
            "amount_fen": refund.amount_fen,
        }
        if state != "PROCESSING":
            content["success_time"] = refund.success_time.isoformat()
        return content

    async def _bill(self, request: Request, _body: bytes) -> object:
        try:
            day = date.fromisoformat(request.path_params["day"])
        except ValueError:
            raise Refusal(400, "PARAM_ERROR") from None
        lines = self._books.bill(day, self._clock())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["kind", "merchant_id", "reference", "transaction_id", "amount_fen", "state", "time", "attach"])
        writer.writerows([line[0], self._merchant_id, *line[1:]] for line in lines)
        writer.writerow(["total", len(lines)])
        return text.getvalue()

    async def _page(self, request: Request) -> Response:
        try:
            order = self._books.order_of_page(request.path_params["page"])
        except Refusal as refusal:
            return _refused(request, refusal)
        state = self._trade_state(order, self._books.takings(order.out_trade_no))
        if state != "NOTPAY":
            return _html("已支付" if state == "SUCCESS" else "订单已关闭", order)
        return _html("待支付", order, '<form method="post"><button>支付</button></form>')

    async def _pay(self, request: Request) -> Response:
        times = 2 if self._faults.strikes(FaultKind.CHARGE_TWICE) else 1
        try:
            order, takings = self._books.pay(request.path_params["page"], self._clock(), times=times)
        except Refusal as refusal:
            return _refused(request, refusal)
        for taking in takings:
            resource: dict[str, object] = {
                "merchant_id": self._merchant_id,
                "out_trade_no": taking.out_trade_no,
                "transaction_id": taking.transaction_id,
                "amount_fen": taking.amount_fen,
                "success_time": taking.success_time.isoformat(),
            }
            self._courier.send(order.notify_url, "TRANSACTION.SUCCESS", resource)
        if _wants_json(request):
            return Response(msgspec.json.encode({"transactions": takings}), media_type="application/json")
        return _html("已支付", order)

    async def _arm(self, request: Request) -> Response:
        try:
            self._faults.arm(msgspec.json.decode(await request.body(), type=Fault))
        except (msgspec.DecodeError, ValueError) as error:
            return PlainTextResponse(str(error), 400)
        return Response(status_code=204)

    async def _disarm(self, _request: Request) -> Response:
        self._faults.armed.clear()
        return Response(status_code=204)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _refused(request: Request, refusal: Refusal) -> Response:
    if _wants_json(request):
        return Response(msgspec.json.encode({"code": refusal.code}), refusal.status, media_type="application/json")
    return HTMLResponse(f'<!doctype html><meta charset="utf-8"><title>沙箱支付</title><h1>{refusal.code}</h1>', refusal.status)


def _html(state: str, order: Order, action: str = "") -> Response:
    yuan = f"{order.amount_fen // 100}.{order.amount_fen % 100:02}"
    return HTMLResponse(
        '<!doctype html><html lang="zh"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>沙箱支付</title><h1>¥{yuan}</h1><p>{escape(order.description)}</p><p>{state}</p>{action}</html>"
    )
