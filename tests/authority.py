"""A certificate authority for tests: it fills folders as cert-manager does."""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


class Authority:
    """Signs certificates that are for servers and clients alike."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Linli's tests")])
        built = self._build(self._name, self._key.public_key(), 10 * _DAY)
        self._certificate = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(self._key, SHA256())

    def issue(self, folder: Path, *names: str, valid: timedelta = _DAY) -> Path:
        """Writes `ca.crt`, `tls.crt` and `tls.key` in place of what is there. The certificate has these DNS names and addresses; with a
        `valid` below zero it has expired. Returns the folder.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        # The common name is what PostgreSQL compares with a role's.
        built = self._build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key(), valid)
        built = built.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        certificate = built.add_extension(usages, critical=False).sign(self._key, SHA256())
        folder.mkdir(exist_ok=True)
        _write(folder / "ca.crt", self._certificate.public_bytes(Encoding.PEM))
        _write(folder / "tls.crt", certificate.public_bytes(Encoding.PEM))
        _write(folder / "tls.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return folder

    def _build(self, name: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        built = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        return built.not_valid_before(now - _DAY).not_valid_after(now + valid)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, and its owner's alone."""
    fresh = file.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(content)
    fresh.replace(file)
