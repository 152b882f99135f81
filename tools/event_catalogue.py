"""docs/events.md, generated from the services' declarations: which event who publishes and who hears it."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from console import catalog
from servicekit.events import event_type
from servicekit.service import Service

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "events.md"
_DESCRIPTORS = ROOT / "libs" / "linli" / "descriptors.binpb"
_MESSAGE = 4  # the field of FileDescriptorProto that holds messages, as comments' paths name it


def problems(services: Sequence[Service]) -> list[str]:
    """Events that are consumed but published by nobody."""
    published = {event_type(message).name for service in services for message in service.publishes}
    return [
        f"{service.name} consumes {consumption.event.name}, which nobody publishes"
        for service in services
        for consumption in service.consumes
        if consumption.event.name not in published
    ]


def render(services: Sequence[Service]) -> str:
    """The document."""
    publishers: dict[str, list[str]] = defaultdict(list)
    consumers: dict[str, list[str]] = defaultdict(list)
    subjects: dict[str, str] = {}
    for service in services:
        for message in service.publishes:
            event = event_type(message)
            publishers[event.name].append(service.name)
            subjects[event.name] = event.filter_subject
        for consumption in service.consumes:
            consumers[consumption.event.name].append(f"{service.name}: `{consumption.name}`")
            subjects[consumption.event.name] = consumption.event.filter_subject
    comments = _comments()
    lines = ["# Events", "", "Generated from the services' declarations by `make events`. Fields are in the contracts under `proto/`.", ""]
    for name in sorted(subjects):
        lines += [f"## {name}", "", comments.get(name, ""), "", f"- subject: `{subjects[name]}`"]
        lines += [f"- published by: {', '.join(sorted(publishers[name])) or 'nobody'}"]
        lines += [f"- heard by: {'; '.join(sorted(consumers[name])) or 'nobody in Linli'}", ""]
    return "\n".join(lines)


def _comments() -> dict[str, str]:
    found = {}
    for file in FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
        for location in file.source_code_info.location:
            if len(location.path) == 2 and location.path[0] == _MESSAGE:
                message = file.message_type[location.path[1]]
                found[f"{file.package}.{message.name}"] = " ".join(location.leading_comments.split())
    return found


if __name__ == "__main__":
    DOCUMENT.write_text(render(catalog.find(["all"])), encoding="utf-8")
