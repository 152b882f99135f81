"""The sandbox provider as a process: what it takes and owes survives `kill -9`, and it says what is wrong with its settings."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from infra.sandbox_provider.books import Books, Refusal
from infra.sandbox_provider.faults import Fault, FaultKind, Faults
from linli.billing.v1 import billing_pb2 as pb
from servicekit.clock import system_clock
from servicekit.config import SettingsError
from servicekit.errors import Unavailable
from services.billing import sandbox
from services.billing.service import SERVICE
from tests.billing.world import Door, Keys, World, refusal, served
from tests.support import Servers, TestClock, eventually, free_address, platform

ROOT = Path(__file__).parents[2]


async def _start(address: str, state: Path, keys: Keys) -> asyncio.subprocess.Process:
    """The provider's process, when it answers."""
    arguments = ("-m", "infra.sandbox_provider", "--address", address, "--state", str(state))
    environment = {**os.environ, **keys.of_sandbox(), "PYTHONPATH": f"{ROOT}:{ROOT / 'libs'}"}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, env=environment)

    async def answers() -> bool:
        assert process.returncode is None
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(f"http://{address}/livez")).status_code == 200
        except httpx.HTTPError:
            return False

    await eventually(answers, "the sandbox provider")
    return process


@asynccontextmanager
async def _world(servers: Servers, sandbox_address: str, door_address: str, keys: Keys) -> AsyncIterator[World]:
    settings = {
        **keys.of_billing(),
        "LINLI_BILLING_SANDBOX_URL": f"http://{sandbox_address}",
        "LINLI_BILLING_NOTIFICATION_URL_BASE": f"http://{door_address}",
    }
    async with httpx.AsyncClient(trust_env=False) as http, platform(servers, SERVICE, settings=settings) as running:
        door = Door(running.caller())
        yield World(running, TestClock(), door, keys, f"http://{sandbox_address}", http)


async def test_money_that_was_taken_before_a_crash_is_reported_after_it(servers: Servers, tmp_path: Path) -> None:
    keys, address, door_address = Keys(), free_address(), free_address()
    process = await _start(address, tmp_path / "books.sqlite", keys)
    try:
        async with _world(servers, address, door_address, keys) as billing:
            billing.clock.now = system_clock()
            payment = await billing.create_payment(await billing.raise_charge())
            unpaid = await billing.create_payment(await billing.raise_charge())
            # Nobody takes notifications yet.
            await billing.pay(payment)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            assert isinstance(await refusal(billing.create_payment(await billing.raise_charge())), Unavailable)

            process = await _start(address, tmp_path / "books.sqlite", keys)
            async with served(billing.door.application(), door_address):
                await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
                await billing.answered("SUCCESS")
                await billing.pay(unpaid)
                await billing.payment_where(unpaid.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.mark.parametrize(
    ("key", "complaint"), [(None, b"LINLI_SANDBOX_KEY is not set"), ("nonsense", b"python -m infra.sandbox_provider: ")]
)
async def test_a_provider_without_its_keys_says_so_and_does_not_start(tmp_path: Path, key: str | None, complaint: bytes) -> None:
    environment = {**os.environ, **Keys().of_sandbox(), "PYTHONPATH": f"{ROOT}:{ROOT / 'libs'}"}
    environment.pop("LINLI_SANDBOX_KEY")
    if key is not None:
        environment["LINLI_SANDBOX_KEY"] = key
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "infra.sandbox_provider",
        "--state",
        str(tmp_path / "books.sqlite"),
        cwd=ROOT,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert complaint in errors
    assert b"Traceback" not in errors


def test_an_order_or_a_refund_with_another_content_is_refused(tmp_path: Path) -> None:
    clock = TestClock()
    books = Books(tmp_path / "books.sqlite")
    later = clock.now.replace(year=clock.now.year + 1)
    order = books.put_order("o-0001", 100, "停车费", "", later, "http://here", clock.now)
    assert books.put_order("o-0001", 100, "停车费", "", later, "http://here", clock.now) == order
    with pytest.raises(Refusal, match="OUT_TRADE_NO_USED"):
        books.put_order("o-0001", 101, "停车费", "", later, "http://here", clock.now)
    _, (taking,) = books.pay(order.page, clock.now, times=1)
    with pytest.raises(Refusal, match="ORDER_PAID"):
        books.pay(order.page, clock.now, times=1)
    with pytest.raises(Refusal, match="ORDER_PAID"):
        books.close_order("o-0001")
    refund, is_new = books.put_refund("r-0001", "o-0001", taking.transaction_id, 60, clock.now, abnormal=False)
    assert is_new
    assert books.put_refund("r-0001", "o-0001", taking.transaction_id, 60, clock.now, abnormal=False) == (refund, False)
    with pytest.raises(Refusal, match="OUT_REFUND_NO_USED"):
        books.put_refund("r-0001", "o-0001", taking.transaction_id, 61, clock.now, abnormal=False)
    with pytest.raises(Refusal, match="NOT_ENOUGH"):
        books.put_refund("r-0002", "o-0001", taking.transaction_id, 41, clock.now, abnormal=False)
    books.close()


def test_a_fault_strikes_as_often_as_it_was_armed_and_only_where() -> None:
    faults = Faults([])
    faults.arm(Fault(FaultKind.FAIL, count=2, operation="query"))
    assert faults.strikes(FaultKind.FAIL, "close") is None
    assert faults.strikes(FaultKind.FAIL, "query", after=True) is None
    assert [faults.strikes(FaultKind.FAIL, "query") is not None for _ in range(3)] == [True, True, False]


def test_a_key_that_is_none_is_named_by_its_setting_and_not_shown() -> None:
    good = Keys().merchant[0]
    for text in ("", "secret", "k1:secret", f"k1:{good[:-8]}", f":{good}"):
        with pytest.raises(SettingsError, match="LINLI_X") as caught:
            sandbox.keys(text, "LINLI_X")
        assert "secret" not in str(caught.value)
    assert list(sandbox.keys(f"k1:{good}, k2:{good}", "LINLI_X")) == ["k1", "k2"]
    with pytest.raises(SettingsError, match="LINLI_X is wrong: expected one key"):
        sandbox.only_key(f"k1:{good},k2:{good}", "LINLI_X")
