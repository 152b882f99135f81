"""The gateway as the demonstration's people call it."""

from typing import Any

import httpx


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

    async def signed_in(self, path: str, body: object) -> "Api":
        """The same gateway as the account that signs in."""
        tokens = await self.call("POST", path, body)
        return Api(self._client, self._url, tokens["access_token"])
