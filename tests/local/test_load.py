"""Load on a schedule: what a stall costs is seen by all that it delays, and what is the generator's own is told apart."""

import asyncio
import time

import pytest

from console.load.http import Pool
from console.load.schedule import Run, open_loop, percentile_ms

STALL_S = 0.2


async def test_a_stall_is_counted_for_everything_that_was_due_meanwhile() -> None:
    stalled = asyncio.Event()

    async def work(number: int) -> bool:
        if number == 5:
            asyncio.get_running_loop().call_later(STALL_S, stalled.set)
        if number >= 5:
            await stalled.wait()
        return number != 7

    run = await open_loop(work, per_second=100, seconds=0.3)
    assert (len(run.latencies), len(run.lateness), run.failures) == (30, 30, 1)
    # Those that were due in its first half waited for the second half at least.
    assert sum(latency >= STALL_S / 2 for latency in run.latencies) >= 10


async def test_a_generator_that_stalls_itself_says_so() -> None:
    async def work(number: int) -> bool:
        if number == 5:
            time.sleep(STALL_S)  # noqa: ASYNC251
        return True

    run = await open_loop(work, per_second=100, seconds=0.3)
    assert percentile_ms(run.lateness, 99) >= STALL_S / 2 * 1000
    assert run.percentile_ms(99) >= percentile_ms(run.lateness, 90)


async def test_a_schedule_ends_when_it_is_told_to() -> None:
    until = asyncio.Event()

    async def work(number: int) -> bool:
        if number == 3:
            until.set()
        return True

    run = await open_loop(work, per_second=1000, seconds=3600, until=until)
    assert 4 <= len(run.latencies) < 1000


def test_percentiles_are_answers_that_were_given() -> None:
    run = Run([each / 1000 for each in range(100, 0, -1)], 1.0, 0)
    assert [run.percentile_ms(percent) for percent in (1, 50, 99, 99.9, 100)] == [1, 50, 99, 100, 100]


async def test_the_client_asks_nobody_twice_and_leaves_a_connection_that_was_closed() -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            if asked == 2:
                break  # closes without an answer
            close = b"Connection: close\r\n" if asked == 1 else b""
            writer.write(b"HTTP/1.1 200 OK\r\n" + close + b"Content-Length: 2\r\n\r\nok")
            if close:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Pool(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as pool:
        head = b"GET / HTTP/1.1\r\nHost: a\r\n"
        assert await pool.request(head) == (200, b"ok")
        with pytest.raises(EOFError):
            await pool.request(head)
        assert await pool.request(head) == (200, b"ok")
        assert await pool.request(head) == (200, b"ok")
    assert asked == 4
