"""The demonstration's work orders: what is promised for what, who does it, and what it costs."""

from typing import Any

from console.demonstration import DemonstrationTechnician
from console.seed.api import Api
from console.seed.people import find_buildings, grant_roles

FOREMAN = ("13800000020", "工程主管老郭", "foreman")
GUARD = ("13800000002", "保安小李", "property_staff")
TECHNICIANS = [
    ("13800000021", "水电工老徐", "technician"),
    ("13800000022", "维修工小高", "technician"),
    ("13800000023", "维修工阿强", "technician"),
]
ROLES = [FOREMAN, *TECHNICIANS]
_WEEK = range(1, 8)
_ALWAYS, _DAY, _NIGHT = [(0, 1440)], [(480, 1200)], [(0, 480), (1200, 1440)]
_ODD_JOBS = ["doors", "lifts", "electrics", "cleaning"]
# Phone, team, skills and shifts. Whoever tries the demonstration does so at any hour: its plumber is always on call.
SHIFTS = [
    (TECHNICIANS[0], "工程部", ["plumbing", "electrics"], _ALWAYS),
    (TECHNICIANS[1], "工程部", _ODD_JOBS, _DAY),
    (TECHNICIANS[2], "工程部", _ODD_JOBS, _NIGHT),
    (GUARD, "秩序维护部", ["guard"], _ALWAYS),
]
# Minutes until somebody has accepted it, is there, and has done it; and whether the clock runs at night.
_DANGER, _DAMAGE, _USUAL, _SMALL = (5, 30, 240, True), (15, 60, 480, True), (15, 480, 1440, False), (15, 0, 4320, False)


# Code, name in Chinese and English, kind, skill, and the usual priority; parents first. What is empty is the parent's.
CATEGORIES = [
    ("water", "给排水", "Water", "REPAIR", "plumbing", "NORMAL"),
    ("water.leak", "漏水", "A leak", "", "", "URGENT"),
    ("water.drain", "下水堵塞", "A blocked drain", "", "", "URGENT"),
    ("water.tap", "龙头与洁具", "Taps and toilets", "", "", ""),
    ("power", "供电", "Power", "REPAIR", "electrics", "NORMAL"),
    ("power.outage", "停电", "No power", "", "", "URGENT"),
    ("power.light", "公共照明", "Lights on stairs and paths", "", "", "LOW"),
    ("lift", "电梯", "Lift", "REPAIR", "lifts", "URGENT"),
    ("lift.trapped", "电梯困人", "Somebody is trapped in a lift", "", "", "EMERGENCY"),
    ("lift.broken", "电梯停运", "A lift does not work", "", "", ""),
    ("door", "门禁与门窗", "Doors and windows", "REPAIR", "doors", "NORMAL"),
    ("cleaning", "保洁", "Cleaning", "REPAIR", "cleaning", "LOW"),
    ("complaint", "投诉", "Complaints", "COMPLAINT", "", "NORMAL"),
    ("complaint.noise", "噪音扰民", "Noise", "", "", ""),
    ("complaint.parking", "乱停车", "Parked in the way", "", "", ""),
    ("security", "安防", "Security", "ALARM", "guard", "EMERGENCY"),
    ("security.intrusion", "闯入", "Intrusion", "", "", ""),
    ("security.fire", "火情", "Fire", "", "", ""),
    ("security.sos", "紧急求助", "A call for help", "", "", ""),
    ("security.fall", "人员摔倒", "Somebody fell", "", "", ""),
    ("security.door_forced", "门被强行打开", "A door was forced", "", "", ""),
    ("security.tamper", "设备被拆动", "Tampering", "", "", "URGENT"),
    ("security.fire_lane", "消防通道占用", "A blocked fire lane", "", "", "URGENT"),
    ("security.terminal", "门禁设备故障", "A door terminal is out of order", "", "doors", "NORMAL"),
    ("waste", "垃圾分类设施", "Smart bins", "ALARM", "cleaning", "NORMAL"),
    ("waste.fire", "垃圾箱火情", "A bin on fire", "", "guard", "EMERGENCY"),
    ("waste.full", "垃圾箱满溢", "A full bin", "", "", "LOW"),
    ("waste.silent", "垃圾箱离线", "A bin says nothing", "", "electrics", "LOW"),
    ("inspection", "巡检", "Inspections", "INSPECTION", "electrics", "NORMAL"),
]
TERMS = {
    "working_hours": [{"weekday": day, "from_minute": 8 * 60, "until_minute": 18 * 60} for day in _WEEK],
    "follows_holidays": False,
    "escalation_roles": ["foreman", "property_manager", "residents_committee_member"],
    "offer_s": 300,
    "reopen_days": 7,
}
# Code, name in Chinese and English, unit, fen, and whether it is labour.
PRICES = [
    ("visit", "上门费", "Visit", "VISIT", 2000, True),
    ("labour", "维修工时", "Labour", "HOUR", 6000, True),
    ("pipe.ppr20", "PPR 水管 20 mm", "PPR pipe, 20 mm", "METRE", 1250, False),
    ("valve.angle", "角阀", "Angle valve", "PIECE", 2500, False),
    ("tap.kitchen", "厨房龙头", "Kitchen tap", "PIECE", 8900, False),
    ("lamp.led", "LED 灯", "LED lamp", "PIECE", 1500, False),
    ("lock.core", "锁芯", "Lock cylinder", "PIECE", 12000, False),
]
# Degrees, WGS 84, for distances.
POSITIONS = {"1号楼": (39.98412, 116.31384), "2号楼": (39.98521, 116.31722), "3号楼": (39.98148, 116.31561)}
INSPECTION = {
    "name": "消防设施月检",
    "place": "各楼栋消防通道与消火栓",
    "starts_at": "2026-01-05T09:00",
    "recurrence": "FREQ=MONTHLY;BYDAY=1MO",
    "checklist": ["灭火器压力正常", "消火栓有水、配件齐全", "应急照明与疏散指示完好", "消防通道畅通"],
}


