"""The version that runs in communities, and this one beside it, as during an upgrade: on one database that this one has migrated, one
broker, and each other's APIs.

`previous-version` names the commit of the last version that was handed out. Its own code runs, taken from the repository's history.
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from console import catalog
from console.demonstration import Demonstration
from console.environment import stored_environment
from console.processes import Child
from console.up import DEMONSTRATION, Local, Options, local_platform
from infra.local.ports import choose_port
from tests.journeys.people import Up
from tests.support import UNLIMITED

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PREVIOUS = (Path(__file__).parent / "previous-version").read_text().strip()
# One consumer is shared by both versions at random. Of so many events, neither gets none.
SHARED_MIN = 20
# How much happens in the demonstration: a minute; orders an hour.
PACE = {"--cars-per-minute": 240, "--deposits-per-minute": 180, "--passages-per-minute": 240, "--orders-per-hour": 1800}
# What must have happened, and how often.
DAY = {"car_in": 20, "car_out": 10, "paid": 3, "deposit": 10, "points": 3, "door": 10, "order_accepted": 1}
# What callers are told when a version does not know what the other one asks, or fails at it.
BROKEN = {"UNIMPLEMENTED", "INTERNAL", "UNKNOWN"}
ASK = """
import asyncio, asyncpg, json, sys
from console import catalog
from tests.platform.test_databases import statements

async def main() -> None:
    wrong, checked, consumers = [], 0, []
    for service in catalog.find(["all"]):
        consumers += [f"{service.name}-{consumption.name}" for consumption in service.consumes]
        if service.migrations:
            connection = await asyncpg.connect(URLS[service.name])
            for name, sql in statements(service):
                checked += 1
                try:
                    await connection.prepare(sql)
                except asyncpg.PostgresError as error:
                    wrong.append(f"{service.name}: {name}: {error}")
            await connection.close()
    print(json.dumps({"wrong": wrong, "checked": checked, "consumers": consumers}))

