"""Streams of the broker, brought to what this version declares. Services make those that are missing; to change one is the operator's."""

from collections.abc import Sequence

import typer
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from console.databases import DatabaseError
from console.recovery import broker
from servicekit import messaging
from servicekit.config import ProcessSettings, load
from servicekit.events import event_type
from servicekit.service import Service
from services.ingest import device_messages


class StreamsError(DatabaseError):
    """The broker does not answer, or refuses a change."""


async def bring_up_to_date(services: Sequence[Service]) -> None:
    """Makes and changes the streams of services, with LINLI_STREAM_REPLICAS, and prints a line for each. Services may run meanwhile, and it
    is safe to run again. Raises StreamsError when one is refused, after all others are done, and SettingsError.
    """
    refused = []
    async with broker() as client:
        manager = client.jetstream(timeout=messaging.ACK_S)
        for config in declared(services, load(ProcessSettings).stream_replicas):
            try:
                outcome = await _bring(manager, config)
            except (NatsError, OSError) as error:
                refused.append(f"{config.name}: {error}")
            else:
                typer.echo(f"{config.name}: {outcome}")
    if refused:
        raise StreamsError("\n".join(refused))


def declared(services: Sequence[Service], replicas: int) -> list[StreamConfig]:
    """The streams that services publish to or hear."""
    events = [event for service in services for event in (*map(event_type, service.publishes), *(each.event for each in service.consumes))]
    streams = {event.stream: messaging.stream_of(event, replicas) for event in events}
    if any(service.name == "ingest" for service in services):
        streams[device_messages.STREAM] = device_messages.stream_of_messages(replicas)
    return [streams[name] for name in sorted(streams)]


async def _bring(manager: JetStreamContext, config: StreamConfig) -> str:
    try:
        await manager.add_stream(config)
    except APIError as error:
        if error.err_code != messaging.STREAM_NAME_IN_USE:
            raise
        await manager.update_stream(config)
        return "changed"
    return "as declared"
