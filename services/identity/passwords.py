"""Argon2id password hashes (RFC 9106), made in threads, a few at a time. Whose they are, and how often one may try, is elsewhere."""

import asyncio
import secrets
from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

LENGTH_MIN: Final = 12
# What OWASP recommends where the 64 MiB of RFC 9106 §4 for each hash are too much: a small machine does everything else beside it.
_MEMORY_KIB: Final = 19_456
_PASSES: Final = 2
_AT_ONCE: Final = 2


class Passwords:
    """Hashes passwords and compares them."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1, type=Type.ID)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._nobodys = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """The hash to store, in PHC string format."""
        async with self._turns:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether `password` has the hash `stored`. Takes as long when there is none, so that time does not tell who has a password."""
        async with self._turns:
            return await asyncio.to_thread(self._matches, password, stored or self._nobodys) and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's, and should be made again while the password is at hand."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