URLS = json.load(sys.stdin)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Version:
    """One version's process: where its HTTP and its figures are."""

    name: str
    gateway_url: str
    ingest_url: str
    ops_url: str

    async def samples(self, family: str) -> list[tuple[Mapping[str, str], float]]:
        """A family of its metrics, such as `linli_rpc_seconds`: labels and how often it was observed."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.ops_url}/metrics")).text
        families = [found for found in text_string_to_metric_families(text) if found.name == family]
        return [(sample.labels, sample.value) for found in families for sample in found.samples if sample.name == f"{family}_count"]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Both versions while they run."""

    folder: Path
    old_code: Path
    local: Local
    old: Version
    new: Version

    async def handled(self, version: Version) -> dict[str, int]:
        """How many events each consumer has handled in this version's process."""
        return {
            labels["consumer"]: int(value)
            for labels, value in await version.samples("linli_event_seconds")
            if labels["outcome"] in ("handled", "repeated")
        }

    async def live_a_while(self, through: Version) -> None:
        """Lets people and devices of the demonstration use one version's HTTP until everything has happened that does in a town."""
        file = self.folder / DEMONSTRATION
        stored = msgspec.json.decode(file.read_bytes(), type=Demonstration)
        nats = self.local.nats
        assert nats.mqtt_port is not None
        moved = msgspec.structs.replace(
            stored, gateway_url=through.gateway_url, ingest_url=through.ingest_url, mqtt_host=nats.host, mqtt_port=nats.mqtt_port
        )
        file.write_bytes(msgspec.json.encode(moved))
        options = [text for name, value in PACE.items() for text in (name, str(value))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "console.main", "simulate", "--data", str(self.folder), *options), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        happened: Counter[str] = Counter()
        try:
            async with asyncio.timeout(120):
                while any(happened[kind] < times for kind, times in DAY.items()):
                    happened[json.loads(await process.stdout.readline())["kind"]] += 1
        except TimeoutError:
            pytest.fail(f"through the {through.name} one not enough happened: {happened}")
        finally:
            process.terminate()
            await process.communicate()


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's tree."""
    known = subprocess.run(["git", "cat-file", "-e", f"{PREVIOUS}^{{commit}}"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode != 0:
        shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=False)
        if shallow.returncode != 0 or shallow.stdout.strip() == "true":
            pytest.skip("this tree came without its history; `git fetch --unshallow` brings it")
        pytest.fail(f"tests/upgrades/previous-version names {PREVIOUS}, which is no commit of this repository")
    folder = Path(tmp_path_factory.mktemp("previous"))
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(folder, filter="data")
    return folder


def of_old(code: Path) -> dict[str, str]:
    """What makes Python take the previous version's packages, wherever it is started."""
    return {"PYTHONPATH": f"{code}:{code / 'libs'}", "PYTHONSAFEPATH": "1"}


@pytest.fixture(scope="module")
def lived_in(old_code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of an installation that the previous version has made and run."""
    folder = Path(tmp_path_factory.mktemp("linli"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in of_old(old_code).items():
            patch.setenv(name, value)
        up = Up(folder)
        up.wait_until_ready()
        assert up.stop() == 0
    return folder


@dataclass(frozen=True, slots=True)
class Former:
    """What the previous version's code says of itself: its statements that do not fit the databases as they are now, how many statements it
    has, and its consumers.
    """

    wrong: list[str]
    checked: int
    consumers: list[str]


async def ask_old_code(upgrade: Upgrade) -> Former:
    """Prepares every statement of the previous version on the databases."""
    stored = stored_environment(upgrade.folder)
    urls = {service.name: stored[f"LINLI_{service.name.upper()}_DATABASE_URL"] for service in catalog.find(["all"]) if service.migrations}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ASK),
        env={**os.environ, **of_old(upgrade.old_code)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(urls).encode())
    return Former(**json.loads(output))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upgrade(old_code: Path, lived_in: Path) -> AsyncIterator[Upgrade]:
    """The new version on the old one's data, and the old one beside it. Each one's gateway calls the other one's services."""
    port = {name: choose_port(lived_in, f"old-{name}", None) for name in ("grpc", "ops", "gateway", "ingest")}
    old = Version("old", *(f"http://127.0.0.1:{port[name]}" for name in ("gateway", "ingest", "ops")))
    crossed = {f"LINLI_{name.upper()}_ADDRESS": f"127.0.0.1:{port['grpc']}" for name in catalog.SERVICES}
    options = Options(folder=lived_in, demonstration=False, settings={**UNLIMITED, **crossed})
    async with local_platform(options) as local:
        child = Child(
            name="old",
            command=["console.main", "serve", "all"],
            environment={
                **stored_environment(lived_in),
                **{f"LINLI_{name.upper()}_ADDRESS": local.addresses.of(name) for name in catalog.SERVICES},
                **of_old(old_code),
                "LINLI_GRPC_ADDRESS": f"127.0.0.1:{port['grpc']}",
                "LINLI_OPS_ADDRESS": f"127.0.0.1:{port['ops']}",
                "LINLI_GATEWAY_HTTP_ADDRESS": f"127.0.0.1:{port['gateway']}",
                "LINLI_INGEST_HTTP_ADDRESS": f"127.0.0.1:{port['ingest']}",
            },
            log=lived_in / "logs" / "old.log",
            ready_url=f"{old.ops_url}/readyz",
        )
        child.start()
        try:
            await child.ready(60)
            new = Version("new", local.gateway_url, local.ingest_url, f"http://{local.addresses.ops['all']}")
            yield Upgrade(lived_in, old_code, local, old, new)
        finally:
            await child.stop()


async def test_every_statement_of_the_previous_version_fits_the_schema_of_this_one(upgrade: Upgrade) -> None:
    former = await ask_old_code(upgrade)
    assert former.wrong == []
    assert former.checked > 500


async def test_both_versions_serve_one_town_and_hear_each_others_events(upgrade: Upgrade) -> None:
    for version in (upgrade.new, upgrade.old):
        await upgrade.live_a_while(version)

    old, new = await upgrade.handled(upgrade.old), await upgrade.handled(upgrade.new)
    known = (await ask_old_code(upgrade)).consumers
    shared = {consumer for consumer in known if old.get(consumer, 0) + new.get(consumer, 0) >= SHARED_MIN}
    assert len(shared) > 10
    assert {consumer for consumer in shared if not (old.get(consumer) and new.get(consumer))} == set()

    for version in (upgrade.old, upgrade.new):
        calls = await version.samples("linli_rpc_seconds")
        assert {labels["method"] for labels, value in calls if value and labels["status"] in BROKEN} == set()
        assert len(calls) > 20
        failed = await version.samples("linli_event_seconds")
        assert {labels["consumer"] for labels, value in failed if value and labels["outcome"] in ("failed", "dead", "retried")} == set()


async def test_a_column_that_is_taken_away_too_early_is_seen(upgrade: Upgrade) -> None:
    # The last test of this module: it breaks what the others stand on.
    owner = await asyncpg.connect(stored_environment(upgrade.folder)["LINLI_INSIGHTS_MIGRATION_URL"])
    try:
        await owner.execute("ALTER TABLE dead_letters RENAME COLUMN failed_at TO gone")
    finally:
        await owner.close()
    former = await ask_old_code(upgrade)
    assert len(former.wrong) > 0
    assert all(each.startswith("insights: servicekit.") for each in former.wrong)
