"""What all simulated devices and people share: the demonstration they are part of, phones, and the JSON lines that tell what happens."""

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from console.demonstration import Demonstration
from console.environment import newest_code

# Before an access token ends, which is after ten minutes.
_TOKEN_S = 480.0


def say(kind: str, **values: Any) -> None:
    """Prints what happened."""
    line = json.dumps({"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}, ensure_ascii=False)
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more, as after `| head`: devices without power, not an error for each task and at exit


@dataclass(slots=True)
class Town:
    """The demonstration, and how to reach it."""

    demonstration: Demonstration
    folder: Path
    client: httpx.AsyncClient
    chance: random.Random = field(default_factory=random.Random)

    def visitor(self) -> "Phone":
        """A visitor's phone, which signs in by one-time code."""
        return Phone(self, self._visitor_token)

    def manager(self) -> "Phone":
        """The property manager's, by password."""
        return Phone(self, self._manager_token)

    async def _visitor_token(self) -> str:
        body = {"community_id": self.demonstration.community_id, "phone": self.demonstration.visitor_phone}
        await self.client.post(f"{self.demonstration.gateway_url}/v1/sign-in/codes", json=body)
        code = await asyncio.to_thread(newest_code, self.folder, self.demonstration.visitor_phone)
        return await self._sign_in("code", {**body, "code": code or "000000"})

    async def _manager_token(self) -> str:
        plan = self.demonstration
        body = {"community_id": plan.community_id, "phone": plan.manager_phone, "password": plan.manager_password}
        return await self._sign_in("password", body)

    async def _sign_in(self, way: str, body: object) -> str:
        tokens = await self.client.post(f"{self.demonstration.gateway_url}/v1/sign-in/{way}", json=body)
        return str(tokens.json()["access_token"])


class Phone:
    """An app that signs in by itself, and again every few minutes."""

    def __init__(self, town: Town, sign_in: Callable[[], Awaitable[str]]) -> None:
        self._town = town
        self._sign_in = sign_in
        self._token = ""
        self._until = 0.0
        self._signing_in = asyncio.Lock()

    async def request(self, verb: str, path: str, body: object = None) -> httpx.Response:
        """One request. Raises httpx.HTTPError, and KeyError or ValueError when signing in is refused."""
        async with self._signing_in:
            if time.monotonic() > self._until:
                self._token = await self._sign_in()
                self._until = time.monotonic() + _TOKEN_S
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Language": "en"}
        return await self._town.client.request(verb, f"{self._town.demonstration.gateway_url}{path}", json=body, headers=headers)
