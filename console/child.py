"""Runs a module as a program that ends when its parent does, however the parent ended: `python -m console.child MODULE ARGUMENT...`.

The parent asks politely first (SIGTERM); this is for parents that were killed.
"""

import os
import runpy
import signal
import sys
import threading
import time

_LOOK_S = 0.5
_LAST_WORDS_S = 10.0


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_WORDS_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
