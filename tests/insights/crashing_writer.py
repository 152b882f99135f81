"""The service in a process of its own, killed as by `kill -9` once it has committed what it gathered first and acknowledged none of it."""

import asyncio
import os
import signal

from nats.aio.msg import Msg

from servicekit import messaging
from servicekit.config import ProcessSettings, load
from servicekit.service import serve
from services.insights.service import SERVICE

# What is not acknowledged comes again after this long; the same in the process that carries on.
ACK_WAIT_S = 1.0


async def die(message: Msg) -> None:
    """Takes the place of the acknowledgement of `message`."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    messaging._ACK_WAIT_S = ACK_WAIT_S
    Msg.ack = die  # type: ignore[assignment,method-assign]
    asyncio.run(serve([SERVICE], load(ProcessSettings)))
