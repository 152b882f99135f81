"""Builders for tests of identity: communities, people who sign in as people do, homes."""

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
from google.protobuf.message import Message

from linli.identity.v1 import identity_pb2 as pb
from servicekit.database import PLATFORM
from services.identity import operations
from services.identity.code_senders import newest_code
from services.identity.service import SERVICE
from services.identity.store import PLATFORM_COMMUNITY
from tests.support import Caller, Platform, Servers, platform

DATA_KEYS = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
INDEX_KEY = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
CONTRACT = pb.DESCRIPTOR.services_by_name["IdentityService"]
PASSWORD = "correct horse battery staple"
_phones = itertools.count(10_000_000)


def new_phone() -> str:
    """A phone that no other test of this process uses."""
    return f"138{next(_phones)}"


@dataclass(slots=True)
class Person:
    """Somebody who calls identity; nobody yet when there is no token."""

    caller: Caller
    phone: str = ""
    tokens: pb.Tokens | None = None

    async def call(self, method: str, request: Message, **metadata: str) -> Any:
        """Calls a method of identity. Raises the service's errors."""
        return await self.caller.call(f"{CONTRACT.full_name}/{method}", request, **metadata)


@dataclass(slots=True)
class Town:
    """A running identity, and the file that its codes are sent to."""

    running: Platform
    codes: Path

    def nobody(self) -> Person:
        """A caller without a token."""
        return Person(self.running.caller())

    def bearer(self, token: str) -> Person:
        """A caller with this access token."""
        return Person(Caller(self.running.caller().peer, token))

    async def send_code(self, community_id: str, phone: str, address: str = "") -> str:
        """Asks for a code and reads it as the phone's owner does."""
        request = pb.RequestCodeRequest(community_id=community_id, phone=phone)
        await self.nobody().call("RequestCode", request, x_client_address=address or phone)
        code = newest_code(self.codes, phone)
        assert code is not None
        return code

    async def try_code(self, community_id: str, phone: str, code: str, address: str = "") -> pb.Tokens:
        """Tries a code."""
        request = pb.SignInWithCodeRequest(community_id=community_id, phone=phone, code=code)
        tokens: pb.Tokens = await self.nobody().call("SignInWithCode", request, x_client_address=address or phone)
        return tokens

    async def try_password(self, community_id: str, phone: str, password: str, address: str = "") -> pb.Tokens:
        """Tries a password."""
        request = pb.SignInWithPasswordRequest(community_id=community_id, phone=phone, password=password)
        tokens: pb.Tokens = await self.nobody().call("SignInWithPassword", request, x_client_address=address or phone)
        return tokens

    async def sign_in(self, community_id: str, phone: str = "") -> Person:
        """Somebody who has signed in by code; a phone that is new becomes a guest."""
        phone = phone or new_phone()
        tokens = await self.try_code(community_id, phone, await self.send_code(community_id, phone))
        return Person(Caller(self.running.caller().peer, tokens.access_token), phone, tokens)

    async def operator(self) -> Person:
        """An operator of the installation."""
        phone = new_phone()
        async with self.running.transaction("identity", PLATFORM) as tx:
            await operations.bootstrap_operator(tx, phone, "Operator", PASSWORD)
        tokens = await self.try_password(str(PLATFORM_COMMUNITY), phone, PASSWORD)
        return Person(Caller(self.running.caller().peer, tokens.access_token), phone, tokens)

    async def found(self, name: str = "柳营小区", modules: Sequence[str] = ("parking",), manager_phone: str = "") -> str:
        """The id of a new community."""
        async with self.running.transaction("identity", PLATFORM) as tx:
            made = await operations.create_community(tx, name, "Asia/Shanghai", modules, manager_phone or new_phone(), "王经理")
        return str(made.community_id)

    async def community(self, **founding: Any) -> "Community":
        """A new community with its manager signed in."""
        phone = new_phone()
        community_id = await self.found(manager_phone=phone, **founding)
        return Community(self, community_id, await self.sign_in(community_id, phone))


@dataclass(slots=True)
class Community:
    """A community and its manager."""

    town: Town
    community_id: str
    manager: Person

    async def building(self, name: str) -> str:
        """The id of a new building."""
        made: pb.Building = await self.manager.call("CreateBuilding", pb.CreateBuildingRequest(name=name))
        return made.building_id

    async def unit(self, building_id: str, label: str = "101") -> str:
        """The id of a new unit of 89.12 square metres."""
        request = pb.CreateUnitRequest(building_id=building_id, label=label, exclusive_area_cm2=891_200)
        made: pb.Unit = await self.manager.call("CreateUnit", request)
        return made.unit_id

    async def household(self, name: str) -> str:
        """The id of a new household in a new unit of a new building of this name."""
        unit_id = await self.unit(await self.building(name))
        made: pb.Household = await self.manager.call("CreateHousehold", pb.CreateHouseholdRequest(unit_id=unit_id))
        return made.household_id

    async def member(self, household_id: str, kind: pb.MemberKind.ValueType = pb.MEMBER_KIND_OWNER, name: str = "张三") -> Person:
        """Somebody who was added to a household and has signed in."""
        phone = new_phone()
        await self.manager.call("AddMember", pb.AddMemberRequest(household_id=household_id, phone=phone, name=name, kind=kind))
        return await self.town.sign_in(self.community_id, phone)

    async def staff(self, role: str, building_id: str = "", name: str = "李四") -> Person:
        """Somebody who was given a role and has signed in."""
        phone = new_phone()
        await self.manager.call("GrantRole", pb.GrantRoleRequest(phone=phone, name=name, role=role, building_id=building_id))
        return await self.town.sign_in(self.community_id, phone)


@asynccontextmanager
async def town(
    servers: Servers, folder: Path, clock: Callable[[], datetime] | None = None, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Town]:
    """Runs identity alone on a fresh database."""
    values = {
        "LINLI_IDENTITY_DATA_KEYS": DATA_KEYS,
        "LINLI_IDENTITY_INDEX_KEY": INDEX_KEY,
        "LINLI_IDENTITY_CODE_SENDER": "development",
        "LINLI_IDENTITY_CODE_FILE": str(folder / "codes"),
    }
    async with platform(servers, SERVICE, clock=clock, settings={**values, **(settings or {})}) as running:
        yield Town(running, folder / "codes")


def account_id_of(person: Person) -> UUID:
    """Whose access token it is."""
    assert person.caller.token is not None
    return UUID(jwt.decode(person.caller.token, options={"verify_signature": False})["sub"])
