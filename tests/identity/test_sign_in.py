"""Signing in by code and by password, staying signed in, and signing out."""

import asyncio
import time
from collections.abc import Awaitable
from uuid import UUID

import pytest
from argon2 import PasswordHasher

from linli.identity.v1 import identity_pb2 as pb
from servicekit.database import PLATFORM
from servicekit.errors import Denied, Exhausted, Invalid, NotFound, ServiceError, Unauthenticated
from servicekit.identifiers import new_id
from services.identity import limits, operations, sign_in_operations, sign_in_store
from services.identity.service import SERVICE
from services.identity.store import PLATFORM_COMMUNITY, TRIAL_COMMUNITY
from tests.identity.arrange import PASSWORD, Community, Person, Town, account_id_of, new_phone

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refused(attempt: Awaitable[object]) -> str:
    """The code of the error that an attempt to sign in ends with."""
    with pytest.raises((Unauthenticated, Exhausted)) as error:
        await attempt
    return error.value.code


def wrong(code: str) -> str:
    """Another code."""
    return f"{(int(code) + 1) % 1_000_000:06d}"


async def refresh(town: Town, token: str) -> pb.Tokens:
    """Uses a refresh token."""
    answer: pb.Tokens = await town.nobody().call("RefreshTokens", pb.RefreshTokensRequest(refresh_token=token))
    return answer


