import time, asyncio, pytest
from tests.waste.arrange import *
from tests.waste.conftest import *
from tests.waste.test_collection import truck, plan
pytestmark = pytest.mark.asyncio(loop_scope="module")
async def test_it(waste, community):
    await truck(community)
    for c in range(1,5):
        await truck(community, category=c)
    async with waste.running.transaction("waste", community.community_id) as tx:
        cid=community.community_id
        await tx.execute("INSERT INTO bins (bin_id, community_id, name, device_id, latitude, longitude, last_heard_at) SELECT gen_random_uuid(), $1, 'n'||g, 'd'||g, 31.2+random()/200, 121.5+random()/200, $2 FROM generate_series(1,75) g", cid, community.clock.now)
        await tx.execute("INSERT INTO compartments (bin_id, name, community_id, category, capacity_grams, fill_permille, fill_at) SELECT bin_id, c, $1, c, 100000, (random()*1000)::int, $2 FROM bins, unnest(ARRAY['recyclable','kitchen','hazardous','other']) c WHERE community_id=$1", cid, community.clock.now)
    for w in range(8):
        async with waste.running.transaction("waste", community.community_id) as tx:
            n=await tx.execute("INSERT INTO fill_levels (bin_id, compartment, at, community_id, fill_permille) SELECT bin_id, c.name, $2::timestamptz - g*interval '36 minutes', $1, (1000 - (g % 60)*16) FROM compartments c, generate_series($3::int*280, $3::int*280+279) g WHERE c.community_id=$1", cid, community.clock.now, w)
            print(n)
    for _ in range(2):
        t=time.perf_counter()
        from services.waste import collection_store
        from datetime import timedelta
        async with waste.running.transaction("waste", community.community_id) as tx:
            r=await collection_store.list_readings(tx, community.clock.now-timedelta(weeks=8))
        print("readings", time.perf_counter()-t, sum(map(len,r.values())))
    gaps=[]; stop=False
    async def tick():
        while not stop:
            a=time.perf_counter(); await asyncio.sleep(0.001); gaps.append(time.perf_counter()-a)
    task=asyncio.create_task(tick())
    t=time.perf_counter(); p=await plan(community); print("plan", time.perf_counter()-t, p.planned, p.ByteSize()); stop=True; await task
    gaps.sort(); print("lag max ms", gaps[-1]*1e3, "p99", gaps[int(len(gaps)*.99)]*1e3)
