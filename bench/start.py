"""Figure 4: how long `linli serve` takes to be ready, and how much memory it holds."""

import asyncio
import os
import sys
import time
from statistics import median

import httpx
import psutil

from bench.measure import report
from console.up import Local
from tests.support import free_address

ROUNDS = 3


async def measure(local: Local) -> None:
    """Prints the figure. The databases exist and are migrated, as at every start but the first."""
    shared = dict(next(child for name, child in local.children.items() if name != "provider").environment)
    for names, aim in ((("parking",), "ready <= 2 s, memory <= 120 MB"), (("all",), "memory <= 400 MB")):
        seconds, megabytes = [], []
        for _ in range(ROUNDS):
            ready, memory = await _start(names, shared)
            seconds.append(ready)
            megabytes.append(memory)
        report("4 start", services=names[0], ready_s=median(seconds), resident_mb=median(megabytes), rounds=ROUNDS, aim=aim)
    await _bare()


async def _start(names: tuple[str, ...], shared: dict[str, str]) -> tuple[float, float]:
    ops = free_address()
    own = {"LINLI_GRPC_ADDRESS": free_address(), "LINLI_OPS_ADDRESS": ops}
    http = {f"LINLI_{name}_HTTP_ADDRESS": free_address() for name in ("GATEWAY", "INGEST")}
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "console.child", "console.main", "serve", *names),
        env={**os.environ, **shared, **own, **http},
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"http://{ops}/readyz", timeout=1)).status_code == httpx.codes.OK:
                    break
            except httpx.HTTPError:
                pass
            assert process.returncode is None, "it ended"
            await asyncio.sleep(0.01)
    ready = time.perf_counter() - started
    memory = psutil.Process(process.pid).memory_info().rss / 1e6
    process.terminate()
    await process.wait()
    return ready, memory


async def _bare() -> None:
    """The ceiling: an interpreter that imports what every service imports, and nothing more."""
    code = "import grpc.aio, asyncpg, nats, uvicorn, psutil; print(psutil.Process().memory_info().rss / 1e6)"
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    report("4 start", services="imports alone", ready_s=time.perf_counter() - started, resident_mb=float(output))
