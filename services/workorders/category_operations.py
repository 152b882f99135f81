"""The tree of categories and the terms under which the community serves. Orders that are open keep what was promised at their report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from services.workorders import category_store, terms_store
from services.workorders.categories import ALARM, CATEGORIES_MAX, DEPTH_MAX, Category, Line, codes_above, line_of
from services.workorders.orders import Kind, Priority, Promise
from services.workorders.targets import Terms


async def create_category(tx: Transaction, category: Category) -> Category:
    """Adds a category. Raises NotFound for a parent that is none, and Conflict for a code that is taken or a tree too deep or too large."""
    known = await category_store.load_categories(tx)
    if category.parent_id is not None:
        above = line_of(category.parent_id, known)
        if above is None:
            raise category_unknown()
        if len(above.categories) >= DEPTH_MAX:
            zh, en = f"类别最多 {DEPTH_MAX} 级", f"Categories have at most {DEPTH_MAX} levels"
            raise Conflict("workorders.category_too_deep", zh, en)
    if len(known) >= CATEGORIES_MAX:
        raise Conflict("workorders.too_many_categories", "类别过多", "There are too many categories")
    if not await category_store.insert_category(tx, category):
        raise Conflict("workorders.category_exists", "已有相同代码的类别", "There is a category of this code")
    return category


async def update_category(
    tx: Transaction,
    category_id: UUID,
    *,
    name_zh: str,
    name_en: str,
    promises: Mapping[Priority, Promise],
    default_priority: Priority | None,
    in_use: bool | None,
) -> Category:
    """Changes what is given; promises take the place of those of their priorities. Raises NotFound."""
    await category_store.lock_category(tx, category_id)
    found = (await category_store.load_categories(tx)).get(category_id)
    if found is None:
        raise category_unknown()
    changed = replace(
        found,
        name_zh=name_zh or found.name_zh,
        name_en=name_en or found.name_en,
        promises={**found.promises, **promises},
        default_priority=default_priority or found.default_priority,
        in_use=found.in_use if in_use is None else in_use,
    )
    await category_store.update_category(tx, changed)
    return changed


async def find_line(tx: Transaction, category_id: UUID) -> Line:
    """A category in use, and those above it. Raises NotFound, and Conflict for one that is out of use."""
    line = line_of(category_id, await category_store.load_categories(tx))
    if line is None:
        raise category_unknown()
    if not line.in_use:
        raise Conflict("workorders.category_out_of_use", "该类别已停用", "This category is out of use")
    return line


async def find_line_by_code(tx: Transaction, code: str) -> Line | None:
    """The category in use of this very code."""
    known = await category_store.load_categories(tx)
    found = next((category for category in known.values() if category.code == code), None)
    line = None if found is None else line_of(found.category_id, known)
    return line if line is not None and line.in_use else None


async def find_alarm_line(tx: Transaction, code: str) -> Line:
    """The category for an alarm: that of its code, else the nearest above it, else the root of alarms, which is made when it is missing."""
    for each in codes_above(code):
        line = await find_line_by_code(tx, each)
        if line is not None:
            return line
    root = Category(new_id(), ALARM, None, "告警", "Alarms", Kind.ALARM, "", {}, None)
    await category_store.insert_category(tx, root)
    known = await category_store.load_categories(tx)
    # Taken even when it is out of use: an alarm is not lost for it.
    return Line([next(category for category in known.values() if category.code == ALARM)])


async def set_terms(tx: Transaction, terms: Terms) -> Terms:
    """Puts terms into force for orders that are reported from now on. Raises Invalid for hours that end before they begin."""
    for index, each in enumerate(terms.working_hours):
        if each.until_minute <= each.from_minute:
            field = FieldViolation(f"working_hours[{index}].until_minute", "workorders.hours_inverted", "must be after from_minute")
            raise Invalid("workorders.hours_inverted", "结束时间须晚于开始时间", "Working hours end before they begin", fields=[field])
    if not await terms_store.insert_terms(tx, terms):
        raise Conflict("workorders.terms_changed", "服务时间刚被他人修改，请重试", "Somebody has just changed the terms; please try again")
    return terms


def promises_by_priority(named: Sequence[tuple[Priority, Promise]]) -> dict[Priority, Promise]:
    """Promises by their priorities. Raises Invalid when two are for one."""
    promises = dict(named)
    if len(promises) < len(named):
        field = FieldViolation("targets", "workorders.targets_alike", "must have different priorities")
        raise Invalid("workorders.targets_alike", "同一优先级只能有一组时限", "Two targets have the same priority", fields=[field])
    return promises


def category_unknown() -> NotFound:
    """The error for a category that this community does not have."""
    return NotFound("workorders.category_unknown", "没有找到该类别", "There is no such category")
