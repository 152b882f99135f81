"""One run of the load: a mix, for some seconds after a warm-up, and what came of it as JSON lines and a table."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from console.load.http import Pool
from console.load.kinds import KINDS, Work, together_of
from console.load.schedule import Run, open_loop, percentile_ms
from console.load.site import Address, Site

_SIGN_IN_S = 300.0
# A generator that is later than this with one of a hundred has measured itself.
_LATE_MS = 20.0
_PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p99_9_ms": 99.9, "max_ms": 100}
_COLUMNS = ("kind", "per s", "sent", "failed", "p50", "p90", "p99", "p99.9", "max", "late")


class MixError(Exception):
    """A mix that cannot be read; the text says why."""


class LoadError(Exception):
    """Something failed under the load; the text says how much. What it was has been printed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one kind of load."""

    kind: str
    per_second: float
    run: Run
    errors: Mapping[str, int]

    @property
    def late_p99_ms(self) -> float:
        """How late the generator itself was."""
        return percentile_ms(self.run.lateness, 99)

    def line(self) -> dict[str, Any]:
        """As it is printed."""
        return {
            "kind": self.kind,
            "per_second": self.per_second,
            "seconds": round(self.run.seconds, 1),
            "sent": len(self.run.latencies),
            "failed": self.run.failures,
            "errors": self.errors,
            **{name: self.run.percentile_ms(percent) for name, percent in _PERCENTILES.items()},
            "generator_late_p99_ms": self.late_p99_ms,
            "generator_kept_its_schedule": self.late_p99_ms <= _LATE_MS,
        }


def read_mix(text: str) -> dict[str, float]:
    """`reads=200,plates=100` as rates in each second. Raises MixError."""
    mix: dict[str, float] = {}
    for part in text.split(","):
        kind, _, rate = part.strip().partition("=")
        try:
            mix[kind] = float(rate)
        except ValueError:
            raise MixError(f"`{part}` is no part of a mix such as reads=200,plates=100") from None
        if kind not in KINDS or not 0 < mix[kind] <= 100_000:
            raise MixError(f"`{part}`: there are {', '.join(KINDS)}, each more than 0 and at most 100000 a second")
    return mix


async def run_load(address: Address, mix: str, *, seconds: float, warm_up_s: float) -> None:
    """Loads an installation and prints what came of it. Raises MixError, LoadError, and SeedError or OSError when it cannot begin."""
    outcomes = await measure(address, read_mix(mix), seconds=seconds, warm_up_s=warm_up_s)
    show(outcomes)
    if failed := sum(outcome.run.failures for outcome in outcomes):
        raise LoadError(f"{failed} of {sum(len(outcome.run.latencies) for outcome in outcomes)} failed")


async def _at_once() -> None: ...


async def measure(
    address: Address,
    mix: Mapping[str, float],
    *,
    seconds: float,
    warm_up_s: float,
    before: Callable[[], Awaitable[None]] = _at_once,
) -> Sequence[Outcome]:
    """Loads an installation, calls `before` when it is warm, and measures. Raises SeedError and OSError when it cannot begin."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=20))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linli-load-")))
        gateway = await stack.enter_async_context(Pool(address.gateway_url))
        ingest = await stack.enter_async_context(Pool(address.ingest_url))
        site = Site(address, client, gateway, ingest, folder)
        try:
            await site.sign_in()
            works = {kind: await stack.enter_async_context(KINDS[kind](site, rate)) for kind, rate in mix.items()}
        except httpx.HTTPError as error:
            raise OSError(f"{address.gateway_url} does not answer: {type(error).__name__}") from error
        signing_in = asyncio.create_task(_stay_signed_in(site))
        stack.callback(signing_in.cancel)
        if warm_up_s:
            await _together(works, mix, warm_up_s)
        await before()
        return await _together(works, mix, seconds)


async def _together(works: Mapping[str, Work], mix: Mapping[str, float], seconds: float) -> Sequence[Outcome]:
    return await asyncio.gather(*(_one_kind(kind, work, mix[kind], seconds) for kind, work in works.items()))


async def _one_kind(kind: str, work: Work, per_second: float, seconds: float) -> Outcome:
    errors: Counter[str] = Counter()

    async def once(number: int) -> bool:
        if reason := await work(number):
            errors[reason] += 1
        return not reason

    messages_per_second = per_second / together_of(per_second) if kind == "readings" else per_second
    run = await open_loop(once, per_second=messages_per_second, seconds=seconds)
    return Outcome(kind, per_second, run, dict(errors.most_common()))


async def _stay_signed_in(site: Site) -> None:
    while True:
        await asyncio.sleep(_SIGN_IN_S)
        try:
            await site.sign_in()
        except Exception:  # noqa: S112  the next requests say it
            continue


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints JSON lines for programs, and a table on the error output for people."""
    table = Table(*_COLUMNS, box=SIMPLE, caption="milliseconds; late: how late the generator itself was, p99")
    for outcome in outcomes:
        line = outcome.line()
        print(json.dumps(line, ensure_ascii=False), flush=True)
        figures = [f"{line[name]:.0f}" for name in (*_PERCENTILES, "generator_late_p99_ms")]
        table.add_row(outcome.kind, f"{outcome.per_second:g}", str(line["sent"]), str(line["failed"]), *figures)
    console = Console(stderr=True)
    console.print(table)
    for outcome in outcomes:
        for reason, times in outcome.errors.items():
            console.print(f"{outcome.kind}: {times} x {reason}", style="red", highlight=False)
    if late := [outcome.kind for outcome in outcomes if outcome.late_p99_ms > _LATE_MS]:
        console.print(f"The generator could not keep its schedule ({', '.join(late)}): part of these latencies is its own.", style="yellow")
