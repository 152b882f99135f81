"""The contracts of all services, as the gateway reads them at start: descriptors and the comments of the proto files.

`make proto` writes the descriptor set beside the generated code. What becomes of the contracts is told in `routes`, `transcode` and
`openapi`.
"""

import importlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

_PACKAGE = "linli."


@dataclass(frozen=True, slots=True)
class Contracts:
    """Every service of every contract, and the comment of each thing by its full name, such as `linli.parking.v1.Lot.name`."""

    services: Sequence[ServiceDescriptor]
    comments: Mapping[str, str]


def load() -> Contracts:
    """Reads the descriptor set and imports the generated modules, so that messages of the contracts can be made."""
    pool = descriptor_pool.Default()
    services: list[ServiceDescriptor] = []
    comments: dict[str, str] = {}
    for file in _files():
        # The generated module of linli/parking/v1/parking.proto is linli.parking.v1.parking_pb2; importing it fills the pool.
        importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        services += (pool.FindServiceByName(f"{file.package}.{service.name}") for service in file.service)
        comments |= _comments(file)
    return Contracts(services, comments)


def services() -> Set[str]:
    """The names of the services that have an API."""
    return {service_of(f"{file.package}.{service.name}") for file in _files() for service in file.service}


def _files() -> list[FileDescriptorProto]:
    descriptors = FileDescriptorSet.FromString(files("linli").joinpath("descriptors.binpb").read_bytes())
    return [file for file in descriptors.file if file.package.startswith(_PACKAGE)]


def service_of(full_name: str) -> str:
    """The service that owns a name: `parking` for `linli.parking.v1.ParkingService`."""
    return full_name.split(".")[1]


def _comments(file: FileDescriptorProto) -> dict[str, str]:
    """The comments of a file by full name. Source locations name things by their place in the file, such as (4, 0, 2, 1)."""
    names: dict[tuple[int, ...], str] = {}
    for i, service in enumerate(file.service):
        names[6, i] = f"{file.package}.{service.name}"
        names |= {(6, i, 2, j): f"{file.package}.{service.name}.{method.name}" for j, method in enumerate(service.method)}
    for i, message in enumerate(file.message_type):
        _name_message(names, (4, i), file.package, message)
    for i, enum in enumerate(file.enum_type):
        _name_enum(names, (5, i), file.package, enum)
    return {
        names[tuple(location.path)]: location.leading_comments.strip()
        for location in file.source_code_info.location
        if location.leading_comments and tuple(location.path) in names
    }


def _name_message(names: dict[tuple[int, ...], str], place: tuple[int, ...], scope: str, message: DescriptorProto) -> None:
    names[place] = f"{scope}.{message.name}"
    names |= {(*place, 2, j): f"{scope}.{message.name}.{field.name}" for j, field in enumerate(message.field)}
    for j, nested in enumerate(message.nested_type):
        _name_message(names, (*place, 3, j), names[place], nested)
    for j, enum in enumerate(message.enum_type):
        _name_enum(names, (*place, 4, j), names[place], enum)


def _name_enum(names: dict[tuple[int, ...], str], place: tuple[int, ...], scope: str, enum: EnumDescriptorProto) -> None:
    names[place] = f"{scope}.{enum.name}"
    # Values are named after the enum here, although protobuf scopes them beside it, so that two enums may share a value's name.
    names |= {(*place, 2, j): f"{scope}.{enum.name}.{value.name}" for j, value in enumerate(enum.value)}
