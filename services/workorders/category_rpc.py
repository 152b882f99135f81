"""The methods of linli.workorders.v1.WorkOrdersService about categories and the terms of service."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.database import Transaction
from servicekit.identifiers import new_id
from servicekit.texts import text
from services.workorders import category_operations, category_store, terms_store
from services.workorders.categories import Category, in_tree_order, line_of
from services.workorders.orders import Kind, Priority, Promise
from services.workorders.targets import Hours, Terms

KINDS: Final = {
    pb.ORDER_KIND_REPAIR: Kind.REPAIR,
    pb.ORDER_KIND_COMPLAINT: Kind.COMPLAINT,
    pb.ORDER_KIND_INSPECTION: Kind.INSPECTION,
    pb.ORDER_KIND_ALARM: Kind.ALARM,
}
KIND_MESSAGE: Final = {kind: message for message, kind in KINDS.items()}
PRIORITIES: Final = {
    pb.PRIORITY_EMERGENCY: Priority.EMERGENCY,
    pb.PRIORITY_URGENT: Priority.URGENT,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_LOW: Priority.LOW,
}
PRIORITY_MESSAGE: Final = {priority: message for message, priority in PRIORITIES.items()}


async def create_category(tx: Transaction, request: pb.CreateCategoryRequest) -> pb.Category:
    """Adds a category."""
    category = Category(
        category_id=new_id(),
        code=request.code,
        parent_id=UUID(request.parent_id) if request.parent_id else None,
        name_zh=text(request.name_zh, "name_zh"),
        name_en=text(request.name_en, "name_en"),
        kind=KINDS[request.kind],
        skill=request.skill,
        promises=_promises(request.targets),
        default_priority=PRIORITIES.get(request.default_priority),
    )
    return await _message(tx, await category_operations.create_category(tx, category))


async def update_category(tx: Transaction, request: pb.UpdateCategoryRequest) -> pb.Category:
    """Changes a category."""
    changed = await category_operations.update_category(
        tx,
        UUID(request.category_id),
        name_zh=text(request.name_zh, "name_zh") if request.name_zh else "",
        name_en=text(request.name_en, "name_en") if request.name_en else "",
        promises=_promises(request.targets),
        default_priority=PRIORITIES.get(request.default_priority),
        in_use=request.in_use if request.HasField("in_use") else None,
    )
    return await _message(tx, changed)


async def list_categories(tx: Transaction, _request: pb.ListCategoriesRequest) -> pb.ListCategoriesResponse:
    """The tree, parents before their children."""
    known = await category_store.load_categories(tx)
    return pb.ListCategoriesResponse(categories=[_category_message(each, known) for each in in_tree_order(known.values())])


async def _message(tx: Transaction, category: Category) -> pb.Category:
    return _category_message(category, await category_store.load_categories(tx))


def _category_message(category: Category, known: dict[UUID, Category]) -> pb.Category:
    line = line_of(category.category_id, known)
    assert line is not None
    return pb.Category(
        category_id=str(category.category_id),
        code=category.code,
        parent_id=str(category.parent_id or ""),
        name_zh=category.name_zh,
        name_en=category.name_en,
        kind=KIND_MESSAGE[category.kind],
        skill=category.skill,
        targets=[
            pb.Targets(
                priority=PRIORITY_MESSAGE[priority],
                response_minutes=promise.response_minutes,
                on_site_minutes=promise.on_site_minutes,
                done_minutes=promise.done_minutes,
                round_the_clock=promise.round_the_clock,
            )
            for priority, promise in sorted(category.promises.items())
        ],
        default_priority=PRIORITY_MESSAGE[line.priority],
        in_use=category.in_use,
    )


def _promises(targets: Iterable[pb.Targets]) -> dict[Priority, Promise]:
    named = [
        (PRIORITIES[each.priority], Promise(each.response_minutes, each.on_site_minutes, each.done_minutes, each.round_the_clock))
        for each in targets
    ]
    return category_operations.promises_by_priority(named)


async def set_service(tx: Transaction, request: pb.SetServiceRequest) -> pb.ServiceTerms:
    """Sets when the community works, and who is told when a promise is missed."""
    terms = Terms(
        terms_id=new_id(),
        working_hours=tuple(Hours(each.weekday, each.from_minute, each.until_minute) for each in request.working_hours),
        follows_holidays=request.follows_holidays,
        escalation_roles=tuple(text(role, f"escalation_roles[{index}]") for index, role in enumerate(request.escalation_roles)),
        offer_s=request.offer_s,
        reopen_days=request.reopen_days,
    )
    return _terms_message(await category_operations.set_terms(tx, terms))


async def get_service(tx: Transaction, _request: pb.GetServiceRequest) -> pb.ServiceTerms:
    """The terms in force."""
    return _terms_message(await terms_store.newest_terms(tx))


def _terms_message(terms: Terms) -> pb.ServiceTerms:
    hours = [
        pb.WorkingHours(weekday=each.weekday, from_minute=each.from_minute, until_minute=each.until_minute) for each in terms.working_hours
    ]
    return pb.ServiceTerms(
        working_hours=hours,
        follows_holidays=terms.follows_holidays,
        escalation_roles=terms.escalation_roles,
        offer_s=terms.offer_s,
        reopen_days=terms.reopen_days,
    )
