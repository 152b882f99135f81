"""How a one-time code reaches a phone: an installation's SMS gateway, or, while developing, a file that `linli otp` reads."""

import asyncio
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import httpx
import msgspec

from servicekit import telemetry
from servicekit.errors import Unavailable
from services.identity import phones


@runtime_checkable
class CodeSender(Protocol):
    """Sends a code to a phone. Raises Unavailable when it cannot."""

    async def send(self, phone: str, code: str) -> None:
        """Returns when somebody else is responsible for delivering it."""


class SentCode(msgspec.Struct, frozen=True):
    """One line of the development sender's file."""

    phone: str
    code: str


class DevelopmentSender:
    """Writes codes to a file that only its owner can read. Never for an installation with people in it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def send(self, phone: str, code: str) -> None:
        """Appends a line to the file."""
        await asyncio.to_thread(self._append, msgspec.json.encode(SentCode(phone, code)) + b"\n")
        telemetry.log.info("code_for_development", phone=phones.masked(phone))

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def newest_code(file: Path, phone: str) -> str | None:
    """The last code that the development sender wrote for a phone; None when there is none."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    sent = (msgspec.json.decode(line, type=SentCode) for line in reversed(lines))
    return next((line.code for line in sent if line.phone == phone), None)


class HttpSender:
    """Posts `{"phone": ..., "code": ...}` to an SMS gateway, which words the message."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: str) -> None:
        self._client = client
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def send(self, phone: str, code: str) -> None:
        """Asks once: the person who waits asks again, and nobody is sent two messages."""
        try:
            answer = await self._client.post(self._url, json={"phone": phone, "code": code}, headers=self._headers)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            # The error's own text may hold what was sent.
            telemetry.log.warning("code_not_sent", error=type(error).__name__)
            raise Unavailable(
                "identity.code_not_sent",
                "验证码暂时无法发送，请稍后再试",
                "The code could not be sent; please try again",
                retry_after_s=60,
            ) from None
