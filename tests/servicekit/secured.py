"""PostgreSQL and NATS behind TLS, with certificates that a test made."""

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support import free_address

# What a client sends first that wants TLS (PostgreSQL's protocol, "SSLRequest").
_SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)


def nats_tls(certificates: Path) -> str:
    """The part of NATS's configuration by which clients must show a certificate."""
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    paths = {name: str(certificates / file) for name, file in files.items()}
    return f"tls: {json.dumps({**paths, 'verify': True, 'handshake_first': 'auto'})}\n"


@asynccontextmanager
async def postgres_tls(port: int, certificates: Path) -> AsyncIterator[int]:
    """The port of a PostgreSQL that lets in only clients with a certificate: TLS ends here, because the wheel's PostgreSQL knows none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
    context.verify_mode = ssl.CERT_REQUIRED
    open_writers: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            if await reader.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
                open_writers.add(to_writer)
                await asyncio.gather(_forward(reader, to_writer), _forward(to_reader, writer))
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    address = free_address()
    server = await asyncio.start_server(connected, "127.0.0.1", int(address.rpartition(":")[2]))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_writers:
            writer.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
