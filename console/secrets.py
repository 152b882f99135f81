"""The secrets of an installation: all of them by name, made once and kept together, and who is given which.

A service is given what its settings ask for and nothing of another's. The sets, by name, are those of each service, `<service>-owner` for
who migrates its database, `operator`, `nats`, and `postgres` where the server comes with the installation. They become folders of
files here, Kubernetes' Secrets in `kubernetes.py`, and the environment of `linli up` in `settings.py`.
"""

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from console import catalog
from infra.local import accounts
from servicekit import schema
from servicekit.blobs import BlobSettings
from servicekit.config import PREFIX
from servicekit.service import Service
from services.ingest.nkeys import AccountKey, new_account_seed

SECRETS = "secrets.json"
OWNER = "-owner"
_ADDRESS = "postgres-address"
Sets = dict[str, dict[str, str]]


class SecretsError(Exception):
    """Secrets could not be read, made or handed out; the text says which and why, and never holds one."""


@dataclass(slots=True)
class Secrets:
    """Named secrets, each made when it is first asked for. `keep` is told all of them whenever there is a new one."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    keep: Callable[[Mapping[str, str]], None] = lambda _values: None

    def password(self, name: str) -> str:
        """A random password."""
        return self.other(name, new_password)

    def key(self, name: str) -> str:
        """32 random bytes in base64."""
        return self.other(name, _new_key)

    def signing_key(self, name: str) -> str:
        """The seed of an Ed25519 key in base64."""
        return self.other(self._current(name), _new_signing_key)

    def public_key(self, name: str) -> str:
        """The public half of a signing key, in base64."""
        return _public_half(self.signing_key(name))

    def public_keys(self, name: str) -> str:
        """The public halves of a signing key and of those that it follows or that will follow it, separated by commas."""
        self.signing_key(name)
        return ",".join(_public_half(self.values[each]) for each in self._generations(name))

    def data_keys(self, name: str) -> str:
        """Keys that seal data, `id:key,id:key`: the first seals, all open."""
        self.other(self._current(name), _new_key)
        return ",".join(f"k{self._number(each)}:{self.values[each]}" for each in self._generations(name))

    def other(self, name: str, make: Callable[[], str]) -> str:
        """A secret of another form."""
        if name not in self.values:
            self._set(name, make())
        return self.values[name]

    def rotate(self, name: str) -> str:
        """Takes a step in replacing a secret, and says what is to be done next. Raises SecretsError for one that cannot be replaced so.

        A password is another one at once. Of keys that others rely on a second one is made first, which all processes must know before
        the next call lets it be used.
        """
        if self._is_at_once(name):
            self._set(name, _AT_ONCE.get(name, new_password)())
            return f"{name} is another one: start again whatever uses it"
        current = self._current(name)
        if name not in _IN_STEPS or current not in self.values:
            raise SecretsError(f"{name} cannot be replaced: {', '.join(self._replaceable())} can")
        newest = self._generations(name, by_age=True)[0]
        if newest != current:
            self._set(f"{name}.current", newest)
            return f"{name} is used with its second key: start everything again"
        if _IN_STEPS[name] is _new_signing_key:  # What sealed data opens it for ever; what signed is soon forgotten.
            for former in self._generations(name)[1:]:
                del self.values[former]
        self._set(f"{name}.{self._number(current) + 1}", _IN_STEPS[name]())
        return f"{name} has a second key, not used yet: start everything again, then rotate once more"

    def _is_at_once(self, name: str) -> bool:
        return name in self.values and (name.endswith(_PASSWORDS) or name in _AT_ONCE)

    def _replaceable(self) -> list[str]:
        in_steps = (name for name in _IN_STEPS if self._current(name) in self.values)
        return sorted({*filter(self._is_at_once, self.values), *in_steps})

    def _current(self, name: str) -> str:
        return self.values.get(f"{name}.current", name)

    def _generations(self, name: str, *, by_age: bool = False) -> list[str]:
        """The names of all keys of a name: the one in use first, or the newest."""
        made = [each for each in self.values if each == name or (each.startswith(f"{name}.") and not each.endswith(".current"))]
        newest_first = sorted(made, key=self._number, reverse=True)
        return newest_first if by_age else sorted(newest_first, key=lambda each: each != self._current(name))

    @staticmethod
    def _number(name: str) -> int:
        return int(name.partition(".")[2] or 1)

    def _set(self, name: str, value: str) -> None:
        self.values[name] = value
        self.keep(self.values)


def new_password() -> str:
    """A random password."""
    return secrets.token_urlsafe(24)


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _new_signing_key() -> str:
    seed = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return base64.b64encode(seed).decode()


def _public_half(seed: str) -> str:
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(seed))
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


_PASSWORDS = (OWNER, "-database", "-nats")
_AT_ONCE: Mapping[str, Callable[[], str]] = {
    "operator": new_password,
    "postgres": new_password,
    "mqtt-issuer": new_account_seed,
    "blob-ticket": _new_key,
    "waste-code": _new_key,
}
_IN_STEPS: Mapping[str, Callable[[], str]] = {
    "identity-data": _new_key,
    "access-data": _new_key,
    "workorders-data": _new_key,
    "gate": _new_signing_key,
    "door": _new_signing_key,
}

# What single services are told, by the names of their settings.
_OWN: Mapping[str, Mapping[str, Callable[[Secrets], str]]] = {
    "identity": {
        "DATA_KEYS": lambda known: known.data_keys("identity-data"),
        "INDEX_KEY": lambda known: known.key("identity-index"),
    },
    "ingest": {
        "CREDENTIALS_KEY": lambda known: known.key("ingest-credentials"),
        "GATE_PUBLIC_KEY": lambda known: known.public_keys("gate"),
        "DOOR_PUBLIC_KEY": lambda known: known.public_keys("door"),
        "MQTT_ISSUER_SEED": lambda known: issuer_seed(known),
    },
    "access": {
        "DOOR_KEY": lambda known: known.signing_key("door"),
        "MATCHING_KEY": lambda known: known.key("access-matching"),
        "DATA_KEYS": lambda known: known.data_keys("access-data"),
    },
    "parking": {"GATE_KEY": lambda known: known.signing_key("gate")},
    "workorders": {"DATA_KEYS": lambda known: known.data_keys("workorders-data")},
    "waste": {"CODE_KEY": lambda known: known.key("waste-code")},
}


def issuer_seed(known: Secrets) -> str:
    """The key by which ingest signs devices in at NATS."""
    return known.other("mqtt-issuer", new_account_seed)


@dataclass(frozen=True, slots=True)
class Postgres:
    """Where PostgreSQL is. `options` are what follows the `?` of an address, such as sslmode=verify-full&sslrootcert=/run/ca.crt."""

    host: str
    port: int = 5432
    options: str = ""

    def url(self, role: str, password: str, database: str) -> str:
        """The address of a database."""
        options = f"?{self.options}" if self.options else ""
        return f"postgresql://{role}:{quote(password, safe='')}@{self.host}:{self.port}/{database}{options}"


def located(known: Secrets, host: str = "", port: int | None = None, options: str = "") -> Postgres:
    """Where PostgreSQL is: as is said now or, when nothing is, as it was said last. It is kept with the secrets."""
    said = Postgres(host or "127.0.0.1", port or 5432, options)
    if host or port or options:
        known.values.pop(_ADDRESS, None)
    return msgspec.json.decode(known.other(_ADDRESS, lambda: msgspec.json.encode(said).decode()), type=Postgres)


def of_service(service: Service, known: Secrets, postgres: Postgres) -> dict[str, str]:
    """What a service is told and nobody else, by the names of the variables."""
    name, prefix = service.name, f"{PREFIX}_{service.name.upper()}"
    values = {f"{prefix}_NATS_USER": name, f"{prefix}_NATS_PASSWORD": known.password(f"{name}-nats")}
    if service.migrations:
        database = schema.name_of(name)
        values[f"{prefix}_DATABASE_URL"] = postgres.url(database, known.password(f"{name}-database"), database)
    if issubclass(service.settings, BlobSettings):  # The gateway believes the tickets that others sign.
        values[f"{PREFIX}_BLOB_TICKET_KEY"] = known.key("blob-ticket")
    return values | {f"{prefix}_{setting}": value(known) for setting, value in _OWN.get(name, {}).items()}


def of_owner(service: Service, known: Secrets, postgres: Postgres) -> dict[str, str]:
    """What migrates a service's database."""
    password, database = known.password(f"{service.name}{OWNER}"), schema.name_of(service.name)
    return {f"{PREFIX}_{service.name.upper()}_MIGRATION_URL": postgres.url(schema.owner_of(service.name), password, database)}


