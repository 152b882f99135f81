"""What the chart renders, run: its containers as processes, with the settings, secrets, arguments and NATS configuration of the manifests.

Only what a cluster would give differs: addresses, and folders in place of volumes. All begin at once, as Kubernetes starts them: services
and Jobs wait for what they need.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from infra.local.nats import executable
from infra.local.ports import choose_port
from infra.local.postgres import start_postgres
from tests.deploy.manifests import Pod, mounted_files, of_kind, pods, rendered
from tests.support import eventually
from tools.chart import Document

SERVED = ("gateway", "identity", "ingest", "workorders")


@dataclass(slots=True)
class Node:
    """Runs containers as processes in a folder."""

    folder: Path
    documents: list[Document]
    superuser_url: str
    ports: dict[str, int] = field(default_factory=dict)
    running: list[asyncio.subprocess.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ports = {name: choose_port(self.folder, name, None) for name in ("7000", "7001", "8080", "8081", "4222", "8222", "1883")}

    async def begin(self, program: str | Path, *arguments: str, environment: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LINLI_")}
        log = (self.folder / "log.txt").open("ab")
        with closing(log):
            process = await asyncio.create_subprocess_exec(program, *arguments, env=clean | dict(environment or {}), stdout=log, stderr=log)
        self.running.append(process)
        return process

    async def linli(self, pod: Pod, container: Document) -> asyncio.subprocess.Process:
        """Begins a container of ours."""
        settings = {document["metadata"]["name"]: document["data"] for document in of_kind(self.documents, "ConfigMap")}
        environment = {each["name"]: each["value"] for each in container.get("env", ())}
        for source in container.get("envFrom", ()):
            environment |= settings[source["configMapRef"]["name"]]
        environment = {name: self.here(value) for name, value in environment.items()}
        environment["LINLI_SECRETS_FOLDER"] = str(self.mounted(pod, container))
        arguments = [self.here(argument) for argument in container["args"]]
        return await self.begin(sys.executable, "-m", "console.main", *arguments, environment=environment)

    def here(self, text: str) -> str:
        """An address or path of the cluster as it is on this machine."""
        for host in ("linli-nats", "0.0.0.0", "127.0.0.1"):
            for port, chosen in self.ports.items():
                text = text.replace(f"{host}:{port}", f"127.0.0.1:{chosen}")
        for service, port in (("gateway", "8080"), ("ingest", "8081")):
            text = text.replace(f"http://linli-{service}-http", f"http://127.0.0.1:{self.ports[port]}")
        return text.replace("/var/lib/linli", str(self.folder)).replace("/tmp/codes", str(self.folder / "codes"))

    def mounted(self, pod: Pod, container: Document) -> Path:
        """The folder that a container finds its secrets in."""
        target = self.folder / "mounts" / f"{pod.component}-{len(list(self.folder.glob('mounts/*')))}"
        target.mkdir(parents=True)
        for secret in mounted_files(pod, container, "/run/secrets/linli"):
            shutil.copytree(self.folder / "secrets" / secret.removeprefix("linli-"), target, dirs_exist_ok=True)
        return target

    async def done(self, pod: Pod) -> None:
        """Runs a Job's containers one after the other, each until it succeeds."""
        for container in pod.containers:

            async def succeeds(container: Document = container) -> bool:
                return await (await self.linli(pod, container)).wait() == 0

            # As the kubelet tries, which waits longer.
            await eventually(succeeds, f"{container['args']} succeeds", deadline_s=60, every_s=0.5)

    async def make_secrets(self) -> None:
        """Runs the hook that makes them, with a folder in place of the Kubernetes API."""
        (pod,) = [pod for pod in pods(self.documents) if pod.component == "secrets"]
        server = urlsplit(self.superuser_url)
        options = [argument for argument in pod.spec["containers"][0]["args"] if argument != "--kubernetes"]
        where = (f"--folder={self.folder / 'secrets'}", f"--postgres-host={server.hostname}", f"--postgres-port={server.port}")
        process = await self.begin(sys.executable, "-m", "console.main", *options, *where)
        assert await process.wait() == 0
        # This server had its superuser before.
        (self.folder / "secrets" / "postgres" / "LINLI_POSTGRES_URL").write_text(self.superuser_url)

    async def begin_nats(self) -> None:
        (configuration,) = [each for each in of_kind(self.documents, "ConfigMap") if each["metadata"]["name"] == "linli-nats"]
        text = self.here(configuration["data"]["nats.conf"]).replace("/data", str(self.folder / "streams"))
        (self.folder / "nats.conf").write_text(text)
        shutil.copy(self.folder / "secrets" / "nats" / "accounts.conf", self.folder)
        await self.begin(executable(), "--config", str(self.folder / "nats.conf"))


@asynccontextmanager
async def _node(folder: Path, documents: list[Document]) -> AsyncIterator[Node]:
    postgres = await asyncio.to_thread(start_postgres, folder / "postgres")
    node = Node(folder, documents, postgres.url())
    try:
        yield node
    finally:
        for process in node.running:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.to_thread(postgres.stop)


async def test_a_community_that_begins_with_repairs_comes_up_answers_and_goes(tmp_path: Path) -> None:
    documents = rendered(f"services.all.serves={{{','.join(SERVED)}}}", "stop.linger=1", values="small")
    by_component = {component: [pod for pod in pods(documents) if pod.component == component] for component in ("all", "setup", "smoke")}
    (service,), jobs, (smoke,) = by_component.values()
    async with _node(tmp_path, documents) as node, httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.ports['7001']}") as client:

        async def answers(path: str) -> int:
            try:
                return (await client.get(path)).status_code
            except httpx.TransportError:
                return 0

        async def lives() -> bool:
            return await answers("/livez") == 200

        async def is_ready() -> bool:
            return await answers("/readyz") == 200

        await node.make_secrets()
        await node.begin_nats()
        process = await node.linli(service, service.spec["containers"][0])
        await eventually(lives, "the process lives without a schema", deadline_s=60)
        assert await answers("/readyz") == 503
        await asyncio.gather(*(node.done(job) for job in jobs))
        await eventually(is_ready, "the process is ready", deadline_s=60)
        tried = await node.linli(smoke, smoke.spec["containers"][0])
        assert await tried.wait() == 0, (tmp_path / "log.txt").read_text()[-4000:]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
