"""Child processes of `linli up`: started, started again when they end by themselves, stopped in order."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

_RESTART_DELAYS_S = (0.1, 0.5, 2.0, 5.0)
_STOP_S = 30.0
_LOG_TAIL_LINES = 15
_LOG_BYTES_MAX = 16 * 1024 * 1024


class ProcessError(Exception):
    """A process does not start; the text shows the end of its log."""


@dataclass(slots=True)
class Child:
    """One program that is to run until it is stopped."""

    name: str
    # A module and its arguments.
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    # Answers below 500 when the program is ready.
    ready_url: str
    restarts: int = 0
    _process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None
    _stopping: bool = field(default=False)

    @property
    def pid(self) -> int | None:
        """The present process id."""
        return self._process.pid if self._process is not None else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended; None while it runs."""
        return self._process.returncode if self._process is not None else None

    def start(self) -> None:
        """Starts the program and keeps it running."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._keeper = asyncio.create_task(self._keep())

    async def ready(self, deadline_s: float) -> None:
        """Waits until the program says that it is ready. Raises ProcessError when it ends before, or does not within the deadline."""
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(int(deadline_s / 0.05)):
                if self.restarts > 2:
                    break
                with contextlib.suppress(httpx.HTTPError):
                    if not (await client.get(self.ready_url, timeout=1.0)).is_server_error:
                        return
                await asyncio.sleep(0.05)
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        raise ProcessError("\n".join([f"{self.name} does not get ready; {self.log} ends with:", *lines]))

    async def stop(self) -> None:
        """Asks the program to stop, and ends it when it does not."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            except TimeoutError:
                self._process.kill()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        while not self._stopping:
            if self.log.exists() and self.log.stat().st_size > _LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "console.child", *self.command),
                    env={**os.environ, **self.environment},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C in the terminal is ours to hear: we stop everything in order.
                    start_new_session=True,
                )
            await self._process.wait()
            if not self._stopping:
                await asyncio.sleep(_RESTART_DELAYS_S[min(self.restarts, len(_RESTART_DELAYS_S) - 1)])
                self.restarts += 1
