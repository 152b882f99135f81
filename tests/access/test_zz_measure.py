import time
from datetime import timedelta
from uuid import UUID
import pytest
from servicekit.identifiers import new_id
from servicekit.timers import Due
from services.access import snapshot_operations, entry_store, snapshot_store
from services.access.digests import MatchingKeys
from tests.access.arrange import *
pytestmark = pytest.mark.asyncio(loop_scope="module")

async def test_measure(community: Community) -> None:
    zone = await community.zone()
    async with community.running.transaction("access", community.community_id) as tx:
        await tx.execute("""WITH h AS (SELECT gen_random_uuid() AS h, gen_random_uuid() AS b FROM generate_series(1,3300)),
          ins AS (INSERT INTO known_households (household_id, community_id, building_id, version) SELECT h, $1, b, 1 FROM h RETURNING household_id)
          INSERT INTO known_residents (household_id, account_id, community_id) SELECT household_id, gen_random_uuid(), $1 FROM ins, generate_series(1,3)""", community.community_id)
        await tx.execute("""INSERT INTO credentials (credential_id, community_id, account_id, kind, label, digest, issued_by, issued_at)
          SELECT gen_random_uuid(), $1, account_id, 'card', 'x', decode(md5(account_id::text) || md5(account_id::text), 'hex'), account_id, now() FROM known_residents WHERE community_id=$1""", community.community_id)
    doors = []
    for n in range(50):
        request = pb.CreateDoorRequest(zone_id=zone, name=f"d{n}", kind=pb.DOOR_KIND_COMMUNITY_GATE, credential_kinds=ALL_KINDS, anti_passback=pb.ANTI_PASSBACK_OFF)
        door = await community.call("CreateDoor", request)
        async with community.running.transaction("access", community.community_id) as tx:
            await tx.execute("INSERT INTO terminals (device_id, community_id, door_id, direction, added_at) VALUES ($1,$2,$3,'in',$4)", f"zz-{n}", community.community_id, UUID(door.door_id), community.clock.now)
    async def chain(label):
        name, steps = "", []
        while name is not None:
            began = time.perf_counter()
            async with community.running.transaction("access", community.community_id) as tx:
                await tx.execute("DELETE FROM timers WHERE community_id=$1", community.community_id)
                await snapshot_operations.refresh_more(tx, Due(snapshot_operations.REFRESH, community.community_id, name, tx.now))
                name = await tx.fetchval("SELECT name FROM timers WHERE community_id=$1 AND kind=$2", community.community_id, snapshot_operations.REFRESH)
                await tx.execute("DELETE FROM timers WHERE community_id=$1", community.community_id)
            steps.append(time.perf_counter() - began)
        print(label, len(steps), "steps", "sum", round(sum(steps), 2), "max", round(max(steps), 2))
    await chain("first")
    await chain("unchanged")
    import cProfile, pstats
    p = cProfile.Profile(); p.enable()
    await chain("unchanged profiled")
    p.disable(); pstats.Stats(p).sort_stats("cumtime").print_stats(25)
    rows = await community.value("SELECT array_agg(account_id) FROM (SELECT account_id FROM known_residents WHERE community_id=$1 LIMIT 20) x", community.community_id)
    took = []
    for a in rows:
        began = time.perf_counter()
        await community.card(a)
        took.append(time.perf_counter() - began)
    print("issue card", [round(t * 1000) for t in took])
    async with community.running.transaction("access", community.community_id) as tx:
        from services.access import syncing
        began = time.perf_counter()
        change = await syncing._change(tx, "zz-1")
        read = time.perf_counter() - began
        from functools import partial
        from services.access.snapshots import parts_of
        from servicekit.signing import Signer
        parts = parts_of(change, partial(Signer(KEY).sign, "access.snapshot"), "k")
        print("whole snapshot", len(parts), "parts", sum(map(len, parts)), "bytes; read", round(read, 3), "all", round(time.perf_counter() - began, 3))