async def test_a_new_phone_becomes_a_guest_of_that_community(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    guest = await identity.sign_in(community_id, phone)
    me = await guest.call("GetMe", pb.GetMeRequest())
    assert (me.community_id, me.account.name, list(me.households), list(me.roles)) == (community_id, "", [], [])
    with pytest.raises(Denied):
        await guest.call("ListHouseholds", pb.ListHouseholdsRequest())
    again = await identity.try_code(community_id, phone, await send_later(identity, community_id, phone))
    assert account_id_of(identity.bearer(again.access_token)) == account_id_of(guest)


async def send_later(town: Town, community_id: str, phone: str) -> str:
    """A further code, as if a minute had passed."""
    async with town.running.transaction("identity", PLATFORM) as tx:
        await tx.execute("DELETE FROM limits WHERE name = 'code_phone_minute'")
    return await town.send_code(community_id, phone)


async def test_one_person_has_an_account_in_each_community(identity: Town) -> None:
    phone, one, other = new_phone(), await identity.found(), await identity.found()
    first = await identity.sign_in(one, phone)
    second_code = await send_later(identity, other, phone)
    second = identity.bearer((await identity.try_code(other, phone, second_code)).access_token)
    assert account_id_of(first) != account_id_of(second)


async def test_a_code_answers_alike_for_known_and_unknown_phones_and_says_when_it_expires(identity: Town) -> None:
    community_id, known = await identity.found(), new_phone()
    await identity.sign_in(community_id, known)
    await send_later(identity, community_id, known)
    request = pb.RequestCodeRequest(community_id=community_id, phone=new_phone())
    answer = await identity.nobody().call("RequestCode", request, x_client_address="192.0.2.77")
    assert answer.ListFields()[0][0].name == "expires_at"
    assert 290 < answer.expires_at.seconds - time.time() < 301


async def test_a_wrong_a_foreign_and_an_unsent_code_get_the_same_answer(identity: Town) -> None:
    community_id, other, phone = await identity.found(), await identity.found(), new_phone()
    code = await identity.send_code(community_id, phone)
    answers = [
        await refused(identity.try_code(community_id, phone, wrong(code))),
        await refused(identity.try_code(community_id, new_phone(), code)),
        await refused(identity.try_code(other, phone, code)),
        await refused(identity.try_code(str(new_id()), phone, code)),
    ]
    assert set(answers) == {"identity.code_wrong"}
    await identity.try_code(community_id, phone, code)


async def test_a_code_works_once(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    code = await identity.send_code(community_id, phone)
    await identity.try_code(community_id, phone, code)
    assert await refused(identity.try_code(community_id, phone, code)) == "identity.code_wrong"


async def test_of_many_who_use_one_code_at_the_same_time_exactly_one_gets_in(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    code = await identity.send_code(community_id, phone)
    tries = (identity.try_code(community_id, phone, code, f"192.0.2.{number}") for number in range(12))
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(answer, pb.Tokens) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, ServiceError)} == {"identity.code_wrong"}


async def test_after_five_wrong_tries_the_right_code_is_wrong_too(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    code = await identity.send_code(community_id, phone)
    for _ in range(sign_in_operations.CODE_TRIES_MAX - 1):
        await refused(identity.try_code(community_id, phone, wrong(code)))
    await identity.try_code(community_id, phone, code)
    code = await send_later(identity, community_id, phone)
    for _ in range(sign_in_operations.CODE_TRIES_MAX):
        await refused(identity.try_code(community_id, phone, wrong(code)))
    assert await refused(identity.try_code(community_id, phone, code)) == "identity.code_wrong"


async def test_guesses_at_the_same_time_are_all_counted(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    code = await identity.send_code(community_id, phone)
    tries = (identity.try_code(community_id, phone, wrong(code), f"192.0.2.{number}") for number in range(10))
    await asyncio.gather(*(refused(attempt) for attempt in tries))
    assert await refused(identity.try_code(community_id, phone, code)) == "identity.code_wrong"


async def test_a_new_code_takes_the_place_of_the_one_before(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    first = await identity.send_code(community_id, phone)
    second = await send_later(identity, community_id, phone)
    if first != second:
        assert await refused(identity.try_code(community_id, phone, first)) == "identity.code_wrong"
    await identity.try_code(community_id, phone, second)


async def test_a_code_needs_a_community_that_people_live_in(identity: Town) -> None:
    await identity.operator()
    for community_id in (str(new_id()), str(PLATFORM_COMMUNITY), str(TRIAL_COMMUNITY)):
        with pytest.raises(NotFound) as error:
            await identity.send_code(community_id, new_phone())
        assert error.value.code == "identity.community_not_found"


@pytest.mark.parametrize(
    "request_",
    [
        pb.RequestCodeRequest(community_id="not-a-uuid", phone="13800000000"),
        pb.RequestCodeRequest(community_id=str(new_id()), phone="+8613800000000"),
        pb.RequestCodeRequest(community_id=str(new_id()), phone="１３８００００００００"),
        pb.RequestCodeRequest(community_id=str(new_id()), phone="13800000000\n"),
        pb.SignInWithCodeRequest(community_id=str(new_id()), phone="13800000000", code="12345"),
        pb.SignInWithCodeRequest(community_id=str(new_id()), phone="13800000000", code="12345a"),
        pb.SignInWithPasswordRequest(community_id=str(new_id()), phone="13800000000", password=""),
        pb.SignInWithPasswordRequest(community_id=str(new_id()), phone="13800000000", password="x" * 257),
        pb.RefreshTokensRequest(refresh_token="short"),
        pb.SignOutRequest(refresh_token="x" * 201),
    ],
)
async def test_a_request_to_sign_in_that_makes_no_sense_is_refused(identity: Town, request_: pb.RequestCodeRequest) -> None:
    with pytest.raises(Invalid):
        await identity.nobody().call(type(request_).__name__.removesuffix("Request"), request_)


async def with_password(community: Community, role: str = "property_staff") -> Person:
    """Somebody of the staff who has set a password."""
    person = await community.staff(role)
    await person.call("SetPassword", pb.SetPasswordRequest(new_password=PASSWORD))
    return person


async def test_staff_set_a_password_and_sign_in_with_it(community: Community) -> None:
    guard = await with_password(community)
    answer = await community.town.try_password(community.community_id, guard.phone, PASSWORD)
    again = community.town.bearer(answer.access_token)
    assert account_id_of(again) == account_id_of(guard)
    await again.call("ListHouseholds", pb.ListHouseholdsRequest())


async def test_residents_and_guests_cannot_set_a_password(community: Community) -> None:
    resident = await community.member(await community.household("1栋"))
    for person in (resident, await community.town.sign_in(community.community_id)):
        with pytest.raises(Denied):
            await person.call("SetPassword", pb.SetPasswordRequest(new_password=PASSWORD))


async def test_changing_a_password_needs_the_current_one_and_ends_every_sign_in(community: Community) -> None:
    guard = await with_password(community)
    assert guard.tokens is not None
    for current in ("", "not the password"):
        request = pb.SetPasswordRequest(current_password=current, new_password="another good password")
        assert await refused(guard.call("SetPassword", request)) == "identity.password_wrong"
    request = pb.SetPasswordRequest(current_password=PASSWORD, new_password="another good password")
    await guard.call("SetPassword", request)
    assert await refused(community.town.try_password(community.community_id, guard.phone, PASSWORD)) == "identity.password_wrong"
    await community.town.try_password(community.community_id, guard.phone, "another good password")
    assert await refused(refresh(community.town, guard.tokens.refresh_token)) == "identity.refresh_refused"


async def test_of_two_changes_of_a_password_at_the_same_time_one_holds(community: Community) -> None:
    guard = await with_password(community)
    choices = ["the first new password", "the second new password"]
    requests = [pb.SetPasswordRequest(current_password=PASSWORD, new_password=choice) for choice in choices]
    answers = await asyncio.gather(*(guard.call("SetPassword", request) for request in requests), return_exceptions=True)
    assert sorted(isinstance(answer, Unauthenticated) for answer in answers) == [False, True]


async def test_a_change_of_a_password_that_comes_twice_at_the_same_time_is_one_change(community: Community) -> None:
    guard = await with_password(community)
    request = pb.SetPasswordRequest(current_password=PASSWORD, new_password="another good password")
    await asyncio.gather(*(guard.call("SetPassword", request, idempotency_key="k") for _ in range(3)))
    await community.town.try_password(community.community_id, guard.phone, "another good password")


@pytest.mark.parametrize("password", ["", "elevenchars", "x" * 257])
async def test_a_password_that_is_too_short_or_too_long_is_refused(community: Community, password: str) -> None:
    guard = await community.staff("property_staff")
    with pytest.raises(Invalid):
        await guard.call("SetPassword", pb.SetPasswordRequest(new_password=password))


async def test_a_wrong_password_no_password_and_no_account_get_the_same_answer_in_the_same_time(community: Community) -> None:
    town, community_id = community.town, community.community_id
    guard, clerk = await with_password(community), await community.staff("property_clerk")

    async def seconds(phone: str) -> float:
        started = time.perf_counter()
        assert await refused(town.try_password(community_id, phone, "not the password")) == "identity.password_wrong"
        return time.perf_counter() - started

    rounds = [(await seconds(guard.phone), await seconds(clerk.phone), await seconds(new_phone())) for _ in range(7)]
    # The quickest of each, which a busy machine disturbs least; without hashing it would be a tenth.
    known, without, unknown = (min(times) for times in zip(*rounds, strict=True))
    assert unknown > known / 2
    assert without > known / 2


async def test_a_password_stops_working_with_the_last_role(community: Community) -> None:
    guard = await with_password(community)
    me = await guard.call("GetMe", pb.GetMeRequest())
    await community.manager.call("RevokeRole", pb.RevokeRoleRequest(role_grant_id=me.roles[0].role_grant_id))
    assert await refused(community.town.try_password(community.community_id, guard.phone, PASSWORD)) == "identity.password_wrong"


async def test_a_hash_of_other_parameters_is_renewed_at_the_next_sign_in(community: Community) -> None:
    guard = await with_password(community)
    weak = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    async with community.town.running.transaction("identity", UUID(community.community_id)) as tx:
        await sign_in_store.set_password(tx, account_id_of(guard), weak)
    await community.town.try_password(community.community_id, guard.phone, PASSWORD)
    async with community.town.running.transaction("identity", UUID(community.community_id)) as tx:
        found = await sign_in_store.find_password(tx, account_id_of(guard))
    assert found is not None
    assert (found[1] or "").startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    await community.town.try_password(community.community_id, guard.phone, PASSWORD)


async def test_guessing_a_password_is_stopped_at_its_address_and_lets_the_owner_in_elsewhere(community: Community) -> None:
    guard, town = await with_password(community), community.town
    tries = [town.try_password(community.community_id, guard.phone, f"guess {n}", "203.0.113.1") for n in range(20)]
    answers = await asyncio.gather(*(refused(attempt) for attempt in tries))
    assert answers.count("identity.password_wrong") == limits.PASSWORDS_PER_ACCOUNT_AND_ADDRESS
    assert answers.count("identity.too_many_sign_ins") == 20 - limits.PASSWORDS_PER_ACCOUNT_AND_ADDRESS
    at_home = town.try_password(community.community_id, guard.phone, PASSWORD, "203.0.113.1")
    assert await refused(at_home) == "identity.too_many_sign_ins"
    await town.try_password(community.community_id, guard.phone, PASSWORD, "203.0.113.2")


async def test_guessing_a_password_from_many_addresses_is_stopped_and_a_code_still_lets_in(community: Community) -> None:
    guard, town = await with_password(community), community.town
    async with town.running.transaction("identity", PLATFORM) as tx:
        await tx.execute("UPDATE limits SET taken = $1 WHERE name = 'password_account'", limits.PASSWORDS_PER_ACCOUNT - 1)
    await town.try_password(community.community_id, guard.phone, PASSWORD, "203.0.113.3")
    another = town.try_password(community.community_id, guard.phone, PASSWORD, "203.0.113.4")
    assert await refused(another) == "identity.too_many_sign_ins"
    code = await send_later(town, community.community_id, guard.phone)
    await town.try_code(community.community_id, guard.phone, code)


async def test_a_stolen_access_token_does_not_let_guess_the_password(community: Community) -> None:
    guard = await with_password(community)
    requests = [pb.SetPasswordRequest(current_password=f"guess {n}", new_password="a password of mine") for n in range(12)]
    answers = [await refused(guard.call("SetPassword", request)) for request in requests]
    # Setting it took one of them.
    assert answers.count("identity.password_wrong") == limits.PASSWORDS_PER_ACCOUNT_AND_ADDRESS - 1


async def test_an_unknown_phone_is_limited_like_a_known_one(community: Community) -> None:
    phone, town = new_phone(), community.town
    tries = [town.try_password(community.community_id, phone, f"guess {n}") for n in range(12)]
    answers = [await refused(attempt) for attempt in tries]
    assert answers.count("identity.too_many_sign_ins") == 12 - limits.PASSWORDS_PER_ACCOUNT_AND_ADDRESS


async def bootstrap(town: Town, phone: str, password: str, *, reset_password: bool = False) -> UUID:
    """Makes an operator as the console does."""
    async with town.running.transaction("identity", PLATFORM) as tx:
        account = await operations.bootstrap_operator(tx, phone, "Operator", password, reset_password=reset_password)
        return account.account_id


async def test_making_an_operator_again_changes_nothing_unless_the_password_is_to_be_reset(identity: Town) -> None:
    phone, community_id = new_phone(), str(PLATFORM_COMMUNITY)
    account_id = await bootstrap(identity, phone, PASSWORD)
    assert await bootstrap(identity, phone, "another good password") == account_id
    tokens = await identity.try_password(community_id, phone, PASSWORD)
    operator = identity.bearer(tokens.access_token)
    me = await operator.call("GetMe", pb.GetMeRequest())
    assert [grant.role for grant in me.roles] == ["platform_operator"]
    assert me.account.name == "Operator"
    assert await bootstrap(identity, phone, "another good password", reset_password=True) == account_id
    assert await refused(identity.try_password(community_id, phone, PASSWORD)) == "identity.password_wrong"
    assert await refused(refresh(identity, tokens.refresh_token)) == "identity.refresh_refused"
    assert (await identity.try_password(community_id, phone, "another good password")).access_token


async def test_the_trial_community_has_a_manager_and_is_nobodys_to_choose(identity: Town) -> None:
    phone = new_phone()
    for password in ("a first good password", PASSWORD):  # an operator who does it again has made a new one
        async with identity.running.transaction("identity", PLATFORM) as tx:
            await operations.found_trial_community(tx, phone, "Operator", password)
    manager = identity.bearer((await identity.try_password(str(TRIAL_COMMUNITY), phone, PASSWORD)).access_token)
    me = await manager.call("GetMe", pb.GetMeRequest())
    assert [grant.role for grant in me.roles] == ["property_manager"]
    listed = await identity.nobody().call("ListCommunities", pb.ListCommunitiesRequest(page_size=100))
    assert str(TRIAL_COMMUNITY) not in [each.community_id for each in listed.communities]


@pytest.mark.parametrize(("phone", "password"), [("12345", PASSWORD), (new_phone(), "too short")])
async def test_an_operator_needs_a_phone_and_a_long_password(identity: Town, phone: str, password: str) -> None:
    with pytest.raises(Invalid):
        await bootstrap(identity, phone, password)


async def test_a_refresh_token_works_once_and_reads_the_roles_anew(community: Community) -> None:
    guest = await community.town.sign_in(community.community_id)
    assert guest.tokens is not None
    await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=guest.phone, name="李四", role="property_clerk"))
    await community.manager.call("UpdateCommunity", pb.UpdateCommunityRequest(modules=pb.Modules(names=["points"])))
    fresh = await refresh(community.town, guest.tokens.refresh_token)
    assert fresh.refresh_token != guest.tokens.refresh_token
    clerk = community.town.bearer(fresh.access_token)
    await clerk.call("ListHouseholds", pb.ListHouseholdsRequest())
    assert (await refresh(community.town, fresh.refresh_token)).access_token


async def test_using_a_refresh_token_twice_ends_the_sign_in_for_whoever_holds_any_of_its_tokens(community: Community) -> None:
    town, guest = community.town, await community.town.sign_in(community.community_id)
    assert guest.tokens is not None
    second = await refresh(town, guest.tokens.refresh_token)
    third = await refresh(town, second.refresh_token)
    assert await refused(refresh(town, guest.tokens.refresh_token)) == "identity.refresh_refused"
    assert await refused(refresh(town, third.refresh_token)) == "identity.refresh_refused"


async def test_another_sign_in_of_the_account_goes_on(identity: Town) -> None:
    community_id, phone = await identity.found(), new_phone()
    one = await identity.sign_in(community_id, phone)
    other = await identity.try_code(community_id, phone, await send_later(identity, community_id, phone))
    assert one.tokens is not None
    await refresh(identity, one.tokens.refresh_token)
    await refused(refresh(identity, one.tokens.refresh_token))
    await refresh(identity, other.refresh_token)


async def test_of_many_who_use_one_refresh_token_at_the_same_time_exactly_one_wins_and_the_sign_in_ends(identity: Town) -> None:
    guest = await identity.sign_in(await identity.found())
    assert guest.tokens is not None
    uses = (refresh(identity, guest.tokens.refresh_token) for _ in range(8))
    answers = await asyncio.gather(*uses, return_exceptions=True)
    (winner,) = [answer for answer in answers if isinstance(answer, pb.Tokens)]
    assert {answer.code for answer in answers if isinstance(answer, ServiceError)} == {"identity.refresh_refused"}
    assert await refused(refresh(identity, winner.refresh_token)) == "identity.refresh_refused"


@pytest.mark.parametrize("token", ["x" * 64, "!" * 64, "门" * 30, "A" * 64, "A" * 200, "\x00" * 30])
async def test_a_refresh_token_that_we_did_not_make_is_refused(identity: Town, token: str) -> None:
    assert await refused(refresh(identity, token)) == "identity.refresh_refused"


async def test_signing_out_ends_the_sign_in_and_may_be_repeated(identity: Town) -> None:
    guest = await identity.sign_in(await identity.found())
    assert guest.tokens is not None
    for _ in range(2):
        await identity.nobody().call("SignOut", pb.SignOutRequest(refresh_token=guest.tokens.refresh_token))
    assert await refused(refresh(identity, guest.tokens.refresh_token)) == "identity.refresh_refused"
    await identity.nobody().call("SignOut", pb.SignOutRequest(refresh_token="made up, and no token at all"))


async def test_after_a_restore_everybody_signs_in_again_because_some_had_been_signed_out_since(identity: Town) -> None:
    guest = await identity.sign_in(await identity.found())
    assert guest.tokens is not None
    async with identity.running.transaction("identity", PLATFORM) as tx:
        assert SERVICE.after_restore is not None
        await SERVICE.after_restore(tx)
    assert await refused(refresh(identity, guest.tokens.refresh_token)) == "identity.refresh_refused"
