"""The first moments of a server's process: run as a script by `process.py`, never imported by it.

It gives up root, ties the process to the life of its parent, and becomes the server by exec. This cannot be
a `preexec_fn`: running Python between fork and exec of a program that has threads may deadlock, and newer
Pythons warn about it. Who starts this script, waits for the server and stops it is `process.py`.

Root without useradd and without copies: PostgreSQL refuses to run as root, and the account it then runs as
often cannot enter the folder that holds it (/root is mode 0700). Only in that case the process keeps one
capability, the weakest that suffices, which lets it pass closed folders: CAP_DAC_READ_SEARCH, or
CAP_DAC_OVERRIDE where a container withholds the first or the programs are executable by root alone. Data
and programs stay where the caller put them, so moving or removing the data folder does what one expects.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
NO_CAPABILITY = -1
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int)]


class _CapabilitySets(ctypes.Structure):
    """The sets of capabilities 0 to 31; the kernel takes two of these, the second for 32 to 63."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def become_server(arguments: list[str]) -> NoReturn:
    parent, last_signal, watcher, uid, gid, folder, *command = arguments
    os.chdir(folder)
    capabilities = [NO_CAPABILITY]
    if int(uid) != os.geteuid():
        capabilities += _give_up_root(int(uid), int(gid))
    if watcher == "kernel":
        _prctl(PR_SET_PDEATHSIG, int(last_signal))  # after the change of account, which would clear it
        if os.getppid() != int(parent):
            sys.exit("the parent died before the server was started")
    else:
        _watch_parent_through_stdin(int(last_signal))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that down
    reasons = []
    for capability in capabilities:
        try:
            if len(capabilities) > 1:
                _keep_only(capability)
            os.stat(os.path.join(folder, "."))
            os.execv(command[0], command)  # noqa: S606  # the whole purpose
        except OSError as error:
            reasons.append(str(error))
    sys.exit(f"account {uid} cannot run {command[0]} in {folder}: {'; '.join(reasons)}")


def _give_up_root(uid: int, gid: int) -> list[int]:
    """Become the account; returns the capabilities that could be passed on to the server, weakest first."""
    if sys.platform == "linux":
        # Capabilities stay with us over the change of account, and count when initdb asks with access(2)
        # whether it may run postgres. A root that may not do this has none to pass on.
        with contextlib.suppress(OSError):
            _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if sys.platform != "linux":
        return []
    permitted = _capabilities()[0].permitted
    return [number for number in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if permitted & 1 << number]


def _keep_only(capability: int) -> None:
    """Put this capability alone into effect, and make it ambient: exec drops all others of an ordinary account."""
    sets = _capabilities()
    sets[0].effective = sets[0].inheritable = 0 if capability == NO_CAPABILITY else 1 << capability
    sets[1].effective = sets[1].inheritable = 0
    _check(_libc().capset(ctypes.byref(_header()), sets), "capset")
    if capability != NO_CAPABILITY:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _capabilities() -> "ctypes.Array[_CapabilitySets]":
    sets = (_CapabilitySets * 2)()
    _check(_libc().capget(ctypes.byref(_header()), sets), "capget")
    return sets


def _header() -> _CapabilityHeader:
    return _CapabilityHeader(LINUX_CAPABILITY_VERSION_3, 0)


def _watch_parent_through_stdin(last_signal: int) -> None:
    """For systems whose kernel sends no signal at the parent's death: a process beside the server waits for
    the end of stdin, a pipe that only the parent holds open."""
    server = os.getpid()
    if (first := os.fork()) != 0:
        os.waitpid(first, 0)
        return
    if os.fork() != 0:  # not a child of the server: PostgreSQL takes the death of an unknown child for a crash
        os._exit(0)
    while os.read(0, 1):
        pass
    with contextlib.suppress(ProcessLookupError):  # no other process gets this number while its session lives on in us
        os.kill(server, last_signal)
    os._exit(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *values: int) -> None:
    padded = (*values, 0, 0, 0, 0)[:4]
    _check(_libc().prctl(option, *(ctypes.c_ulong(value) for value in padded)), f"prctl {option}")


def _check(result: int, call: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


if __name__ == "__main__":
    become_server(sys.argv[1:])
