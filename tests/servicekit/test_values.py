"""What crosses borders as a value: errors, events, settings, instants, page tokens."""

import grpc

from servicekit.errors import FAMILY, FieldViolation, Internal, from_status, to_status


def test_errors_cross_grpc_whole() -> None:
    for kind in FAMILY:
        error = kind("a.code", "中文", "English", details={"x": "y"}, fields=[FieldViolation("a[0].b", "c", "d")], retry_after_s=3)
        back = from_status(error.status, to_status(error))
        assert type(back) is kind
        assert (back.code, back.zh, back.en, back.details, back.fields, back.retry_after_s) == (
            "a.code",
            "中文",
            "English",
            {"x": "y"},
            error.fields,
            3,
        )
    assert isinstance(from_status(grpc.StatusCode.UNKNOWN, None), Internal)
