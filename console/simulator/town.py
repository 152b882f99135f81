"""What all simulated devices and people share: the demonstration they are part of, phones, and the JSON lines that tell what happens."""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from console.demonstration import Demonstration, DemonstrationResident
from console.environment import newest_code

# Before an access token ends, which is after ten minutes.
_TOKEN_S = 480.0
_NEIGHBOURS = 3


def say(kind: str, **values: Any) -> None:
    """Prints what happened."""
    line = json.dumps({"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}, ensure_ascii=False)
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more, as after `| head`: devices without power, not an error for each task and at exit


@contextmanager
def troubled(who: str) -> Iterator[None]:
    """Tells what went wrong, and goes on."""
    try:
        yield
    except (httpx.HTTPError, ValueError, KeyError) as error:
        say("trouble", who=who, error=type(error).__name__)


@dataclass(slots=True)
class Town:
    """The demonstration, and how to reach it."""

    demonstration: Demonstration
    folder: Path
    client: httpx.AsyncClient
    chance: random.Random = field(default_factory=random.Random)

    phones: dict[str, "Phone"] = field(default_factory=dict)

    def visitor(self) -> "Phone":
        """A visitor's phone, which signs in by one-time code."""
        return self.resident(self.demonstration.visitor_phone)

    def resident(self, phone: str) -> "Phone":
        """A resident's, by one-time code; always the same one, because codes are few."""
        return self.phones.setdefault(phone, Phone(self, phone))

    def manager(self) -> "Phone":
        """The property manager's, by password."""
        return self.staff(self.demonstration.manager_phone)

    def staff(self, phone: str) -> "Phone":
        """Somebody's who works here, by password."""
        return self.phones.setdefault(phone, Phone(self, phone, self.demonstration.manager_password))

    def neighbours(self) -> list[DemonstrationResident]:
        """Residents whose phones no walk of the README needs, nor a seed that was interrupted."""
        plan = self.demonstration
        known = [each for each in plan.residents if each.phone not in ("", plan.resident_phone) and each.account_id not in plan.pins]
        return known[-_NEIGHBOURS:]


class Phone:
    """An app that signs in by itself, and renews that every few minutes."""

    def __init__(self, town: Town, phone: str, password: str = "") -> None:
        self._town = town
        self._phone = phone
        self._password = password
        self._token = self._refresh_token = ""
        self._until = 0.0
        self._signing_in = asyncio.Lock()

    async def request(self, verb: str, path: str, body: object = None) -> httpx.Response:
        """One request. Raises httpx.HTTPError, and KeyError or ValueError when signing in is refused."""
        async with self._signing_in:
            if time.monotonic() > self._until:
                await self._sign_in()
                self._until = time.monotonic() + _TOKEN_S
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Language": "en"}
        return await self._town.client.request(verb, f"{self._town.demonstration.gateway_url}{path}", json=body, headers=headers)

    async def _sign_in(self) -> None:
        # Codes are few, and the reader of a walk may want one for the same phone.
        used, self._refresh_token = self._refresh_token, ""
        tokens = await self._ask("tokens/refresh", {"refresh_token": used}) if used else {}
        if "access_token" not in tokens:
            tokens = await self._begin()
        self._token, self._refresh_token = tokens["access_token"], tokens["refresh_token"]

    async def _begin(self) -> Any:
        who = {"community_id": self._town.demonstration.community_id, "phone": self._phone}
        if self._password:
            return await self._ask("sign-in/password", {**who, "password": self._password})
        await self._ask("sign-in/codes", who)
        code = await asyncio.to_thread(newest_code, self._town.folder, self._phone)
        return await self._ask("sign-in/code", {**who, "code": code or "000000"})

    async def _ask(self, path: str, body: object) -> Any:
        answer = await self._town.client.post(f"{self._town.demonstration.gateway_url}/v1/{path}", json=body)
        return answer.json() if answer.content else {}


async def pay(town: Town, phone: Phone, charge_id: str) -> bool:
    """Pays a charge on the sandbox provider's page. Whether it is paid. Raises as `Phone.request` does."""
    payment = await phone.request("POST", f"/v1/charges/{charge_id}/payments", {"provider": "sandbox"})
    if payment.status_code != httpx.codes.OK:
        return False
    paid = await town.client.post(payment.json()["pay_url"])
    if paid.is_error:
        return False
    for _ in range(40):
        state = (await phone.request("GET", f"/v1/payments/{payment.json()['payment_id']}")).json()["state"]
        if state == "PAYMENT_STATE_SUCCEEDED":
            return True
        await asyncio.sleep(0.25)
    return False
