"""The demonstration's smart bins, the cards that open them, and the trucks and people who look after them."""

from console.demonstration import DemonstrationBin, DemonstrationResident
from console.seed.api import Api
from console.seed.devices import register_device
from console.seed.people import find_buildings, grant_roles, list_residents

ROLES = [
    ("13800000007", "督导员小何", "waste_inspector"),
    ("13800000008", "清运员老马", "waste_collector"),
]
# Device, name, building, latitude and longitude. One stands by the gate, at no building.
BINS = [
    ("demo-bin-1", "1号楼分类箱", "1号楼", 39.98412, 116.31384),
    ("demo-bin-2", "2号楼分类箱", "2号楼", 39.98521, 116.31722),
    ("demo-bin-3", "3号楼分类箱", "3号楼", 39.98148, 116.31561),
    ("demo-bin-4", "东门分类箱", "", 39.98220, 116.32016),
]
# What a compartment of 240 litres holds of each category, and one of 60 litres of hazardous waste.
CAPACITY_GRAMS = {"recyclable": 24_000, "kitchen": 90_000, "hazardous": 15_000, "other": 45_000}
# Category, name, what it carries. Each drives past all bins from ten in the evening until two.
TRUCKS = [
    ("kitchen", "厨余垃圾车", 3_000_000),
    ("other", "其他垃圾车", 5_000_000),
    ("recyclable", "可回收物车", 1_500_000),
    ("hazardous", "有害垃圾车", 500_000),
]
DEPOT = {"latitude": 39.97730, "longitude": 116.30650}


async def seed_waste(manager: Api) -> tuple[list[DemonstrationBin], list[DemonstrationResident], dict[str, str]]:
    """Sets bins up, hands cards out and registers trucks. Returns the bins, the residents with cards, and the bins' secrets."""
    await grant_roles(manager, ROLES)
    bins, device_secrets = await _bins(manager)
    residents = await list_residents(manager)
    for resident in residents:
        await _register_card(manager, resident)
    for category, name, capacity in TRUCKS:
        truck = {
            "name": name,
            "category": f"CATEGORY_{category.upper()}",
            "capacity_grams": capacity,
            "depot": DEPOT,
            "shift_start_minute": 22 * 60,
            "shift_end_minute": 2 * 60,
            "fixed_round_bin_ids": [made.bin_id for made in bins],
        }
        await manager.call("POST", "/v1/waste/trucks", truck, key=f"demo-truck-{category}")
    return bins, residents, device_secrets


async def _bins(manager: Api) -> tuple[list[DemonstrationBin], dict[str, str]]:
    buildings = await find_buildings(manager)
    bins, device_secrets = [], {}
    for device_id, name, building, latitude, longitude in BINS:
        device_secrets[device_id] = await register_device(manager, device_id, name, "BIN")
        body = {
            "name": name,
            "device_id": device_id,
            "building_id": buildings.get(building, ""),
            "place": {"latitude": latitude, "longitude": longitude},
            "compartments": [
                {"name": category, "category": f"CATEGORY_{category.upper()}", "capacity_grams": capacity}
                for category, capacity in CAPACITY_GRAMS.items()
            ],
        }
        made = await manager.call("POST", "/v1/waste/bins", body, key=f"demo-{device_id}")
        bins.append(DemonstrationBin(made["bin_id"], device_id, name, CAPACITY_GRAMS))
    return bins, device_secrets


async def _register_card(manager: Api, resident: DemonstrationResident) -> None:
    """Hands out a card as soon as waste has heard that its owner lives here."""
    body = {"card_number": resident.card_number, "account_id": resident.account_id}
    await manager.call_when_known("POST", "/v1/waste/cards", body, key=f"demo-card-{resident.card_number}")
