"""Every process is exchanged while phones ask and cameras push: no request fails, every car is decided on once, every event is heard once.

`make drill` runs it with every service in two processes of its own, at 200 requests and 100 pushes a second, which takes minutes;
`make test` with one process that serves all, and fewer. The same installation is loaded with every kind that `linli load` knows.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from console.load.http import Pool
from console.load.kinds import KINDS
from console.load.run import MixError, measure, read_mix
from console.load.site import find
from tests.drills.replicas import STARTING_NICE, Cluster, replicated
from tests.drills.traffic import Traffic, begin, check_books, check_deposits, devices
from tests.support import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="each replica has an address of its own"),
]

SEPARATE = os.environ.get("LINLI_DRILL_ROLLING_SEPARATE", "") == "1"
REQUESTS_PER_S = float(os.environ.get("LINLI_DRILL_ROLLING_REQUESTS", "30"))
PUSHES_PER_S = float(os.environ.get("LINLI_DRILL_ROLLING_PUSHES", "10"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The platform with its demonstration."""
    async with replicated(Path(tmp_path_factory.mktemp("linli")), separate=SEPARATE, replicas=2 if SEPARATE else 1) as running:
        yield running


async def test_no_request_is_lost_and_every_car_is_decided_on_once_while_every_process_is_exchanged(cluster: Cluster) -> None:
    passages_per_s, deposits_per_s = PUSHES_PER_S / 5, PUSHES_PER_S / 10
    async with (
        Pool(cluster.http["gateway"]) as phones,
        Pool(cluster.http["ingest"]) as cameras,
        devices(cluster, passages_per_s, deposits_per_s) as at_doors_and_bins,
    ):
        traffic = await begin(cluster, phones, cameras)
        done = asyncio.Event()
        flowing = asyncio.gather(
            traffic.flow(REQUESTS_PER_S, PUSHES_PER_S, done), at_doors_and_bins.flow(passages_per_s, deposits_per_s, done)
        )
        for name in cluster.groups:
            await cluster.roll(name, nice=STARTING_NICE)
        done.set()
        runs, _ = await flowing
        print([(len(run.latencies), run.percentile_ms(50), run.percentile_ms(99)) for run in runs])
        print("late:", traffic.late, "decided alone:", at_doors_and_bins.alone, "deposits:", at_doors_and_bins.brought)
        assert not traffic.failures
        await check_books(traffic)
        await check_deposits(cluster, at_doors_and_bins.brought)
        await _a_process_that_does_not_linger_loses_requests(cluster, traffic)


async def _a_process_that_does_not_linger_loses_requests(cluster: Cluster, traffic: Traffic) -> None:
    """The control: the same end without the linger, and each request on a connection of its own."""
    name = "gateway" if SEPARATE else "all"
    careless = await cluster.add(name, {"LINLI_LINGER_S": "0"})
    done = asyncio.Event()
    async with Pool(cluster.http["gateway"], idle_s=0) as traffic.phones:
        flowing = asyncio.create_task(traffic.flow(5 * REQUESTS_PER_S, 1, done))
        await eventually(lambda: _is_used(cluster, name, careless), "it is used")
        await cluster.remove(name, careless)
        done.set()
        await flowing
    assert traffic.failures


async def _is_used(cluster: Cluster, name: str, place: str) -> bool:
    """Whether a replica answers phones."""
    ops = cluster.groups[name].replicas[place].environment["LINLI_OPS_ADDRESS"]
    async with httpx.AsyncClient(trust_env=False) as client:
        lines = (await client.get(f"http://{ops}/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("linli_http_seconds_count")) > REQUESTS_PER_S


async def test_every_kind_of_load_goes_through_an_installation_again_and_again(cluster: Cluster) -> None:
    fronts = {f"{service}_url": f"http://{address}" for service, address in cluster.http.items()}
    address = find(cluster.local.folder, fronts)
    mix = {"reads": 20.0, "plates": 4.0, "doors": 1.0, "deposits": 2.0, "readings": 50.0, "orders": 2.0}
    assert set(mix) == set(KINDS)
    # The second run finds what the first has registered.
    for _ in range(2):
        outcomes = await measure(address, mix, seconds=1, warm_up_s=0)
        assert {outcome.kind: (len(outcome.run.latencies), outcome.errors) for outcome in outcomes} == {
            "reads": (20, {}),
            "plates": (4, {}),
            "doors": (1, {}),
            "deposits": (2, {}),
            "readings": (1, {}),
            "orders": (2, {}),
        }
        assert all(0 < outcome.line()["p50_ms"] <= outcome.line()["max_ms"] for outcome in outcomes)


@pytest.mark.parametrize("mix", ["", "reads", "reads=x", "cars=1", "reads=0", "reads=-1", "reads=1,,plates=1"])
async def test_a_mix_that_is_none_is_refused(mix: str) -> None:
    with pytest.raises(MixError):
        read_mix(mix)
