"""What holds for every endpoint of the platform, whichever service answers it: who gets in, what they see, and what bad input does.

The walk takes every method of every contract. A method whose request does not follow from its contract needs one of the `builders`.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from console import catalog
from servicekit.database import PLATFORM
from servicekit.identifiers import new_id
from servicekit.rpc import validate
from servicekit.sealing import DataKeys
from servicekit.service import Service
from services.identity import sign_in_store
from services.identity.phones import masked
from tests.platform.bad_input import Spoiled, spoiled
from tests.platform.builders import BUILDERS
from tests.platform.endpoints import (
    ENDPOINTS,
    GUARDED,
    NAMED,
    Endpoint,
    Naming,
    Raw,
    Underivable,
    Values,
    is_day,
    item_rules_of,
    leaves,
    rules_of,
    to_http,
)
from tests.platform.neighbourhood import Community, Town, town
from tests.platform.openapi_requests import requests
from tests.platform.wire import Answer, Sent
from tests.support import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOTIFICATIONS = Sent("GET", "/v1/me/notifications", b"", {})
CHANGING = [endpoint for endpoint in GUARDED if not endpoint.is_read]
MODULES = catalog.modules()
# A device's id is its own for the whole installation, so whoever registers it a second time must be told.
KNOWN_EVERYWHERE = {"ingest.RegisterDevice": (409, "ingest.device_exists")}
# Services that keep no register of what others register: about what nobody knows they know nothing, and that is their answer.
NO_REGISTER = {
    ("access", "household_id"),
    ("insights", "device_id"),
    ("parking", "household_id"),
    ("workorders", "account_id"),
    ("workorders", "building_id"),
}
# What is said to those who neither live nor work here: points, bins, doors and work orders are not for them.
FOR_PEOPLE_OF_HERE = (".not_a_resident", ".not_known_here", ".no_door_for_codes")
# What a request works out anew from everything else.
WORKED_OUT = {"waste.GetCollectionPlan"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """The platform with three communities: two neighbours, and one in which a test may break what it likes."""
    async with town(servers, tmp_path_factory.mktemp("town")) as made:
        await asyncio.gather(*(made.founded() for _ in range(3)))
        yield made


@pytest.fixture
def here(running: Town) -> Community:
    return running.communities[0]


@pytest.fixture
def there(running: Town) -> Community:
    return running.communities[1]


@pytest.fixture
def spare(running: Town) -> Community:
    return running.communities[2]


async def all_of(findings: Iterable[Awaitable[str]]) -> list[str]:
    """What was found, of checks that run together; an empty finding is none."""
    return [finding for finding in await asyncio.gather(*findings) if finding]


# Requests.


async def test_every_endpoint_does_its_work_for_somebody_who_may_call_it(running: Town) -> None:
    for community in running.communities:
        assert [endpoint.name for endpoint in ENDPOINTS if endpoint.name not in community.answers] == [], "nothing is ever called so"
        refused = {name: (answer.status, answer.text) for name, answer in community.answers.items() if not answer.is_success}
        assert refused == {}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
async def test_a_right_request_follows_from_the_contract_or_from_a_builder(here: Community, endpoint: Endpoint) -> None:
    try:
        values = await here.prepare(endpoint)
    except Underivable as field:
        pytest.fail(f"nothing tells what {field} may be: give {endpoint.name} one of the builders")
    if not any(isinstance(value, Raw) for value in values.values()):
        validate(ParseDict(dict(values), GetMessageClass(endpoint.route.method.input_type)()))


async def test_a_request_that_does_not_follow_from_its_contract_is_noticed(here: Community) -> None:
    with pytest.raises(Underivable, match=r"PublishTariffRequest\.rules"):
        here.words.request(NAMED["parking.PublishTariff"], {})
    with pytest.raises(Underivable, match=r"SignInWithCodeRequest\.code"):
        here.words.request(NAMED["identity.SignInWithCode"], {})
    with pytest.raises(Underivable, match=r"ConfirmRedemptionRequest\.pickup_code"):
        here.words.request(NAMED["points.ConfirmRedemption"], {})


async def test_every_builder_builds_for_an_endpoint() -> None:
    assert set(BUILDERS) <= set(NAMED)


# Tokens.


async def test_nobody_gets_in_without_a_token_that_identity_made_for_us_and_that_has_not_expired(running: Town, here: Community) -> None:
    async with running.running.transaction("identity", PLATFORM) as tx:
        (key,) = await sign_in_store.list_signing_keys(tx)
    keys = next(service for service in running.running.host.running if service.name == "identity").resources.get(DataKeys)
    ours = Ed25519PrivateKey.from_private_bytes(keys.open(key.private_key, f"signing_keys.private_key {key.key_id}"))
    claims, key_id = jwt.decode(here.manager, options={"verify_signature": False}), {"kid": str(key.key_id)}

    def signed(with_key: Any = ours, algorithm: str = "EdDSA", headers: Mapping[str, str] = key_id, **said: Any) -> str:
        return jwt.encode({**claims, **said}, with_key, algorithm, headers=dict(headers))

    assert (await running.send(to_http(NAMED["identity.GetMe"], {}), signed())).is_success, "all else is refused for what is wrong with it"
    tokens = {
        "": "auth.token_missing",
        signed(exp=int(time.time()) - 5): "auth.token_expired",
        signed(aud="another"): "auth.token_invalid",
        signed(Ed25519PrivateKey.generate()): "auth.token_invalid",
        signed(headers={"kid": str(new_id())}): "auth.token_invalid",
        signed("", "none"): "auth.token_malformed",
        # Whoever takes the public key for a shared secret would believe this.
        signed(key.public_key, "HS256"): "auth.token_malformed",
    }

    async def check(what: str, sent: Sent, token: str, code: str) -> str:
        answer = await running.send(sent, token)
        refused = (answer.status, answer.code, answer.headers.get("www-authenticate")) == (401, code, "Bearer")
        return "" if refused else f"{what}, {code}: {answer.status} {answer.text}"

    doors = {endpoint.name: to_http(endpoint, here.examples[endpoint.name]) for endpoint in GUARDED} | {"notifications": NOTIFICATIONS}
    assert await all_of(check(what, sent, *each) for what, sent in doors.items() for each in tokens.items()) == []


async def test_a_guest_does_what_the_contract_lets_every_account_do_and_nothing_else(running: Town, here: Community) -> None:
    async def check(endpoint: Endpoint) -> str:
        answer = await running.send(to_http(endpoint, here.examples[endpoint.name]), here.guest)
        refused = answer.status in (403, 404) and answer.code != ""
        may = answer.is_success or answer.status == 404 or answer.code.endswith(FOR_PEOPLE_OF_HERE)
        fits = refused if endpoint.authority.permission else may
        return "" if fits else f"{endpoint}: {answer.status} {answer.text}"

    before = await here.listings()
    permitted = [endpoint for endpoint in GUARDED if endpoint.authority.permission]
    assert await all_of(map(check, permitted)) == []
    assert await here.listings() == before
    assert await all_of(map(check, [endpoint for endpoint in GUARDED if not endpoint.authority.permission])) == []


async def test_an_owner_finds_nothing_of_another_household(running: Town, here: Community) -> None:
    neighbour = await running.call("identity.CreateHousehold", {"unit_id": here.words.ids["unit_id"]}, here.manager)

    async def check(endpoint: Endpoint) -> str:
        values = {**here.examples[endpoint.name], endpoint.authority.household_field: neighbour["household_id"]}
        answer = await running.send(to_http(endpoint, values), here.owner)
        return "" if (answer.status, answer.code) == (404, "auth.not_found") else f"{endpoint}: {answer.status} {answer.text}"

    assert await all_of(check(endpoint) for endpoint in GUARDED if endpoint.authority.household_field) == []


# Walls between communities.


# What is named by a request, and where in it.
Names = Sequence[tuple[Naming, str]]


def verdicts(answer: Answer) -> Sequence[str]:
    """What was decided on each of several things that were asked for at once: the stable codes in a successful answer."""
    is_many = answer.is_success and answer.headers.get("content-type") == "application/json"
    return [str(value) for _, value in leaves(answer.json()) if re.fullmatch(r"[a-z]+\.[a-z_]+", str(value))] if is_many else []


async def trespass(endpoints: Sequence[Endpoint], token: str, here: Community, there: Community) -> list[str]:
    """What is wrong when somebody from here names what is there: their answers tell something, or differ from those about nothing."""
    # People may have one phone and one car in many communities, and what they are called here is known here.
    hidden = await there.secrets_from(here) - {there.parked, masked(there.phone)}
    is_manager = token == here.manager
    # Each name of theirs has one name of nothing beside it, so that both have the same history here.
    beside: dict[str, str] = {}
    # What a request uses up is made anew when one was not refused; nobody but the manager gets that far.
    unused = {} if is_manager else dict(here.examples)

    async def ask(endpoint: Endpoint, names: Names) -> Answer:
        if endpoint.is_read or not names:
            prepared = here.examples[endpoint.name]
        else:
            prepared = unused.get(endpoint.name) or await here.prepare(endpoint)
        # Of two that the contract leaves open, a request may name only one.
        chosen = {naming.path[0] for naming, _ in names} or set(endpoint.fields)
        left = {naming.path[0].name for naming in endpoint.ids} - {each.name for each in [*chosen, *endpoint.required]}
        values: Values = {name: value for name, value in prepared.items() if name not in left}
        for naming, name in names:
            values = naming.put(values, name)
        answer = await here.town.send(to_http(endpoint, values), token)
        if is_manager and answer.is_success:
            unused.pop(endpoint.name, None)
        elif is_manager:
            unused[endpoint.name] = prepared
        return answer

    async def check(endpoint: Endpoint, theirs: Names, nothings: Names) -> str:
        # One after the other: rules of points come after all before them.
        answers = [await ask(endpoint, each) for each in ((theirs, nothings) if theirs else (theirs,))]
        answer, nothing = answers[0], answers[-1]
        told = sorted(secret for secret in hidden - {name for _, name in theirs} if secret in answer.text)
        is_same = said(answer) == said(nothing) or (answer.status, answer.code) == KNOWN_EVERYWHERE.get(endpoint.name)
        if is_same and not told and answer.status < 500:
            return ""
        named = sorted(str(naming) for naming, _ in theirs)
        return f"{endpoint} {named}: {said(answer)}, of nothing {said(nothing)}, tells {told[:3]}"

    def said(answer: Answer) -> tuple[int, str, Sequence[str]]:
        return answer.status, answer.code, verdicts(answer) if is_manager else ()

    def checks(endpoint: Endpoint) -> Iterable[Awaitable[str]]:
        naming = endpoint.naming if is_manager else endpoint.ids
        theirs = [(each, there.name_of(each)) for each in naming]
        nothings = [(each, beside.setdefault(name, here.words.unknown(each.described))) for each, name in theirs]
        if endpoint.name in KNOWN_EVERYWHERE:
            nothings = [(each, here.words.unknown(each.described)) for each in naming]
        for chosen in [[number] for number in range(len(naming))] + [list(range(len(naming)))] * (len(naming) != 1):
            yield check(endpoint, [theirs[number] for number in chosen], [nothings[number] for number in chosen])

    def writes(endpoint: Endpoint) -> bool:
        is_refused = endpoint.authority.permission and not endpoint.authority.household_field and not is_manager
        return not (endpoint.is_read or is_refused)

    # Reads first, then one after the other: what is written here in the names of there can be read here.
    found = await all_of(each for endpoint in endpoints if not writes(endpoint) for each in checks(endpoint))
    for endpoint in filter(writes, endpoints):
        found += [finding for each in checks(endpoint) if (finding := await each)]
    return found


async def test_an_id_of_nothing_in_a_path_is_not_found(running: Town, here: Community) -> None:
    async def check(endpoint: Endpoint, naming: Naming) -> str:
        values = naming.put(await here.prepare(endpoint), here.words.unknown(naming.described))
        answer = await running.send(to_http(endpoint, values), here.caller(endpoint))
        is_none = answer.is_success and (endpoint.route.service, str(naming)) in NO_REGISTER
        return "" if is_none or (answer.status == 404 and answer.code) else f"{endpoint} {naming}: {answer.status} {answer.text}"

    named = [(endpoint, naming) for endpoint in GUARDED for naming in endpoint.ids if str(naming) in endpoint.route.path_fields]
    assert await all_of(check(*each) for each in named) == []


@pytest.mark.parametrize("who", ["owner", "operator", "manager"])
async def test_what_another_community_has_is_nothing_to_anybody_here(running: Town, here: Community, there: Community, who: str) -> None:
    token = {"manager": here.manager, "owner": here.owner, "operator": running.operator}[who]
    before = await there.listings()
    assert await trespass(GUARDED, token, here, there) == []
    assert await there.listings() == before


async def test_the_pages_of_another_community_begin_nowhere_here(running: Town, here: Community, there: Community) -> None:
    hidden, turned = await there.secrets_from(here), 0
    for endpoint in GUARDED:
        if any(field.name == "page_token" for field in endpoint.fields):
            first = await running.call(endpoint.name, {**there.examples[endpoint.name], "page_size": 1}, there.manager)
            if token := first["next_page_token"]:
                turned += 1
                sent = to_http(endpoint, {**here.examples[endpoint.name], "page_token": token})
                answer = await running.send(sent, here.manager)
                assert answer.is_success, f"{endpoint}: {answer.text}"
                assert not [secret for secret in hidden - {token} if secret in answer.text], endpoint
    assert turned > 5


async def test_the_walk_sees_through_walls_that_are_taken_down(servers: Servers, running: Town, here: Community, there: Community) -> None:
    async with AsyncExitStack() as stack:
        for service in catalog.find(list(running.running.database_urls)):
            await stack.enter_async_context(without_walls(servers, running, service))
        found = await trespass([endpoint for endpoint in GUARDED if endpoint.is_read], here.manager, here, there)
    assert any("parking.GetSession ['session_id']: (200" in finding for finding in found)
    assert any("identity.GetHousehold ['household_id']: (200" in finding for finding in found)
    assert any("points.GetItem ['item_id']: (200" in finding for finding in found)
    assert any("waste.GetBin ['bin_id']: (200" in finding for finding in found)
    assert any("access.GetDoor ['door_id']: (200" in finding for finding in found)
    assert any("workorders.GetOrder ['order_id']: (200" in finding for finding in found)
    assert any("tells ['" in finding for finding in found)


@asynccontextmanager
async def without_walls(servers: Servers, running: Town, service: Service) -> AsyncIterator[None]:
    """A service whose database shows every community's rows to all."""
    address = (await servers.template(service)).owner_url.rpartition("/")[0]
    owner = await asyncpg.connect(f"{address}/{running.running.database_urls[service.name].rpartition('/')[2]}")
    tables = [row[0] for row in await owner.fetch("SELECT quote_ident(relname) FROM pg_class WHERE relrowsecurity")]
    try:
        await owner.execute("".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;" for table in tables))
        yield
    finally:
        await owner.execute("".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in tables))
        await owner.close()


