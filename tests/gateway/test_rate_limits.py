"""How often one caller may ask, and who a caller is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.rate_limits import RateLimit, address_key, caller_address, networks
from tests.gateway.conftest import Client, run_gateway
from tests.support import Servers, principal

LOT = "/v1/parking/lots/lot-1"


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_passes_at_once_and_then_one_at_a_time() -> None:
    time = Time()
    limit = RateLimit("account", 60, time)
    verdicts = [limit.take("a") for _ in range(61)]
    assert [verdict.allowed for verdict in verdicts if verdict] == [True] * 60 + [False]
    assert [verdict.remaining for verdict in verdicts[:3] if verdict] == [59, 58, 57]
    refused = verdicts[-1]
    assert refused is not None
    assert refused.reset_s == 1
    time.now += 1
    assert [limit.take("a") for _ in range(2)] == [verdicts[59], refused]


def test_a_refused_request_does_not_push_the_next_one_back() -> None:
    time = Time()
    limit = RateLimit("account", 1, time)
    limit.take("a")
    for _ in range(100):
        refused = limit.take("a")
        assert refused is not None
        assert refused.reset_s == 60
    time.now += 60
    allowed = limit.take("a")
    assert allowed is not None
    assert allowed.allowed


def test_keys_do_not_share() -> None:
    limit = RateLimit("account", 1, Time())
    assert [verdict.allowed for verdict in map(limit.take, "abc") if verdict] == [True] * 3


def test_no_limit_lets_everything_through() -> None:
    assert RateLimit("account", 0, Time()).take("a") is None


@given(st.lists(st.floats(0, 90), max_size=200), st.integers(1, 50))
def test_no_minute_ever_sees_more_than_twice_the_limit_and_waiting_as_told_is_enough(pauses: list[float], per_minute: int) -> None:
    time = Time()
    limit = RateLimit("account", per_minute, time)
    passed: list[float] = []
    for pause in pauses:
        time.now += pause
        verdict = limit.take("a")
        assert verdict is not None
        if verdict.allowed:
            passed.append(time.now)
        else:
            time.now += verdict.reset_s
            again = limit.take("a")
            assert again is not None
            assert again.allowed
            passed.append(time.now)
    for first in passed:
        assert sum(first <= moment < first + 60 for moment in passed) <= 2 * per_minute


def test_a_flood_of_addresses_is_forgotten_and_not_kept() -> None:
    limit = RateLimit("address", 1, Time())
    for number in range(250_000):
        limit.take(str(number))
    assert len(limit._full_at) <= 100_000
    last = limit.take("249999")
    assert last is not None
    assert not last.allowed, "the newest are still limited"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.2.3.4, nonsense", "nonsense"),
        ("10.0.0.1", " , ", ""),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("nonsense", "1.2.3.4", "nonsense"),
    ],
)
def test_a_forwarded_address_is_believed_as_far_as_its_proxies_are_trusted(peer: str, forwarded: str, address: str) -> None:
    assert caller_address(peer, forwarded, networks("10.0.0.0/8, ::1")) == address


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("a:b", "a:b"),
    ],
)
def test_an_ipv6_subscriber_is_one_caller(address: str, key: str) -> None:
    assert address_key(address) == key


def test_trusted_proxies_that_are_no_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        networks("10.0.0.300")


async def statuses(client: Client, count: int, **headers: str) -> list[int]:
    return [(await client.get(LOT, headers=headers)).status_code for _ in range(count)]


async def test_an_account_past_its_limit_is_told_when_to_come_again(servers: Servers, upstream_address: str) -> None:
    async with run_gateway(servers, upstream_address, {"LINLI_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE": "3"}) as client:
        first = await client.get(LOT)
        assert first.headers["ratelimit-policy"] == '"account";q=3;w=60'
        assert first.headers["ratelimit"] == '"account";r=2;t=20'
        assert await statuses(client, 2) == [200, 200]
        refused = await client.get(LOT)
        assert (refused.status_code, refused.json()["code"]) == (429, "request.too_frequent")
        assert 15 <= int(refused.headers["retry-after"]) <= 20
        assert refused.headers["ratelimit"].startswith('"account";r=0;t=')
        other = client.platform.mint.token(principal())
        assert await statuses(client, 1, authorization=f"Bearer {other}") == [200]
        assert await statuses(client, 1, authorization="Bearer nonsense") == [200], "the service refuses it, not the limit"


async def test_an_address_past_its_limit_is_refused_whatever_it_asks_for(servers: Servers, upstream_address: str) -> None:
    async with run_gateway(servers, upstream_address, {"LINLI_GATEWAY_ADDRESS_REQUESTS_PER_MINUTE": "3"}) as client:
        assert [(await client.get(path)).status_code for path in ("/nowhere", "/openapi.json", LOT)] == [404, 200, 200]
        assert (await client.get("/nowhere")).status_code == 429
        assert await statuses(client, 1, **{"x-forwarded-for": "198.51.100.7"}) == [429], "nobody may choose an address"


async def test_addresses_behind_a_trusted_proxy_are_told_apart(servers: Servers, upstream_address: str) -> None:
    settings = {"LINLI_GATEWAY_ADDRESS_REQUESTS_PER_MINUTE": "1", "LINLI_GATEWAY_TRUSTED_PROXIES": "127.0.0.0/8"}
    async with run_gateway(servers, upstream_address, settings) as client:
        for address in ("198.51.100.7", "198.51.100.8", "2001:db8::1"):
            assert await statuses(client, 2, **{"x-forwarded-for": f"9.9.9.9, {address}"}) == [200, 429]
