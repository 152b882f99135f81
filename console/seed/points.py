"""The demonstration's rules of points, and what they are redeemed for."""

from datetime import UTC, datetime
from typing import Any

from console.seed.api import Api


def _rule(source: str, rule_id: str, points: int, per: int, day_max: int, zh: str, en: str, **more: object) -> dict[str, Any]:
    """`points` for every whole `per` of the measure, for the resident, at most `day_max` points in a day."""
    reward = {"source": f"SOURCE_{source}", "rule_id": rule_id, "beneficiary": "BENEFICIARY_RESIDENT", "points": points, "per": per}
    return {**reward, "daily_points_max": day_max, "text_zh": zh, "text_en": en, **more}


# Points for people in a hurry: a cup of coffee is earned in a few minutes.
RULES = [
    _rule("WASTE_DEPOSIT", "waste.recyclable", 2, 100, 400, "投放可回收物", "Recyclables sorted", category="CATEGORY_RECYCLABLE"),
    _rule("WASTE_DEPOSIT", "waste.kitchen", 1, 100, 400, "投放厨余垃圾", "Kitchen waste sorted", category="CATEGORY_KITCHEN"),
    _rule("WASTE_DEPOSIT", "waste.hazardous", 5, 50, 100, "投放有害垃圾", "Hazardous waste handed in", category="CATEGORY_HAZARDOUS"),
    _rule("VOLUNTEERING", "volunteering", 10, 30, 160, "志愿服务", "Volunteering", measure_min=30),
    _rule("ACTIVITY", "activity", 10, 1, 20, "参加社区活动", "Took part in an activity"),
    _rule("SURVEY", "survey", 5, 1, 10, "填写问卷", "Answered a survey"),
    _rule("WALKING", "carbon.walking", 1, 1000, 10, "步行", "Walking", measure_min=1000),
    _rule("CYCLING", "carbon.cycling", 1, 2000, 10, "骑行", "Cycling", measure_min=2000),
]
TERMS = {"years_kept": 1, "grant_points_max": 100, "gift_daily_points_max": 50, "gift_monthly_points_max": 200, "hold_hours": 48}
# Name in Chinese and English, points, stock, the most for each resident, and where it is picked up.
ITEMS = [
    ("一杯咖啡", "A cup of coffee", 10, 200, 0, "社区咖啡角"),
    ("多肉盆栽", "A potted succulent", 30, 40, 2, "物业服务中心"),
    ("洗衣液 2 升", "Laundry liquid, 2 l", 60, 50, 0, "物业服务中心"),
    ("理发一次", "A haircut", 80, 20, 1, "社区理发室"),
]


async def seed_points(manager: Api) -> None:
    """Publishes the first rules and fills the catalogue."""
    if not (await manager.call("GET", "/v1/points/rule-books"))["rule_books"]:
        book = {
            # Bins tell the time in whole seconds: what one weighs in this very second is to earn points too.
            "effective_from": datetime.now(UTC).replace(microsecond=0).isoformat(),
            "rules": RULES,
            "terms": TERMS,
            "changes_zh": "第一版积分管理办法。",
            "changes_en": "The first rules of points.",
        }
        await manager.call("POST", "/v1/points/rules", book)
    for number, (name_zh, name_en, points, stock, per_resident_max, place) in enumerate(ITEMS):
        item = {"name_zh": name_zh, "name_en": name_en, "points": points, "stock": stock, "per_resident_max": per_resident_max}
        await manager.call("POST", "/v1/points/items", {**item, "pickup_place": place}, key=f"demo-item-{number}")
