"""How systemd is told that this process takes requests, and then again and again that it is alive: sd_notify(3), for `Type=notify`.

It is told what the process says of itself on its operations address, so a process whose loop hangs is started anew like one that is broken.
"""

import contextlib
import os
import socket
import threading
import time

from console.health import LIVE, READY, ask

_STARTING_S = 0.2
_WATCH_S = 10.0
_ANSWER_S = 5.0


def keep_told(ops_address: str) -> None:
    """Tells systemd of the process at this address from now on, in a thread; does nothing where systemd has not asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        watch_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 3 or _WATCH_S
        threading.Thread(target=_tell, args=(address, ops_address, watch_s), daemon=True).start()


def _tell(address: str, ops_address: str, watch_s: float) -> None:
    while not ask(ops_address, READY, timeout_s=_ANSWER_S)[0]:
        time.sleep(_STARTING_S)
    _send(address, "READY=1")
    while True:
        if ask(ops_address, LIVE, timeout_s=_ANSWER_S)[0]:
            _send(address, "WATCHDOG=1")
        time.sleep(watch_s)


def _send(address: str, text: str) -> None:
    # A name that begins with @ is none of the file system's.
    name = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(text.encode(), name)
