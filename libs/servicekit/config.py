"""Typed settings from the environment.

A service's settings are a `msgspec.Struct` with defaults. The field `retention_days` of the service `insights` is read from
`LINLI_INSIGHTS_RETENTION_DAYS`, else from `LINLI_RETENTION_DAYS`, else it is the default. A value that is missing or wrong stops the start
with its name. Secrets come by files as well: `LINLI_..._FILE` names one that holds the value, and `LINLI_SECRETS_FOLDER` a folder of files
that are called like their variables, as Kubernetes mounts a Secret and systemd a service's credentials. The environment itself wins.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

PREFIX = "LINLI"
SECRETS_FOLDER = f"{PREFIX}_SECRETS_FOLDER"
S = TypeVar("S", bound=msgspec.Struct)

Count = Annotated[int, msgspec.Meta(ge=1)]
# Where something listens, such as 127.0.0.1:7000 or [::1]:7000.
Address = Annotated[str, msgspec.Meta(pattern=r"^\S+:[0-9]{1,5}$")]


class SettingsError(Exception):
    """A setting is missing or wrong. The text names the variable and never holds its value."""


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one process needs, whichever services it runs."""

    grpc_address: Address = "127.0.0.1:7000"
    ops_address: Address = "127.0.0.1:7001"
    nats_url: str = "nats://127.0.0.1:4222"
    # Where a service is found; `{service}` is its name. LINLI_PARKING_ADDRESS overrides it for one service.
    service_address: str = "127.0.0.1:7000"
    # Of a stream that is made. Existing ones: `linli streams`.
    stream_replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    # After SIGTERM a process is not ready but goes on serving for so long, until nobody sends to it any more: routes elsewhere are changed
    # only after it was told to go. Then it drains, for at most `drain_s`.
    linger_s: Annotated[int, msgspec.Meta(ge=0, le=600)] = 0
    drain_s: Annotated[int, msgspec.Meta(ge=1, le=600)] = 20
    # A folder with `ca.crt`, `tls.crt` and `tls.key`, as cert-manager makes them. With it gRPC and NATS demand and show certificates,
    # without it they are plain, which is for one machine. Those for PostgreSQL are named in the address of the database.
    tls_folder: str = ""
    log_level: str = "info"
    otlp_endpoint: str = ""
    trace_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one service reaches its own database."""

    database_url: str
    # The role that owns the tables. When it is given, the service migrates at start; otherwise it waits until `linli migrate` has.
    migration_url: str = ""
    database_pool_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom one service's gRPC API answers."""

    # Names separated by commas. Only a caller whose certificate has one of them is answered; when there are none, everybody whose
    # certificate is of our authority. A caller without a certificate has no name.
    callers: str = ""


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one service signs in to NATS."""

    nats_user: str = ""
    nats_password: str = ""


def load(settings: type[S], service: str = "", environment: Mapping[str, str] = os.environ) -> S:
    """Reads `settings` for `service` from the environment. Raises SettingsError."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for field in msgspec.structs.fields(settings):
        own = "_".join(part for part in (PREFIX, service, field.name) if part).upper()
        shared = f"{PREFIX}_{field.name}".upper()
        for name in (own, shared):
            value = _value(name, environment)
            if value is not None:
                values[field.name], sources[field.name] = value, name
                break
        else:
            if field.required:
                raise SettingsError(f"{own} is not set")
            sources[field.name] = own
    try:
        return msgspec.convert(values, settings, strict=False)
    except msgspec.ValidationError as error:
        # msgspec says "Expected `int`, got `str` - at `$.field`": the path tells which setting it is.
        field_name = str(error).rpartition("$.")[2].rstrip("`")
        name = sources.get(field_name, field_name)
        raise SettingsError(f"{name} is wrong: {str(error).partition(' - at ')[0]}") from None


def _value(name: str, environment: Mapping[str, str]) -> str | None:
    if name in environment:
        return environment[name]
    path = environment.get(f"{name}_FILE")
    if path is not None:
        return _read(Path(path), f"{name}_FILE")
    folder = environment.get(SECRETS_FOLDER)
    if not folder:
        return None
    try:
        is_there = name in os.listdir(folder)
    except OSError as error:
        raise SettingsError(f"{SECRETS_FOLDER} is wrong: {error.strerror}") from None
    return _read(Path(folder) / name, f"{name} in {SECRETS_FOLDER}") if is_there else None


def _read(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name} cannot be read: {getattr(error, 'strerror', 'it is no text')}") from None


def address_of(service: str, process: ProcessSettings, environment: Mapping[str, str] = os.environ) -> str:
    """Where a service's gRPC API is."""
    own = environment.get(f"{PREFIX}_{service.upper()}_ADDRESS")
    return own if own is not None else process.service_address.replace("{service}", service)
