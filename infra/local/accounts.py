"""Who may do what on NATS: a user for each service with what its declaration needs and no more, and devices that ingest vouches for.

A service makes its streams when the broker has none, and changes none: JetStream would do for it what NATS refuses to it, such as
publish a stream again under subjects of another service. To change one is the operator's (`linli streams`). It makes its durable consumers
by the request that names the filter; no service may hear so what it publishes, or JetStream would hand its words to another's consumer.

The text goes into the server's configuration, see `start_nats`. Passwords and the issuer's key come from the caller. Devices have no user
here: the server asks ingest about everybody whom it does not know (auth callout). Nobody but ingest hears those questions, which hold
devices' secrets, and nobody has a user in the system account.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servicekit.events import EventType, event_type
from servicekit.service import Service

ACCOUNT = "LINLI"
# The user of operators' commands: it reads dead letters' subjects and publishes them again, and looks after streams.
OPERATOR = "operator"
# What the version before this one needs besides, to make its consumers while both run (ADR 61). It names no filter, so whoever may ask so
# may have words of its own handed to another's handler: it goes as soon as that version is no longer the previous one.
FORMER = ("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}",)


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects that a user may publish to and subscribe to."""

    publish: Sequence[str]
    subscribe: Sequence[str]


def permissions_of(service: Service) -> Permissions:
    """What a service may do: its own events out, what it consumes in, its own streams and consumers, its own inboxes."""
    published = [event_type(message) for message in service.publishes]
    streams = {event.stream for event in (*published, *(c.event for c in service.consumes))}
    publish = [_own_subjects(event) for event in published]
    publish += [f"$JS.API.STREAM.{verb}.{stream}" for stream in streams for verb in ("CREATE", "INFO")]
    subscribe = [f"_INBOX.{service.name}.>"]
    for consumption in service.consumes:
        if consumption.mode == "live":
            subscribe.append(consumption.event.filter_subject)
            continue
        stream, name = consumption.event.stream, f"{service.name}-{consumption.name}"
        publish += [
            *(subject.format(stream=stream, name=name) for subject in FORMER),
            f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{consumption.event.filter_subject}",
            f"$JS.API.CONSUMER.INFO.{stream}.{name}",
            f"$JS.ACK.{stream}.{name}.>",
        ]
        subscribe.append(f"deliver.{name}")
    return Permissions(
        sorted({*publish, *service.nats_publishes}),
        sorted({*subscribe, *service.nats_subscribes}),
    )


def _own_subjects(event: EventType) -> str:
    return f"device.*.{event.device_kind}.>" if event.device_kind else event.filter_subject


def configuration(services: Sequence[Service], passwords: Mapping[str, str], issuer: str = "") -> str:
    """The part of the server's configuration that says who may do what.

    `passwords` are those of the services and of the operator, by name. `issuer` is the public account key `A...` whose permits for devices
    are valid; without one no device signs in. Raises KeyError for a service without a password.
    """
    users = [_user(service.name, passwords[service.name], permissions_of(service)) for service in services]
    users.append(_user(OPERATOR, passwords[OPERATOR], _OPERATORS))
    accounts = {"SYS": {}, ACCOUNT: {"jetstream": "enabled", "users": users}}
    lines = [f"accounts: {json.dumps(accounts, indent=2)}", "system_account: SYS"]
    if issuer:
        # Users who are asked about nobody: those above. Everybody else is a device.
        callout = {"issuer": issuer, "account": ACCOUNT, "auth_users": [user["user"] for user in users]}
        lines.append(f"authorization: {json.dumps({'auth_callout': callout}, indent=2)}")
    return "\n".join(lines) + "\n"


_OPERATORS = Permissions(
    [
        "linli.>",
        "device.>",
        *(f"$MQTT.msgs.devices.*.{topic}" for topic in ("acknowledgements", "deposit", "journal", "observation")),
        "$JS.API.>",
        "$JS.ACK.>",
    ],
    ["_INBOX.>", "linli.>", "device.>"],
)


def _user(name: str, password: str, permissions: Permissions) -> dict[str, object]:
    return {
        "user": name,
        "password": password,
        # Nobody may use a service's password over MQTT or the web.
        "allowed_connection_types": ["STANDARD"],
        "permissions": {"publish": {"allow": list(permissions.publish)}, "subscribe": {"allow": list(permissions.subscribe)}},
    }
