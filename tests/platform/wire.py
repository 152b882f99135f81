"""HTTP with no more than a walk over thousands of requests needs: what is to be sent goes out as it is, on connections that stay open.

A full client spends more time on a request than the platform does, and mends what is meant to be wrong.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_DEADLINE_S = 20


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire. The target may be anything."""

    verb: str
    target: str
    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the platform did what it was asked for."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body, as text."""
        return self.content.decode(errors="replace")

    @property
    def code(self) -> str:
        """The code of a problem; empty for anything else."""
        return str(self.json().get("code", "")) if self.headers.get("content-type") == "application/problem+json" else ""

    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.content) if self.content else None


class Wire:
    """Some connections to one address."""

    def __init__(self, address: str, at_once: int) -> None:
        self._host, _, self._port = address.partition(":")
        self._idle: asyncio.LifoQueue[_Connection | None] = asyncio.LifoQueue()
        for _ in range(at_once):
            self._idle.put_nowait(None)

    async def send(self, sent: Sent) -> Answer:
        """The answer to one request. Raises TimeoutError, or EOFError when the connection ends without one."""
        connection = await self._idle.get()
        keep = None
        try:
            reader, writer = connection or await asyncio.open_connection(self._host, int(self._port))
            try:
                lines = [f"{sent.verb} {sent.target} HTTP/1.1", f"host: {self._host}", f"content-length: {len(sent.content)}"]
                lines += [f"{name}: {value}" for name, value in sent.headers.items()]
                writer.write("\r\n".join([*lines, "\r\n"]).encode() + sent.content)
                async with asyncio.timeout(_DEADLINE_S):
                    answer = await _read(reader)
                if answer.headers.get("connection") != "close":
                    keep = reader, writer
                return answer
            finally:
                if keep is None:
                    writer.close()
        finally:
            self._idle.put_nowait(keep)

    async def aclose(self) -> None:
        """Closes all connections."""
        while not self._idle.empty():
            connection = self._idle.get_nowait()
            if connection is not None:
                connection[1].close()


async def _read(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(first.split(" ")[1]), headers, content)