# Repetitions.


def growth(before: Mapping[str, Any], after: Mapping[str, Any]) -> Counter[str]:
    """What there is more of than before, and what was changed more often."""
    changed = [name for name in before if before[name] != after[name] and name not in WORKED_OUT]
    return _extent(after[name] for name in changed) - _extent(before[name] for name in changed)


def _extent(answers: Iterable[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, value in leaves(list(answers)):
        found[name] += int(str(value)) if name == "version" else 1
    return found


def other_than(endpoint: Endpoint, values: Values) -> Values | None:
    """A request with another body that is as well-formed; None for a method that takes nothing."""
    for naming in endpoint.naming:
        if naming.path[0].name in values and item_rules_of(naming.described).string.uuid:
            return naming.put(values, str(new_id()))
    texts = [field for field in endpoint.fields if field.type == field.TYPE_STRING and not field.is_repeated and values.get(field.name)]
    if not texts:
        return None
    longer = min(texts, key=lambda field: (bool(rules_of(field).string.pattern), field.name in ("phone", "manager_phone", "plate")))
    value, pattern = values[longer.name], rules_of(longer).string.pattern
    other = value + value[-1]
    if not re.search(pattern, other):  # As a PIN, which has six digits.
        other = value[:-1] + chr(ord(value[-1]) ^ 1)
    return {**values, longer.name: "2100-01-01" if is_day(longer) else other}


@pytest.mark.parametrize("endpoint", CHANGING, ids=str)
async def test_what_comes_again_with_its_key_is_answered_as_before_and_happens_once(
    running: Town, here: Community, endpoint: Endpoint
) -> None:
    token, key, service = here.caller(endpoint), {"idempotency_key": str(new_id())}, endpoint.route.service
    values, another = await here.prepare(endpoint), await here.prepare(endpoint)
    before = await here.listings(service)
    answers = await asyncio.gather(*(running.send(to_http(endpoint, values), token, **key) for _ in range(3)))
    answers.append(await running.send(to_http(endpoint, values), token, **key))
    kept = [answer for answer in answers if answer.code != "request.answer_not_kept"]
    assert kept[0].is_success, kept[0].text
    assert {(answer.status, answer.content) for answer in kept} == {(kept[0].status, kept[0].content)}
    assert len(kept) in (1, len(answers))
    if (other := other_than(endpoint, values)) is not None:
        answer = await running.send(to_http(endpoint, other), token, **key)
        assert (answer.status, answer.code) == (409, "request.idempotency_key_reused"), answer.text

    # No more has happened than by one request without a key; versions of a tariff grow by themselves.
    after = await here.listings(service)
    assert (await running.send(to_http(endpoint, another), token)).is_success
    assert growth(before, after) <= growth(after, await here.listings(service))


@pytest.mark.parametrize("endpoint", CHANGING, ids=str)
async def test_what_comes_several_times_at_once_without_a_key_is_never_a_defect(running: Town, here: Community, endpoint: Endpoint) -> None:
    sent = to_http(endpoint, await here.prepare(endpoint))
    answers = await asyncio.gather(*(running.send(sent, here.caller(endpoint)) for _ in range(4)))
    assert any(answer.is_success for answer in answers)
    assert [answer.text for answer in answers if answer.status >= 500 or not (answer.is_success or answer.code)] == []


async def test_endpoints_that_need_no_token_take_a_key_and_do_without(running: Town, here: Community) -> None:
    for endpoint in ENDPOINTS:
        if endpoint.authority.public and not endpoint.is_read:
            answer = await running.send(to_http(endpoint, await here.prepare(endpoint)), idempotency_key=str(new_id()))
            assert answer.is_success, f"{endpoint}: {answer.text}"


# Modules.


@pytest.mark.parametrize("module", MODULES)
async def test_a_module_that_is_switched_off_does_nothing_for_anybody(running: Town, spare: Community, module: str) -> None:
    tokens = await spare.staff("property_manager")

    async def switch_to(modules: Sequence[str]) -> str:
        nonlocal tokens
        await running.call("identity.UpdateCommunity", {"modules": {"names": modules}}, tokens["access_token"])
        tokens = await running.call("identity.RefreshTokens", {"refresh_token": tokens["refresh_token"]})
        return str(tokens["access_token"])

    async def is_off(endpoint: Endpoint, token: str) -> str:
        answer = await running.send(to_http(endpoint, spare.examples[endpoint.name]), token)
        return "" if (answer.status, answer.code) == (403, "auth.module_off") else f"{endpoint}: {answer.status} {answer.text}"

    own = [endpoint for endpoint in GUARDED if endpoint.route.service == module]
    others = [endpoint for endpoint in GUARDED if endpoint.route.service != module and endpoint.is_read]
    token = await switch_to([each for each in MODULES if each != module])
    assert await all_of(is_off(endpoint, token) for endpoint in own) == []
    assert len(await all_of(is_off(endpoint, token) for endpoint in others)) == len(others)
    token = await switch_to(MODULES)
    assert len(await all_of(is_off(endpoint, token) for endpoint in own if endpoint.is_read)) == sum(each.is_read for each in own)


# Bad input.


def problem_in(answer: Answer) -> str:
    """What is wrong with a refusal; empty when it is a problem document with all that one has."""
    if answer.headers.get("content-type") != "application/problem+json":
        return "no problem document"
    document = answer.json()
    whole = document["code"] and document["title"] and document["detail"] and document["request_id"] == answer.headers["x-request-id"]
    return "" if whole and document["status"] == answer.status else "an incomplete problem document"


# Before the gateway knows what the fields are.
NO_FIELDS = {"request.path_not_utf8", "request.query_not_utf8", "request.uri_too_long"}


def is_named(answer: Answer, fields: Sequence[str]) -> bool:
    """Whether a refusal says that it is about one of these fields, or something in one."""
    named = {re.split(r"[.\[]", str(error["field"]))[0] for error in answer.json().get("errors", ())}
    return not named.isdisjoint(fields) or answer.code in NO_FIELDS


async def test_bad_input_is_refused_with_a_code_that_names_the_field_and_is_never_a_defect(running: Town, spare: Community) -> None:
    async def check(endpoint: Endpoint, bad: Spoiled) -> str:
        answer = await running.send(bad.sent, spare.caller(endpoint))
        wrong = "is taken" if bad.is_refused else ""
        if not answer.is_success:
            wrong = "is a defect" if answer.status >= 500 else problem_in(answer)
            if not wrong and bad.is_refused and bad.fields and not is_named(answer, bad.fields):
                wrong = "is not named"
        return f"{endpoint} {bad.what} {wrong}: {answer.status} {answer.text[:200]}" if wrong else ""

    wrong = [(endpoint, each) for endpoint in ENDPOINTS for each in spoiled(endpoint, await spare.prepare(endpoint))]
    assert len(wrong) > 20 * len(ENDPOINTS)
    assert await all_of(check(*each) for each in wrong) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def described(running: Town) -> st.SearchStrategy[Sent]:
    """Requests as the platform's own documentation describes them, about what there is in the community that may break."""
    spare = running.communities[2]
    document = (await running.send(Sent("GET", "/openapi.json", b"", {}))).json()
    return requests(document, {**spare.words.ids, "plate": spare.parked, "provider": "sandbox"})


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_a_request_as_the_documentation_describes_it_is_never_a_defect(
    running: Town, spare: Community, described: st.SearchStrategy[Sent], data: st.DataObject
) -> None:
    answer = await running.send(data.draw(described), spare.manager)
    assert answer.status < 500, answer.text
    assert answer.is_success or not problem_in(answer), answer.text
