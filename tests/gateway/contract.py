"""Small contracts made up for a test, for what the platform's own do not have."""

import itertools

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor

_numbers = itertools.count()
Field = descriptor_pb2.FieldDescriptorProto


def field(name: str, number: int, kind: int = Field.TYPE_STRING, *, type_name: str = "", repeated: bool = False) -> Field:
    """One field of a message."""
    label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    return Field(name=name, number=number, type=kind, label=label, type_name=type_name or None)  # type: ignore[arg-type]


def rule(**options: object) -> http_pb2.HttpRule:
    """A `google.api.http` rule, such as `rule(get="/v1/things/{name}")`."""
    return http_pb2.HttpRule(**options)


def contract(rules: dict[str, http_pb2.HttpRule | None], *, streaming: bool = False) -> FileDescriptor:
    """A contract whose service `Things` has a method for each rule; each takes `Request` and answers with `Answer`."""
    package = f"linli.made{next(_numbers)}"
    own = f".{package}."
    inner = descriptor_pb2.DescriptorProto(name="Inner", field=[field("name", 1), field("size", 2, Field.TYPE_INT32)])
    entry = descriptor_pb2.DescriptorProto(
        name="LabelsEntry", field=[field("key", 1, Field.TYPE_INT64), field("value", 2, Field.TYPE_BOOL)]
    )
    entry.options.map_entry = True
    choices = [field("by_phone", 9), field("by_card", 10)]
    for choice in choices:
        choice.oneof_index = 0
    request = descriptor_pb2.DescriptorProto(
        name="Request",
        field=[
            field("name", 1),
            field("inner", 2, Field.TYPE_MESSAGE, type_name=own + "Inner"),
            field("tags", 3, repeated=True),
            field("secret", 4, Field.TYPE_BYTES),
            field("ratio", 5, Field.TYPE_DOUBLE),
            field("exact", 6, Field.TYPE_BOOL),
            field("labels", 7, Field.TYPE_MESSAGE, type_name=own + "Request.LabelsEntry", repeated=True),
            field("itself", 8, Field.TYPE_MESSAGE, type_name=own + "Request"),
            *choices,
            field("share", 11, Field.TYPE_FLOAT),
            field("count", 12, Field.TYPE_UINT64),
        ],
        nested_type=[entry],
        oneof_decl=[descriptor_pb2.OneofDescriptorProto(name="means")],
    )
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto",
        package=package,
        syntax="proto3",
        dependency=["google/api/annotations.proto"],
        message_type=[inner, request, descriptor_pb2.DescriptorProto(name="Answer")],
    )
    service = file.service.add(name="Things")
    for name, http in rules.items():
        method = service.method.add(name=name, input_type=own + "Request", output_type=own + "Answer", server_streaming=streaming)
        if http is not None:
            method.options.Extensions[annotations_pb2.http].CopyFrom(http)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)