def of_operator(known: Secrets, phone: str) -> dict[str, str]:
    """What an operator's commands use. The phone is the one that was named first."""
    user = f"{PREFIX}_{accounts.OPERATOR.upper()}"
    return {
        f"{user}_NATS_USER": accounts.OPERATOR,
        f"{user}_NATS_PASSWORD": known.password(f"{accounts.OPERATOR}-nats"),
        f"{user}_PHONE": known.other("operator-phone", lambda: phone),
        f"{user}_PASSWORD": known.password("operator"),
    }


def nats_configuration(services: Sequence[Service], known: Secrets) -> str:
    """NATS's accounts and users: each service may use what its declaration needs, devices are signed in by ingest."""
    passwords = {name: known.password(f"{name}-nats") for name in (*(service.name for service in services), accounts.OPERATOR)}
    return accounts.configuration(services, passwords, issuer=AccountKey(issuer_seed(known)).public_key)


def installation(known: Secrets, postgres: Postgres, operator_phone: str, *, with_superuser: bool = False) -> Sets:
    """Every set of an installation. `with_superuser` adds the one of PostgreSQL's superuser, for a server that is part of it; once made it
    stays.
    """
    services = catalog.find(["all"])
    sets = {service.name: of_service(service, known, postgres) for service in services}
    sets |= {f"{service.name}{OWNER}": of_owner(service, known, postgres) for service in services if service.migrations}
    sets[accounts.OPERATOR] = of_operator(known, operator_phone)
    sets["nats"] = {"accounts.conf": nats_configuration(services, known)}
    if with_superuser or "postgres" in known.values:
        password = known.password("postgres")
        url = postgres.url("postgres", password, "postgres")
        # CloudNativePG reads name and password, `linli provision` the address.
        sets["postgres"] = {"username": "postgres", "password": password, f"{PREFIX}_POSTGRES_URL": url}
    return sets


def kept_in(folder: Path) -> Secrets:
    """The secrets that are kept in a folder, none in a new one; new ones are kept there. Raises SecretsError."""
    file = folder / SECRETS
    values: dict[str, str] = {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(folder.glob(f"*/{PREFIX}_*_NATS_PASSWORD")):
            # Made anew, they would take the place of those that sealed what is in the databases.
            raise SecretsError(f"{file} is gone, and what was made of it is not: put it back") from None
    except (OSError, ValueError) as error:
        raise SecretsError(f"{file} cannot be read: {type(error).__name__}") from None

    def keep(all_of_them: Mapping[str, str]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, json.dumps(all_of_them, indent=1))

    return Secrets(values, keep)


def write_folders(folder: Path, sets: Sets) -> None:
    """Writes a folder for each set, and in it a file for each value; files that are somebody else's stay. Raises OSError."""
    for name, values in sets.items():
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for variable, value in values.items():
            write_private(folder / name / variable, value)


def write_private(file: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all, also when the power fails."""
    fresh = file.with_name(f"{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
