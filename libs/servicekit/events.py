"""Events: how a message of a contract travels, and what a consumer receives.

An event is a protobuf message whose contract carries `linli.options.v1.event`. Its subject, stream and CloudEvents headers follow from that
option and its package. Pure: nothing here touches the network.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from google.protobuf.message import Message

from linli.options.v1 import options_pb2

M = TypeVar("M", bound=Message)
# A fact is short; a batch of readings from an edge box is the longest there is. With its headers it stays below the 1 MiB that NATS takes
# unless told otherwise: it throws out whoever sends more.
BODY_BYTES_MAX = 1_000_000
_UUID_LENGTH = 36
# A header ends at a line break; PostgreSQL holds no NUL.
_BLANK = re.compile(r"[\x00-\x1f\x7f]")
# NATS takes no blanks and no wildcards; every token holds something.
_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")


@dataclass(frozen=True, slots=True)
class EventType:
    """What the contract says of one event."""

    message: type[Message]
    name: str
    stream: str
    # Every subject of the stream, and the part of it that carries this event.
    stream_subjects: str
    filter_subject: str
    aggregate_field: str
    recipient_field: str
    device_kind: str

    def subject(self, message: Message, community_id: uuid.UUID) -> str:
        """Where this message is published."""
        if self.device_kind:
            return f"device.{community_id}.{self.device_kind}.{getattr(message, self.aggregate_field)}"
        subject = f"{self.filter_subject.removesuffix('.>')}.{community_id}"
        return f"{subject}.{getattr(message, self.recipient_field)}" if self.recipient_field else subject


_event_types: dict[str, EventType] = {}


def event_type(message: type[Message]) -> EventType:
    """The event that a message class is. Raises TypeError when its contract does not mark it as one."""
    name = message.DESCRIPTOR.full_name
    if name not in _event_types:
        _event_types[name] = _read_option(message)
    return _event_types[name]


def _read_option(message: type[Message]) -> EventType:
    descriptor = message.DESCRIPTOR
    if not descriptor.GetOptions().HasExtension(options_pb2.event):
        raise TypeError(f"{descriptor.full_name} is no event: its contract does not carry linli.options.v1.event")
    option = descriptor.GetOptions().Extensions[options_pb2.event]
    for name in (option.aggregate, option.recipient):
        if name and name not in descriptor.fields_by_name:
            raise TypeError(f"{descriptor.full_name} has no field {name}")
    domain = descriptor.full_name.split(".")[1]
    if option.device_kind:
        stream, subjects = f"DEVICE_{option.device_kind.upper()}", f"device.*.{option.device_kind}.>"
        filter_subject = subjects
    else:
        stream, subjects = f"LINLI_{domain.upper()}", f"linli.{domain}.>"
        filter_subject = f"linli.{domain}.{descriptor.name}.>"
    return EventType(
        message=message,
        name=descriptor.full_name,
        stream=stream,
        stream_subjects=subjects,
        filter_subject=filter_subject,
        aggregate_field=option.aggregate,
        recipient_field=option.recipient,
        device_kind=option.device_kind,
    )


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event on its way: the CloudEvents attributes and the message's bytes."""

    event_id: str
    type: str
    community_id: uuid.UUID
    subject: str
    aggregate: str
    version: int
    occurred_at: datetime
    traceparent: str
    body: bytes

    def headers(self, source: str) -> dict[str, str]:
        """CloudEvents attributes in the binary mode of its NATS binding; `source` is the publishing service."""
        headers = {
            "Nats-Msg-Id": self.event_id,
            "ce-specversion": "1.0",
            "ce-id": self.event_id,
            "ce-type": self.type,
            "ce-source": f"/linli/{source}",
            "ce-subject": self.aggregate,
            "ce-time": self.occurred_at.isoformat(),
            "ce-sequence": str(self.version),
            "ce-community": str(self.community_id),
            "content-type": "application/protobuf",
        }
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        return headers


def envelope(
    message: Message,
    community_id: uuid.UUID,
    *,
    event_id: str,
    occurred_at: datetime,
    version: int = 0,
    traceparent: str = "",
) -> Envelope:
    """Wraps an event.

    Raises TypeError when the message is no event, and ValueError when it cannot travel, so that it never lies in an outbox which it would
    stop: its aggregate or recipient is empty or holds what a subject may not, or its body is longer than `BODY_BYTES_MAX`.
    """
    kind = event_type(type(message))
    aggregate = str(getattr(message, kind.aggregate_field))
    if not aggregate or _BLANK.search(aggregate):
        raise ValueError(f"{kind.name}.{kind.aggregate_field} is empty or holds control characters")
    subject, body = kind.subject(message, community_id), message.SerializeToString()
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{kind.name} has a recipient or device that cannot be part of a subject")
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"{kind.name} has {len(body)} bytes, more than {BODY_BYTES_MAX}")
    return Envelope(
        event_id=event_id,
        type=kind.name,
        community_id=community_id,
        subject=subject,
        aggregate=aggregate,
        version=version,
        occurred_at=occurred_at,
        traceparent=traceparent,
        body=body,
    )


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """An event as a consumer gets it. `version` is 0 for events whose aggregate has none."""

    event_id: str
    community_id: uuid.UUID
    aggregate: str
    version: int
    occurred_at: datetime
    message: M

    @property
    def published_at(self) -> float:
        """When it was published, in Unix seconds. The fact itself may be older: a bin tells later what was brought while it was offline."""
        identifier = self.event_id
        # The first 48 bits of a UUIDv7 are milliseconds (RFC 9562 §5.7). What has another id was published as soon as it was known.
        if len(identifier) == _UUID_LENGTH and identifier[14] == "7":
            return int(identifier[:8] + identifier[9:13], 16) / 1000
        return self.occurred_at.timestamp()


def received(headers: Mapping[str, str], body: bytes, message: type[M]) -> Received[M]:
    """Unwraps an event. Raises ValueError when headers or body are not what our publishers write."""
    try:
        occurred_at = datetime.fromisoformat(headers["ce-time"])
        if occurred_at.tzinfo is None:
            raise ValueError("a time without its zone")
        return Received(
            event_id=headers["ce-id"],
            community_id=uuid.UUID(headers["ce-community"]),
            aggregate=headers["ce-subject"],
            version=int(headers.get("ce-sequence", "0")),
            occurred_at=occurred_at,
            message=message.FromString(body),
        )
    except Exception as error:  # protobuf's DecodeError is no ValueError
        raise ValueError(f"unreadable event: {error}") from error
