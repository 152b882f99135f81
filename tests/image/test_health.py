"""`linli health`: how whatever runs the image asks it how it is."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.stand_in import StandIn, serving


@contextmanager
def operations(answers: Mapping[str, tuple[int, str]], host: str = "127.0.0.1") -> Iterator[int]:
    """A process's operations address that gives these answers; yields its port."""

    class Answer(StandIn):
        def do_GET(self) -> None:  # noqa: N802 (the library's name)
            status, text = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    with serving(Answer, host) as port:
        yield port


def health(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "console.main", "health", *options]
    return subprocess.run(command, env={**os.environ, "LINLI_OPS_ADDRESS": address}, capture_output=True, text=True, check=False)


def test_a_process_that_is_ready_is_well() -> None:
    with operations({"/readyz": (200, "ok")}) as port:
        answer = health(f"127.0.0.1:{port}")
    assert (answer.returncode, answer.stdout) == (0, "ok\n")


def test_a_process_that_drains_is_alive_and_not_well_and_says_why() -> None:
    with operations({"/readyz": (503, "starting or draining"), "/livez": (200, "ok")}) as port:
        answer, alive = health(f"127.0.0.1:{port}"), health(f"127.0.0.1:{port}", "--live")
    assert (answer.returncode, answer.stderr) == (1, "starting or draining\n")
    assert alive.returncode == 0


def test_a_process_that_listens_everywhere_is_asked_here() -> None:
    with operations({"/readyz": (200, "ok")}, host="0.0.0.0") as port:
        assert health(f"0.0.0.0:{port}").returncode == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "a..b:7001", "nonsense"])
def test_silence_or_a_wrong_address_is_no_health(address: str) -> None:
    answer = health(address)
    assert answer.returncode == 1
    assert address in answer.stderr or "LINLI_OPS_ADDRESS" in answer.stderr
    assert "Traceback" not in answer.stderr
