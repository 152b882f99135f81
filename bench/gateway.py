"""Figure 3: an authenticated read through the gateway, against FastAPI before grpc.aio before asyncpg, and what each part costs."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from statistics import median

import asyncpg
import httpx
import jwt as pyjwt

from bench.decision import peer
from bench.measure import closed_loop, report
from console.load.http import Connection
from console.load.schedule import Run
from console.seed import Api
from console.up import Local
from servicekit import telemetry
from servicekit.auth import Verifier
from servicekit.clock import system_clock
from servicekit.database import open_database
from servicekit.rpc import validate
from tests.support import Mint, free_address, principal

CONNECTIONS = 32
ROUND_S = 6.0
ROUNDS = 3


async def measure(local: Local) -> None:
    """Prints the figure."""
    plan = local.demonstration
    assert plan is not None
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"community_id": plan.community_id, "phone": plan.manager_phone, "password": plan.manager_password}
        tokens = await Api(client, local.gateway_url).call("POST", "/v1/sign-in/password", body)
    superuser = local.postgres.url("linli_identity")
    grpc_address = free_address()
    environment = {"PEER_DATABASE_URL": superuser, "PEER_COMMUNITY": plan.community_id, "PEER_GRPC": grpc_address}
    async with peer("grpc", {**environment, "PEER_HTTP": grpc_address}), peer("fastapi", environment) as bare:
        ours, theirs = _reader(local.gateway_url, tokens["access_token"]), _reader(f"http://{bare}", "")
        await closed_loop(ours, workers=CONNECTIONS, seconds=2)
        await closed_loop(theirs, workers=CONNECTIONS, seconds=2)
        own: list[Run] = []
        bare_runs: list[Run] = []
        for _ in range(ROUNDS):
            own.append(await closed_loop(ours, workers=CONNECTIONS, seconds=ROUND_S))
            bare_runs.append(await closed_loop(theirs, workers=CONNECTIONS, seconds=ROUND_S))
    rate, bare_rate = median(run.per_second for run in own), median(run.per_second for run in bare_runs)
    p50, bare_p50 = median(run.percentile_ms(50) for run in own), median(run.percentile_ms(50) for run in bare_runs)
    report(
        "3 gateway",
        load=f"{CONNECTIONS} connections, closed loop, {ROUNDS} x {ROUND_S} s, gateway and identity in processes of their own",
        requests_per_second=rate,
        p50_ms=p50,
        p99_ms=median(run.percentile_ms(99) for run in own),
        wrong=sum(run.failures for run in own),
        bare_requests_per_second=bare_rate,
        bare_p50_ms=bare_p50,
        ratio_requests=rate / bare_rate,
        ratio_p50=p50 / bare_p50,
        aim="ratio_requests >= 0.7, ratio_p50 <= 1.4",
    )
    await _parts(local, uuid.UUID(plan.community_id), superuser, 1e6 / rate)


def _reader(url: str, token: str) -> Callable[[int], Awaitable[bool]]:
    host, _, port = url.removeprefix("http://").partition(":")
    connections = [Connection(host, int(port)) for _ in range(CONNECTIONS)]
    head = f"GET /v1/community HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n".encode()

    async def read(caller: int) -> bool:
        return (await connections[caller].request(head))[0] == 200

    return read


async def _parts(local: Local, community: uuid.UUID, superuser: str, whole_us: float) -> None:
    """What authentication, validation, row-level security and tracing cost, each alone, and as a share of a whole request."""
    from linli.identity.v1.identity_pb2 import MEMBER_KIND_OWNER, AddMemberRequest

    mint = Mint()
    verifier = Verifier(mint.keys)
    token = mint.token(principal("a.permission"))

    async def verified() -> None:
        await verifier.verify(token)

    key = pyjwt.PyJWKSet.from_json((await mint.keys()).decode()).keys[0]

    async def verified_first() -> None:
        pyjwt.decode(token, key, algorithms=["EdDSA"], audience="linli")

    request = AddMemberRequest(household_id=str(community), phone="13800000000", name="name", kind=MEMBER_KIND_OWNER)

    async def validated() -> None:
        validate(request)

    sampled, unsampled = f"00-{'1' * 32}-{'2' * 16}-01", f"00-{'1' * 32}-{'2' * 16}-00"

    async def traced(header: str) -> None:
        with telemetry.entry("bench", header), telemetry.span("inner"):
            pass

    bare = await asyncpg.create_pool(superuser, min_size=1, max_size=1)
    url = local.children["identity"].environment["LINLI_IDENTITY_DATABASE_URL"]
    walled = await open_database("identity", url, pool_size=1, clock=system_clock)
    sql = "SELECT name FROM communities WHERE community_id = $1"

    async def read_bare() -> None:
        await bare.fetchrow(sql, community)

    async def read_walled() -> None:
        async with walled.transaction(community) as tx:
            await tx.fetchrow(sql, community)

    costs = {
        "authentication, a token seen before": await _cost(verified, 20_000),
        "authentication, a new token": await _cost(verified_first, 2_000),
        "validation, four constrained fields": await _cost(validated, 20_000),
        "tracing, not sampled": await _cost(lambda: traced(unsampled), 20_000),
        "tracing, sampled, two spans": await _cost(lambda: traced(sampled), 5_000),
    }
    plain, behind_wall = await _cost(read_bare, 3_000), await _cost(read_walled, 3_000)
    costs["row-level security with its transaction"] = behind_wall - plain
    for part, microseconds in costs.items():
        report("3 gateway, parts", part=part, microseconds=microseconds, share_of_request=microseconds / whole_us)
    await bare.close()
    await walled.close()


async def _cost(work: Callable[[], Awaitable[None]], times: int) -> float:
    """Microseconds for each, the median of five rounds."""
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(times // 5):
            await work()
        rounds.append((time.perf_counter() - started) / (times // 5) * 1e6)
    await asyncio.sleep(0)
    return median(rounds)
