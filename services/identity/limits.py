"""How often what may happen at sign-in. The counting is in the store, so that all replicas count together."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count_max` times within `window`, which begins with the first time, for one subject: a keyed digest of whom it counts."""

    name: str
    subject: bytes
    count_max: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """What an installation decides about sign-in."""

    issuer: str
    signing_key_life: timedelta
    codes_per_address_hour: int
    codes_per_community_hour: int
    sign_ins_per_address_hour: int


_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_QUARTER: Final = timedelta(minutes=15)
PASSWORDS_PER_ACCOUNT_AND_ADDRESS: Final = 10
PASSWORDS_PER_ACCOUNT: Final = 100


def for_a_code(policy: Policy, *, phone: bytes, address: bytes, community: bytes) -> Sequence[Limit]:
    """The limits of sending one code."""
    return (
        Limit("code_phone_minute", phone, 1, _MINUTE),
        Limit("code_phone_hour", phone, 5, _HOUR),
        Limit("code_phone_day", phone, 10, _DAY),
        Limit("code_address_hour", address, policy.codes_per_address_hour, _HOUR),
        Limit("code_community_hour", community, policy.codes_per_community_hour, _HOUR),
    )


def for_a_sign_in(policy: Policy, *, address: bytes) -> Sequence[Limit]:
    """The limits of one try to sign in, right or wrong."""
    return (Limit("sign_in_address_hour", address, policy.sign_ins_per_address_hour, _HOUR),)


def for_a_password(*, account: bytes, account_and_address: bytes) -> Sequence[Limit]:
    """The limits of one try of an account's password, right or wrong. One who guesses at one address locks nobody out at another."""
    return (
        Limit("password_account_address", account_and_address, PASSWORDS_PER_ACCOUNT_AND_ADDRESS, _QUARTER),
        Limit("password_account", account, PASSWORDS_PER_ACCOUNT, _HOUR),
    )