async def seed_work(manager: Api) -> list[DemonstrationTechnician]:
    """Says what is promised, and who does it. Returns those who do."""
    await grant_roles(manager, ROLES)
    categories = await _categories(manager)
    await manager.call("PUT", "/v1/work-order-terms", TERMS)
    for code, name_zh, name_en, unit, price_fen, labour in PRICES:
        price = {
            "name_zh": name_zh,
            "name_en": name_en,
            "unit": f"PRICE_UNIT_{unit}",
            "price_fen": price_fen,
            "labour": labour,
            "in_use": True,
        }
        await manager.call("PUT", f"/v1/work-order-prices/{code}", price)
    buildings = await find_buildings(manager)
    for name, (latitude, longitude) in POSITIONS.items():
        position = {"latitude": latitude, "longitude": longitude}
        await manager.call("PUT", f"/v1/work-order-buildings/{buildings[name]}/position", position)
    inspection = {**INSPECTION, "category_id": categories["inspection"]}
    await manager.call("POST", "/v1/inspections", inspection, key="demo-inspection")
    return await _technicians(manager)


async def _categories(manager: Api) -> dict[str, str]:
    """The categories' ids by their codes."""
    made: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for code, name_zh, name_en, kind, skill, priority in CATEGORIES:
        above = code.rpartition(".")[0]
        kinds[code] = kind or kinds[above]
        body = {
            "code": code,
            "parent_id": made.get(above, ""),
            "name_zh": name_zh,
            "name_en": name_en,
            "kind": f"ORDER_KIND_{kinds[code]}",
            "skill": skill,
            "targets": [] if above else _targets(),
            "default_priority": f"PRIORITY_{priority or 'UNSPECIFIED'}",
        }
        made[code] = (await manager.call("POST", "/v1/work-order-categories", body, key=f"demo-category-{code}"))["category_id"]
    return made


def _targets() -> list[dict[str, Any]]:
    """What every category promises, by priority; those below a root take the root's."""
    promised = {"EMERGENCY": _DANGER, "URGENT": _DAMAGE, "NORMAL": _USUAL, "LOW": _SMALL}
    return [
        {
            "priority": f"PRIORITY_{priority}",
            "response_minutes": response,
            "on_site_minutes": on_site,
            "done_minutes": done,
            "round_the_clock": always,
        }
        for priority, (response, on_site, done, always) in promised.items()
    ]


async def _technicians(manager: Api) -> list[DemonstrationTechnician]:
    grants = (await manager.call("GET", "/v1/role-grants?page_size=100"))["role_grants"]
    accounts = {grant["account"]["name"]: grant["account"]["account_id"] for grant in grants}
    teams: dict[str, str] = {}
    technicians = []
    for (phone, name, _role), team, skills, hours in SHIFTS:
        if team not in teams:
            body = {"name": team, "foreman_account_id": accounts[FOREMAN[1]] if team == "工程部" else ""}
            teams[team] = (await manager.call("POST", "/v1/work-order-teams", body, key=f"demo-team-{len(teams)}"))["team_id"]
        technician = {
            "name": name,
            "team_id": teams[team],
            "skills": skills,
            "shifts": [{"weekday": day, "from_minute": begins, "until_minute": ends} for day in _WEEK for begins, ends in hours],
            "in_use": True,
        }
        await manager.call("PUT", f"/v1/technicians/{accounts[name]}", technician)
        technicians.append(DemonstrationTechnician(accounts[name], name, phone))
    return technicians
