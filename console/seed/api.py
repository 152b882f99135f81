"""The gateway as the demonstration's people call it."""

import asyncio
import time
from typing import Any

import httpx

# How long news of who lives and works where may take from identity to another service: as long as identity takes to tell it all again.
_NEWS_S = 150.0
_ASK_AGAIN_S = 0.5


class SeedError(Exception):
    """The API refused a step; the text says which and why."""


class Api:
    """The gateway, as one signed-in account."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: str = "") -> None:
        self._client = client
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(self, verb: str, path: str, body: object = None, *, key: str = "", expect: int = 0) -> Any:
        """One call. Raises SeedError unless it succeeds or answers `expect`, for which it returns None."""
        headers = {**self._headers, **({"Idempotency-Key": key} if key else {})}
        answer = await self._client.request(verb, f"{self._url}{path}", json=body, headers=headers)
        if answer.status_code == expect:
            return None
        if answer.is_error:
            raise SeedError(f"{verb} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    async def call_when_known(self, verb: str, path: str, body: object, *, key: str, refused: int = httpx.codes.NOT_FOUND) -> Any:
        """One call, as soon as the service has heard of the people in it: until then it answers `refused`. Raises SeedError."""
        deadline = time.monotonic() + _NEWS_S
        while (answer := await self.call(verb, path, body, key=key, expect=refused)) is None:
            if time.monotonic() > deadline:
                raise SeedError(f"{verb} {path}: news of people do not come")
            await asyncio.sleep(_ASK_AGAIN_S)
        return answer

    async def signed_in(self, path: str, body: object) -> "Api":
        """The same gateway as the account that signs in."""
        return self.bearing(await self.call("POST", path, body))

    def bearing(self, tokens: Any) -> "Api":
        """The same gateway as the account that these tokens were given to."""
        return Api(self._client, self._url, tokens["access_token"])
