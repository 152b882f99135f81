"""Identity's settings, what it publishes and runs on a timer, and its wiring. It consumes nothing: everybody else stands on it."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import httpx
import msgspec

from linli.identity.v1 import identity_pb2
from linli.identity.v1.events_pb2 import CommunityChanged, HouseholdChanged, StaffChanged, VehicleRegistered, VehicleRemoved
from servicekit.config import Count, SettingsError
from servicekit.database import PLATFORM, Resources
from servicekit.sealing import DATA_KEYS_PATTERN, KEY_PATTERN, BlindIndex, DataKeys, SealBrokenError, data_keys
from servicekit.service import Running, Service, contract, every
from services.identity import operations, rpc, sign_in_operations
from services.identity.code_senders import CodeSender, DevelopmentSender, HttpSender
from services.identity.limits import Policy
from services.identity.passwords import Passwords

_SMS_TIMEOUT = httpx.Timeout(5.0, connect=2.0)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Identity's settings. Keys are 32 random bytes in base64."""

    # `id:key,id:key`: the first encrypts phones and signing keys, the others still decrypt. Phones move to a new first key by themselves,
    # some hundreds a minute, signing keys as they are replaced. Then the old key may go.
    data_keys: Annotated[str, msgspec.Meta(pattern=DATA_KEYS_PATTERN)]
    # Finds phones without storing them. Never change it.
    index_key: Annotated[str, msgspec.Meta(pattern=KEY_PATTERN)]
    # "development" writes codes to `code_file`; "http" posts them to `sms_url`, with `sms_token` as bearer token when given.
    code_sender: Literal["development", "http"]
    code_file: str = ""
    sms_url: str = ""
    sms_token: str = ""
    issuer: str = "linli"
    signing_key_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 30
    # Many phones share one address of a mobile network.
    codes_per_address_hour: Count = 60
    codes_per_community_hour: Count = 600
    sign_ins_per_address_hour: Count = 300


def tools(settings: Settings) -> tuple[DataKeys, BlindIndex, Passwords, Policy]:
    """What operations find with `tx.resource`, sending codes aside. Raises SettingsError."""
    try:
        keys = data_keys(settings.data_keys)
    except ValueError as error:
        raise SettingsError(f"LINLI_IDENTITY_DATA_KEYS is wrong: {error}") from None
    policy = Policy(
        issuer=settings.issuer,
        signing_key_life=timedelta(days=settings.signing_key_days),
        codes_per_address_hour=settings.codes_per_address_hour,
        codes_per_community_hour=settings.codes_per_community_hour,
        sign_ins_per_address_hour=settings.sign_ins_per_address_hour,
    )
    return keys, BlindIndex(base64.b64decode(settings.index_key)), Passwords(), policy


def code_sender(settings: Settings, client: httpx.AsyncClient) -> CodeSender:
    """The sender that the settings name. Raises SettingsError."""
    if settings.code_sender == "http":
        if not settings.sms_url.startswith(("https://", "http://")):
            raise SettingsError("LINLI_IDENTITY_SMS_URL is not set to an http or https address")
        return HttpSender(client, settings.sms_url, settings.sms_token)
    if not settings.code_file:
        raise SettingsError("LINLI_IDENTITY_CODE_FILE is not set")
    return DevelopmentSender(Path(settings.code_file))


@asynccontextmanager
async def resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """Opens what identity needs, and makes the first signing key."""
    database = running.database
    assert database is not None
    async with httpx.AsyncClient(timeout=_SMS_TIMEOUT) as client:
        opened = (*tools(running.settings), code_sender(running.settings, client))
        database.resources = Resources(opened)
        try:
            async with database.transaction(PLATFORM) as tx:
                await sign_in_operations.rotate_signing_keys(tx)
        except SealBrokenError as error:
            raise SettingsError(f"LINLI_IDENTITY_DATA_KEYS cannot open the signing key: {error}") from None
        yield opened


SERVICE = Service(
    name="identity",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(identity_pb2.DESCRIPTOR, "IdentityService", rpc),
    publishes=[CommunityChanged, HouseholdChanged, StaffChanged, VehicleRegistered, VehicleRemoved],
    jobs=[
        every(minutes=5, run=sign_in_operations.rotate_signing_keys),
        every(minutes=10, run=sign_in_operations.forget_expired),
        every(minutes=1, run=operations.reseal_phones),
        every(minutes=1, run=operations.tell_again),
    ],
    resources=resources,
    outside=True,
    always_on=True,
    after_restore=sign_in_operations.end_all_sign_ins,
)
