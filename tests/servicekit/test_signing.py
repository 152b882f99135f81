"""Signatures: one key, one purpose, exactly these bytes; and the commands that devices obey."""

import base64
import secrets
from datetime import UTC, datetime, timedelta

import pytest

from linli.device.v1.commands_pb2 import DeviceCommand, SignedCommand
from servicekit.commands import CommandKeys, CommandSigner
from servicekit.identifiers import new_id
from servicekit.signing import BARE, PublicKeys, Signer
from servicekit.times import to_timestamp

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def public(*signers: Signer) -> str:
    """The setting of whoever checks what these have signed."""
    return ", ".join(base64.b64encode(signer.public_key).decode() for signer in signers)


def test_a_signature_holds_for_its_key_its_purpose_and_its_content_alone() -> None:
    signer, other = Signer(key()), Signer(key())
    keys = PublicKeys(public(signer))
    signature = signer.sign("access.code", b"content")
    assert keys.has_signed("access.code", b"content", signature)
    assert PublicKeys(public(other, signer)).has_signed("access.code", b"content", signature)
    assert not PublicKeys(public(other)).has_signed("access.code", b"content", signature)
    for purpose, content in (("access.snapshot", b"content"), ("access.code", b"contents"), (BARE, b"content"), ("access.code\0", b"")):
        assert not keys.has_signed(purpose, content, signature)
    for wrong in (b"", b"short", signature[:-1] + bytes([signature[-1] ^ 1])):
        assert not keys.has_signed("access.code", b"content", wrong)


def test_keys_are_thirty_two_bytes_of_base64() -> None:
    for wrong in ("", "?", "c2hvcnQ=", "é"):
        with pytest.raises(ValueError):  # noqa: PT011
            Signer(wrong)
        with pytest.raises(ValueError):  # noqa: PT011
            PublicKeys(wrong)
    signer = Signer(text := key())
    assert signer.key_id == Signer(text).key_id != Signer(key()).key_id


def test_a_command_opens_one_device_for_ten_seconds_and_is_signed_as_its_bytes() -> None:
    signer, command_id = Signer(key()), new_id()
    signed = CommandSigner(signer).open(command_id, "gate-1", 7, NOW)
    assert signed.key_id == signer.key_id
    assert PublicKeys(public(signer)).has_signed(BARE, signed.command, signed.signature)
    command = CommandKeys(public(signer)).read(signed)
    assert command is not None
    assert (command.command_id, command.device_id, command.expires_at) == (str(command_id), "gate-1", NOW + timedelta(seconds=10))
    assert DeviceCommand.FromString(signed.command).counter == 7


def test_a_command_of_the_other_kind_of_device_of_another_action_or_altered_is_none() -> None:
    parking, access = Signer(key()), Signer(key())
    gates, doors = CommandKeys(public(parking)), CommandKeys(public(access))
    opening = CommandSigner(parking).open(new_id(), "gate-1", 1, NOW)
    assert gates.read(opening) is not None
    assert doors.read(opening) is None
    altered = SignedCommand(command=opening.command.replace(b"gate-1", b"gate-2"), signature=opening.signature, key_id=opening.key_id)
    assert gates.read(altered) is None
    for body in (
        DeviceCommand(device_id="gate-1", action="close", expires_at=to_timestamp(NOW)).SerializeToString(),
        DeviceCommand(device_id="gate-1", action="open").SerializeToString(),
        b"\xff\xff",
    ):
        assert gates.read(SignedCommand(command=body, signature=parking.sign(BARE, body))) is None
