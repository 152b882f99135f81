"""A stand-in for the Secrets of one namespace in Kubernetes' API, over real HTTP: versions, merge patches, and whose a value is."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.stand_in import StandIn, serving

NAMESPACE, TOKEN = "estate", "a-service-accounts-token"
PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets"


@dataclass(slots=True)
class Cluster:
    """What is stored. `owners` says for each value of each Secret who has applied it."""

    url: str = ""
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    owners: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    # Without it the server takes whatever comes, as a client that names no version asks it to.
    checks_versions: bool = True
    turn: threading.Lock = field(default_factory=threading.Lock)
    versions: int = 0

    def put(self, name: str, data: dict[str, str], manager: str) -> None:
        """Stores values under a new version as somebody's; what is there beside them stays. What somebody changes is theirs alone."""
        self.versions += 1
        secret = self.secrets.setdefault(name, {"metadata": {"name": name}, "data": {}})
        secret["metadata"]["resourceVersion"] = str(self.versions)
        owners = self.owners.setdefault(name, {})
        for key, value in data.items():
            owners[key] = {manager} | (owners.get(key, set()) if secret["data"].get(key) == value else set())
        secret["data"] |= data

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        """POST."""
        name = body["metadata"]["name"]
        if name in self.secrets:
            return 409, {"reason": "AlreadyExists", "message": f'secrets "{name}" already exists'}
        self.put(name, body["data"], "create")
        return 201, self.secrets[name]

    def merge(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        """A merge patch; one that names a version that is not the newest is a conflict."""
        if name not in self.secrets:
            return 404, {"message": "not found"}
        asked = body["metadata"].get("resourceVersion")
        if self.checks_versions and asked not in (None, self.secrets[name]["metadata"]["resourceVersion"]):
            return 409, {"reason": "Conflict", "message": "the object has been modified"}
        self.put(name, body["data"], "merge")
        return 200, self.secrets[name]

    def apply(self, name: str, body: dict[str, Any], manager: str) -> tuple[int, Any]:
        """Server-side apply without force: another's value that would change is a conflict, what this manager no longer names goes."""
        data, owners = self.secrets.get(name, {"data": {}})["data"], self.owners.setdefault(name, {})
        lost = [key for key, value in body["data"].items() if data.get(key, value) != value and owners[key] - {manager}]
        if lost:
            causes = [{"reason": "FieldManagerConflict", "field": f".data.{key}"} for key in lost]
            return 409, {"reason": "Conflict", "message": "Apply failed", "details": {"causes": causes}}
        for key in [key for key in owners if manager in owners[key] and key not in body["data"]]:
            owners[key].discard(manager)
            if not owners[key]:
                del owners[key], data[key]
        self.put(name, body["data"], manager)
        return 200, self.secrets[name]


def _handler(cluster: Cluster) -> type[StandIn]:
    class Handler(StandIn):
        def _answer(self) -> None:
            parts = urlsplit(self.path)
            name = parts.path.removeprefix(PATH).strip("/")
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            with cluster.turn:
                status, answer = self._decide(name, body, parse_qs(parts.query))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _decide(self, name: str, body: Any, query: dict[str, list[str]]) -> tuple[int, Any]:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" or not self.path.startswith(PATH):
                return 403, {"message": "secrets is forbidden"}
            if self.command == "POST":
                return cluster.create(body)
            if self.command == "GET":
                return (200, cluster.secrets[name]) if name in cluster.secrets else (404, {"message": "not found"})
            if self.headers["Content-Type"] == "application/apply-patch+yaml":
                return cluster.apply(name, body, query["fieldManager"][0])
            return cluster.merge(name, body)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 (the library's names)

    return Handler


@contextmanager
def running(*, checks_versions: bool = True) -> Iterator[Cluster]:
    """The stand-in, for as long as the block."""
    cluster = Cluster(checks_versions=checks_versions)
    with serving(_handler(cluster)) as port:
        cluster.url = f"http://127.0.0.1:{port}"
        yield cluster


def account(folder: Path, token: str = TOKEN) -> Path:
    """What a pod finds of its service account."""
    folder.mkdir(exist_ok=True)
    for name, text in (("token", token), ("namespace", NAMESPACE), ("ca.crt", "")):
        (folder / name).write_text(text)
    return folder
