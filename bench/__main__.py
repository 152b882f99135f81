"""`python -m bench [FIGURE...]`: prints every figure, or those that are named; of a name that it does not know it says which there are."""

import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from bench import capacity, decision, deposits, doors, gateway, ingest, journal, ledger, lists, points, rolling, start, telemetry, timers
from bench.measure import report
from console.up import Local, Options, local_platform
from tests.support import UNLIMITED

# Figures of the platform as it is started: whether each service has a process of its own.
PLATFORM: dict[str, tuple[Callable[[Local], Awaitable[None]], bool]] = {
    "decision": (decision.measure, True),
    "ingest": (ingest.measure, True),
    "gateway": (gateway.measure, True),
    "start": (start.measure, True),
    "points": (points.measure, True),
    "deposits": (deposits.measure, True),
    "doors": (doors.measure, True),
    "journal": (journal.measure, True),
    "lists": (lists.measure, True),
    "capacity": (capacity.measure, True),
}
# Figures on servers of their own.
ALONE: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "telemetry": telemetry.main,
    "ledger": ledger.main,
    "timers": timers.main,
    "rolling": rolling.main,
}


async def _platform(names: list[str]) -> None:
    for separate in (True, False):
        chosen = [PLATFORM[name][0] for name in names if name in PLATFORM and PLATFORM[name][1] is separate]
        if not chosen:
            continue
        with tempfile.TemporaryDirectory(prefix="linli-bench-") as folder:
            async with local_platform(Options(folder=Path(folder), separate=separate, settings=UNLIMITED)) as local:
                for measure in chosen:
                    await measure(local)


def main() -> None:
    """Runs the figures named on the command line."""
    known = [*PLATFORM, *ALONE]
    names = sys.argv[1:] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no figure is called {', '.join(unknown)}; there are {', '.join(known)}")
    report("0 machine", python=sys.version.split()[0], platform=sys.platform)
    uvloop.run(_platform(names))
    for name in names:
        if name in ALONE:
            uvloop.run(ALONE[name]())


if __name__ == "__main__":
    main()
