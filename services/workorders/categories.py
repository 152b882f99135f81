"""The tree of categories: what each takes from those above it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.workorders.orders import Kind, Priority, Promise

# 首次响应: what every community promises unless it says otherwise, in minutes.
RESPONSE_MINUTES: Final = 15
# Levels of the tree, and categories of a community.
DEPTH_MAX: Final = 4
CATEGORIES_MAX: Final = 500
# What alarms come under whose own categories the community does not have.
ALARM: Final = "alarm"


@dataclass(frozen=True, slots=True)
class Category:
    """What orders are about. An empty skill, a priority without a promise and no default priority are those of the parent."""

    category_id: UUID
    code: str
    parent_id: UUID | None
    name_zh: str
    name_en: str
    kind: Kind
    skill: str
    promises: Mapping[Priority, Promise]
    default_priority: Priority | None
    in_use: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """A category and those above it, up to the root."""

    categories: Sequence[Category]

    @property
    def category(self) -> Category:
        """The category itself."""
        return self.categories[0]

    @property
    def in_use(self) -> bool:
        """Whether orders may come under it."""
        return all(each.in_use for each in self.categories)

    @property
    def skill(self) -> str:
        """What its orders take; empty when nobody has said."""
        return next((each.skill for each in self.categories if each.skill), "")

    @property
    def priority(self) -> Priority:
        """The priority of its new orders."""
        return next((each.default_priority for each in self.categories if each.default_priority), Priority.NORMAL)

    def promise(self, priority: Priority) -> Promise:
        """What is promised for a priority: a response, round the clock when people or things are in danger, if no category says more."""
        usual = Promise(RESPONSE_MINUTES, 0, 0, priority <= Priority.URGENT)
        return next((each.promises[priority] for each in self.categories if priority in each.promises), usual)


def line_of(category_id: UUID, known: Mapping[UUID, Category]) -> Line | None:
    """A category and those above it; None when it is not known."""
    line: list[Category] = []
    above: UUID | None = category_id
    while above is not None and above in known and len(line) < DEPTH_MAX:
        line.append(known[above])
        above = known[above].parent_id
    return Line(line) if line else None


def in_tree_order(categories: Iterable[Category]) -> list[Category]:
    """Parents before their children, and siblings by code."""
    by_parent: dict[UUID | None, list[Category]] = {}
    for category in sorted(categories, key=lambda each: each.code):
        by_parent.setdefault(category.parent_id, []).append(category)

    def below(parent_id: UUID | None) -> list[Category]:
        return [found for category in by_parent.get(parent_id, []) for found in (category, *below(category.category_id))]

    return below(None)


def codes_above(code: str) -> list[str]:
    """A code and those that are more general, ending with the root of alarms: where an alarm's order is looked for."""
    parts = code.split(".")
    found = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return [*found, ALARM] if ALARM not in found else found
