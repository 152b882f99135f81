"""Which TCP port a local server listens on: the one it had last time, the one asked for, or a free one.

Everything local listens on the loopback address only. Choices are remembered in `ports.json` in the server's folder, so
a second run is found at the same addresses. Whether a server answers at its port is not known here.
"""

import json
import os
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
# Below the range from which Linux (32768) and macOS (49152) take the ports of outgoing connections, so that what was
# free when it was chosen stays free until the server listens, and in the next run.
CHOICE = range(20_000, 32_768)
_OWN = 100


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:  # macOS lets one bind below a listener on all addresses
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port(folder: Path, name: str, asked: int | None) -> int:
    """A free port for the listener `name`, remembered in `folder`.

    The port of the last run comes first as long as the same port is asked for, even when the asked one has become free:
    clients that kept the address find the server again. Then `asked`; without one (None or 0), or when it is taken, any
    free port that no other listener of this folder uses.
    """
    memory = folder / "ports.json"
    remembered = _read(memory)
    others = {entry["used"] for key, entry in remembered.items() if key != name}
    last = remembered.get(name)
    wishes = [last["used"]] if last and last["asked"] == (asked or 0) else []
    wishes += [asked] if asked else []
    wishes += [*random.sample(_own_choice(), _OWN), *random.sample(CHOICE, _OWN)]
    used = next((port for port in wishes if port not in others and is_free(port)), None)
    if used is None:
        raise OSError(f"no free port between {CHOICE.start} and {CHOICE.stop}")
    remembered[name] = {"asked": asked or 0, "used": used}
    written = memory.with_suffix(".new")
    written.write_text(json.dumps(remembered))
    written.replace(memory)
    return used


def _own_choice() -> range:
    """A part of the choice that processes which are started one after the other do not share: what one has chosen may take seconds to
    listen, and nobody else sees it until then."""
    start = CHOICE.start + os.getpid() % (len(CHOICE) // _OWN) * _OWN
    return range(start, start + _OWN)


def _read(memory: Path) -> dict[str, dict[str, int]]:
    try:
        stored = json.loads(memory.read_text())
        return {name: {key: int(entry[key]) for key in ("asked", "used")} for name, entry in stored.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # it is only a memory: a damaged one is forgotten
