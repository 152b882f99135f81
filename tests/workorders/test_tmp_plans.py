import asyncpg, uuid, pytest
from time import perf_counter
from bench import lists as B
from services.workorders import list_store as L
from tests.workorders.arrange import Community
pytestmark = pytest.mark.asyncio(loop_scope="module")

async def test_plans(community: Community, servers: object) -> None:
    cats=[uuid.UUID(await community.category(f"k{i}", skill="plumbing")) for i in range(12)]
    c=community.community_id
    run=community.town.running
    async with run.transaction("workorders", c) as tx:
        db=await tx.fetchval("select current_database()")
    import tests.support as S
    from tests.workorders import test_tmp_plans as me
    con=await asyncpg.connect(servers.postgres.url(db))
    N=300_000
    await con.execute("SELECT setseed(0.5)")
    await con.execute(B.ADD_TEAMS,c,5)
    teams=await con.fetchval("SELECT array_agg(team_id) FROM teams WHERE name LIKE 'bench%'")
    await con.execute(B.ADD_TECHNICIANS,c,40,teams)
    people=await con.fetchval("SELECT array_agg(account_id) FROM technicians WHERE name LIKE 'bench%'")
    h,b,a=uuid.uuid4(),uuid.uuid4(),uuid.uuid4()
    await con.execute(B.ADD_ORDERS,c,cats,people,N,6000,5,60,5000,h,b,a, timeout=300)
    await con.execute("VACUUM ANALYZE", timeout=300)
    heavy=people[0]
    await con.execute("UPDATE orders SET reporter_account_id=$1 WHERE number % 20 = 0", heavy, timeout=300)
    await con.execute("VACUUM ANALYZE orders", timeout=300)
    asks={
     "jobs":(L.JOBS,[heavy,c],None,{}),
     "jobs page":(L.JOBS,[heavy,c],(3,100),{}),
     "take":(L.TO_TAKE,[c,["plumbing",""]],None,{}),
     "take none":(L.TO_TAKE,[c,["nope"]],None,{}),
     "own":(L.OWN,[a,c],None,{}),
     "own heavy":(L.OWN,[heavy,c],None,{}),
     "own heavy open":(L.OWN,[heavy,c],None,{"open_only":True}),
     "public":(L.PUBLIC,[c,[b]],None,{}),
     "public none":(L.PUBLIC,[c,[uuid.uuid4()]],None,{}),
    }
    for name,by in {"all":{}, "state reopened":{"state":"reopened"},"state done":{"state":"done"},"complaint open":{"kind":"repair","open_only":True},
        "alarm":{"kind":"alarm"},"cat":{"category_id":cats[0]},"cat open":{"category_id":cats[0],"open_only":True},"prio1 open":{"priority":1,"open_only":True},
        "team":{"team_id":teams[0]},"team open":{"team_id":teams[0],"open_only":True},"tech open":{"technician_account_id":heavy,"open_only":True},
        "tech waiting":{"technician_account_id":heavy,"state":"waiting"},"building open":{"building_id":b,"open_only":True},"unknown building":{"building_id":uuid.uuid4()},
        "missed open":{"missed_only":True,"open_only":True},"missed cat":{"missed_only":True,"category_id":cats[1]},"team missed done":{"team_id":teams[0],"missed_only":True,"state":"done"},
        "prio1 team":{"priority":1,"team_id":teams[0]}, "kind complaint state waiting":{"kind":"complaint","state":"waiting"}}.items():
        asks[name]=(L.ALL,[c],None,by)
    for mode in ("force_generic_plan","force_custom_plan"):
      async with run.transaction("workorders", c) as tx:
        await tx.execute(f"SET LOCAL plan_cache_mode={mode}")
        for name,(listing,args,after,by) in asks.items():
            await listing.fetch(tx,args,after,21,**by)
            t=[]
            for _ in range(5):
                s=perf_counter(); rows=await listing.fetch(tx,args,after,21,**by); t.append(perf_counter()-s)
            print(f"{mode} {name}: {min(t)*1000:.2f} ms {len(rows)} rows")
    await con.close()
