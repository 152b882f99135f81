"""Every service of the platform, in the order in which a reader meets them. The one place that knows them all."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Commands that run no service, such as `linli health`, do not wait for what one imports.
    from servicekit.service import Service

SERVICES = ("gateway", "identity", "ingest", "access", "parking", "billing", "workorders", "points", "waste", "insights")
# Where `linli up` serves HTTP when the port is free.
HTTP_PORTS = {"gateway": 8080, "ingest": 8081}


class UnknownServiceError(Exception):
    """No service has this name."""


def find(names: Sequence[str]) -> "list[Service]":
    """The declarations of the services named; `all` names every one. Raises UnknownServiceError."""
    chosen = SERVICES if "all" in names else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in SERVICES:
            raise UnknownServiceError(f"no service is called {name}; there are {', '.join(SERVICES)}, and all")
    # Imported only when it runs: a process with one service does not pay for the others.
    services: list[Service] = [importlib.import_module(f"services.{name}.service").SERVICE for name in chosen]
    return services


def modules() -> list[str]:
    """The services that a community can switch on and off."""
    return [service.name for service in find(["all"]) if service.api is not None and not service.always_on]
