"""The SQL of categories. A community's are few and read together."""

import json
from typing import Any
from uuid import UUID

from servicekit.database import Transaction
from services.workorders.categories import Category
from services.workorders.orders import Kind, Priority, Promise

_INSERT_CATEGORY = """
INSERT INTO categories (category_id, community_id, code, parent_id, name_zh, name_en, kind, skill, promises, default_priority, in_use)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11) ON CONFLICT (community_id, code) DO NOTHING
"""


async def insert_category(tx: Transaction, category: Category) -> bool:
    """Adds a category; False when one has its code."""
    inserted = await tx.execute(
        _INSERT_CATEGORY,
        category.category_id,
        tx.community_id,
        category.code,
        category.parent_id,
        category.name_zh,
        category.name_en,
        category.kind,
        category.skill,
        _promises(category),
        category.default_priority,
        category.in_use,
    )
    return bool(inserted)


_UPDATE_CATEGORY = """
UPDATE categories SET name_zh = $2, name_en = $3, promises = $4::jsonb, default_priority = $5, in_use = $6 WHERE category_id = $1
"""


async def update_category(tx: Transaction, category: Category) -> None:
    """Writes what may change."""
    await tx.execute(
        _UPDATE_CATEGORY,
        category.category_id,
        category.name_zh,
        category.name_en,
        _promises(category),
        category.default_priority,
        category.in_use,
    )


def _promises(category: Category) -> str:
    return json.dumps(
        {
            int(priority): [promise.response_minutes, promise.on_site_minutes, promise.done_minutes, promise.round_the_clock]
            for priority, promise in category.promises.items()
        }
    )


_LOCK_CATEGORY = "SELECT FROM categories WHERE category_id = $1 FOR NO KEY UPDATE"


async def lock_category(tx: Transaction, category_id: UUID) -> None:
    """Holds a category until the transaction ends."""
    await tx.execute(_LOCK_CATEGORY, category_id)


_SELECT_CATEGORIES = """
SELECT category_id, code, parent_id, name_zh, name_en, kind, skill, promises, default_priority, in_use
FROM categories WHERE community_id = $1 ORDER BY code
"""


async def load_categories(tx: Transaction) -> dict[UUID, Category]:
    """The community's categories."""
    return {row["category_id"]: _category(dict(row)) for row in await tx.fetch(_SELECT_CATEGORIES, tx.community_id)}


def _category(columns: dict[str, Any]) -> Category:
    promises = {Priority(int(priority)): Promise(*promise) for priority, promise in json.loads(columns["promises"]).items()}
    default = columns["default_priority"]
    columns |= {"kind": Kind(columns["kind"]), "promises": promises, "default_priority": None if default is None else Priority(default)}
    return Category(**columns)
