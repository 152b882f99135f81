"""Certificates of this process: what gRPC and NATS show to each other, and whom they believe.

`LINLI_TLS_FOLDER` names a folder as cert-manager fills it and Kubernetes mounts it: `tls.crt`, this process's certificate with those that
signed it, `tls.key` and `ca.crt`, whom it believes. Files that were renewed are used by every connection made from then on, and those that
stand stay. Both sides show a certificate, and the caller looks whether the name it called stands in it. PostgreSQL's certificates are not
here: the address of the database names them, and its drivers read them anew for each connection.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import grpc

from servicekit import telemetry
from servicekit.config import PREFIX, ProcessSettings, SettingsError

_FILES = ("ca.crt", "tls.crt", "tls.key")
# When files that could not be used are looked at again.
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What the files said at one look, and when each was written."""

    written: tuple[int, ...]
    trusted: bytes
    shown: bytes
    secret: bytes
    channel: grpc.ChannelCredentials
    context: ssl.SSLContext


class Certificates:
    """The certificates in a folder, as they are now."""

    def __init__(self, folder: Path) -> None:
        """Raises SettingsError when they cannot be used."""
        self._files = tuple(folder / name for name in _FILES)
        self._look_at = float("-inf")
        try:
            self._last = self._read()
        except OSError as error:
            raise SettingsError(f"{PREFIX}_TLS_FOLDER is wrong: {error}") from None

    def channel(self) -> grpc.ChannelCredentials:
        """For calls to other services: the same object until the files change."""
        return self._newest().channel

    def server(self) -> grpc.ServerCredentials:
        """For a server that serves only who shows a certificate of the authority."""
        given = self._newest()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            newest = self._newest()
            if newest is given:
                return None
            given = newest
            return _configuration(newest)

        initial = _configuration(given)
        return grpc.dynamic_ssl_server_credentials(initial, renewed, True)  # type: ignore[arg-type]  # None says that nothing is new

    def context(self) -> ssl.SSLContext:
        """For a client that keeps its context for good: each of its connections is made with the files as they are then."""
        return _Context(lambda: self._newest().context)

    def _newest(self) -> _Read:
        # gRPC's servers ask from threads of their own; at worst two read the same files.
        try:
            if monotonic() >= self._look_at and self._written() != self._last.written:
                self._last = self._read()
        except OSError as error:
            # Half of a renewal, perhaps. What was read before serves until it expires.
            self._look_at = monotonic() + _RETRY_S
            telemetry.log.warning("certificates_not_read", error=str(error))
        return self._last

    def _written(self) -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in self._files)

    def _read(self) -> _Read:
        # When they change while they are read, the next look sees other times than these.
        written = self._written()
        authority, certificate, key = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key, password="")  # or it would ask at the terminal for the password of an encrypted key
        trusted, shown, secret = (file.read_bytes() for file in self._files)
        return _Read(written, trusted, shown, secret, grpc.ssl_channel_credentials(trusted, secret, shown), context)


class _Context(ssl.SSLContext):
    """Stands for another context, which it asks for at each connection."""

    def __new__(cls, _newest: Callable[[], ssl.SSLContext]) -> "_Context":
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, newest: Callable[[], ssl.SSLContext]) -> None:
        self._newest = newest

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self._newest().wrap_bio(*arguments, **options)


def _configuration(files: _Read) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.secret, files.shown)], files.trusted)


@cache  # What was renewed is read once for all connections.
def certificates(process: ProcessSettings) -> Certificates | None:
    """This process's certificates; None when it speaks plainly. Raises SettingsError."""
    return Certificates(Path(process.tls_folder)) if process.tls_folder else None
