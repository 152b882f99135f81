"""Roles: which party each belongs to, and which permissions it carries. Who holds which role is stored elsewhere.

The four parties that run a community together are the owners' committee, the property company, the residents' committee and social
organisations (四位一体). Residents hold their roles through a household, guests by signing in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID


class Party(StrEnum):
    """Whom a role belongs to."""

    OWNERS_COMMITTEE = "owners_committee"
    PROPERTY_COMPANY = "property_company"
    RESIDENTS_COMMITTEE = "residents_committee"
    SOCIAL_ORGANISATION = "social_organisation"
    RESIDENT = "resident"
    PLATFORM = "platform"  # whoever runs the installation; no party of any community


class MemberKind(StrEnum):
    """How a person belongs to a household."""

    OWNER = "owner"
    FAMILY = "family"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Role:
    """A role and what it may do."""

    name: str
    party: Party
    permissions: frozenset[str]


# Held by everybody who works for a party, whatever the reach of the grant: it concerns the account itself. Who holds it has a password.
STAFF: Final = "identity.password.set"
# What a contract can limit to a building. A grant for one building carries these alone: the rest would let nobody do anything.
BUILDING_PERMISSIONS: Final = frozenset({"identity.homes.read", "identity.homes.write"})

_HOUSEHOLD_MEMBER: Final = frozenset(
    {
        "access.visitors.read",
        "access.visitors.write",
        "identity.household.read",
        "identity.vehicles.read",
        "identity.vehicles.write",
        "parking.household_sessions.read",
        "parking.visitor_passes.read",
        "parking.visitor_passes.write",
        "points.household.read",
    }
)
_HOUSEHOLD_OWNER: Final = _HOUSEHOLD_MEMBER | {"identity.household.write"}

# Everything that a community can do by itself.
_COMMUNITY: Final = _HOUSEHOLD_OWNER | {
    STAFF,
    "access.alarm_rules.write",
    "access.alarms.handle",
    "access.alarms.read",
    "access.consents.read",
    "access.consents.write",
    "access.contractors.write",
    "access.credentials.read",
    "access.credentials.write",
    "access.doors.open",
    "access.doors.read",
    "access.doors.write",
    "access.maintenance.write",
    "access.passages.read",
    "access.passes.read",
    "access.passes.write",
    "access.rules.write",
    "billing.charges.read",
    "billing.payments.read",
    "billing.reconciliations.read",
    "billing.reconciliations.run",
    "billing.refunds.create",
    "identity.community.update",
    "identity.homes.read",
    "identity.homes.write",
    "identity.roles.grant",
    "identity.roles.read",
    "ingest.devices.read",
    "ingest.devices.write",
    "insights.objects.read",
    "insights.telemetry.read",
    "parking.denials.read",
    "parking.denials.write",
    "parking.figures.read",
    "parking.gates.open",
    "parking.gates.read",
    "parking.lots.read",
    "parking.lots.write",
    "parking.permits.read",
    "parking.permits.write",
    "parking.reviews.read",
    "parking.reviews.write",
    "parking.sessions.read",
    "parking.tariffs.write",
    "points.contributions.confirm",
    "points.earnings.correct",
    "points.grants.approve",
    "points.grants.read",
    "points.grants.write",
    "points.items.write",
    "points.redemptions.confirm",
    "points.redemptions.read",
    "points.residents.read",
    "points.rules.write",
    "waste.bins.read",
    "waste.bins.write",
    "waste.cards.read",
    "waste.cards.write",
    "waste.collections.read",
    "waste.collections.record",
    "waste.collections.write",
    "waste.contamination.report",
    "waste.deposits.read",
    "waste.deposits.review",
    "workorders.categories.write",
    "workorders.figures.read",
    "workorders.inspections.write",
    "workorders.jobs.work",
    "workorders.orders.dispatch",
    "workorders.orders.read",
    "workorders.orders.triage",
    "workorders.prices.write",
    "workorders.teams.write",
}
# The guard at the gate: sees who may come in, opens by hand, answers alarms and is sent to look, settles what the cameras could not read.
# What somebody consented to, or complains about, is none of a guard's business.
_GUARD: Final = frozenset(
    {
        STAFF,
        "access.alarms.handle",
        "access.alarms.read",
        "access.doors.open",
        "access.doors.read",
        "access.passages.read",
        "access.passes.read",
        "identity.homes.read",
        "identity.household.read",
        "identity.vehicles.read",
        "ingest.devices.read",
        "parking.denials.read",
        "parking.gates.open",
        "parking.gates.read",
        "parking.lots.read",
        "parking.permits.read",
        "parking.reviews.read",
        "parking.reviews.write",
        "parking.sessions.read",
        "parking.visitor_passes.read",
        "waste.bins.read",
        "waste.deposits.read",
        "workorders.jobs.work",
    }
)
# The counter: registers homes, people and cars, hands out cards and passes, takes consents on paper and work orders, sells month passes,
# handles fees.
_CLERK: Final = frozenset(
    {
        STAFF,
        "access.consents.read",
        "access.consents.write",
        "access.contractors.write",
        "access.credentials.read",
        "access.credentials.write",
        "access.doors.read",
        "access.passes.read",
        "access.passes.write",
        "billing.charges.read",
        "billing.payments.read",
        "billing.reconciliations.read",
        "billing.reconciliations.run",
        "billing.refunds.create",
        "identity.homes.read",
        "identity.homes.write",
        "identity.household.read",
        "identity.household.write",
        "identity.vehicles.read",
        "identity.vehicles.write",
        "parking.figures.read",
        "parking.lots.read",
        "parking.permits.read",
        "parking.permits.write",
        "parking.sessions.read",
        "points.grants.read",
        "points.grants.write",
        "points.items.write",
        "points.redemptions.confirm",
        "points.redemptions.read",
        "points.residents.read",
        "waste.cards.read",
        "waste.cards.write",
        "workorders.orders.read",
        "workorders.orders.triage",
    }
)
# The committees oversee: figures and books, and who lives where for their own duties, never a single car's or person's comings and goings.
_OWNERS_COMMITTEE: Final = frozenset(
    {
        STAFF,
        "billing.reconciliations.read",
        "identity.homes.read",
        "identity.roles.read",
        "insights.objects.read",
        "insights.telemetry.read",
        "parking.figures.read",
        "parking.lots.read",
        "points.grants.approve",
        "points.grants.read",
        "waste.bins.read",
        "workorders.figures.read",
    }
)
# The residents' committee besides runs the points: it makes the rules and confirms what people did for the community. It is the last to
# hear of a work order that nobody answers, and may look into it.
_RESIDENTS_COMMITTEE: Final = frozenset(
    {
        STAFF,
        "identity.homes.read",
        "identity.roles.read",
        "parking.figures.read",
        "points.contributions.confirm",
        "points.grants.approve",
        "points.grants.read",
        "points.rules.write",
        "waste.bins.read",
        "workorders.figures.read",
        "workorders.orders.read",
    }
)
_SOCIAL_ORGANISATION: Final = frozenset({STAFF, "points.contributions.confirm"})
# 督导员, who stands at the bins and looks into them, and 清运员, who empties them.
_WASTE_INSPECTOR: Final = frozenset(
    {STAFF, "waste.bins.read", "waste.contamination.report", "waste.deposits.read", "waste.deposits.review"}
)
_WASTE_COLLECTOR: Final = frozenset({STAFF, "waste.bins.read", "waste.collections.read", "waste.collections.record"})

# 维修工, who does the orders. Where the doors are is part of repairing them.
_TECHNICIAN: Final = frozenset({STAFF, "access.doors.read", "workorders.jobs.work"})
# 工程主管, who gives the orders out, and lets contractors in for them.
_FOREMAN: Final = _TECHNICIAN | {
    "access.alarms.read",
    "access.contractors.write",
    "access.maintenance.write",
    "access.passes.read",
    "workorders.figures.read",
    "workorders.inspections.write",
    "workorders.orders.dispatch",
    "workorders.orders.read",
    "workorders.orders.triage",
    "workorders.teams.write",
}

PROPERTY_MANAGER: Final = "property_manager"
PLATFORM_OPERATOR: Final = "platform_operator"

ROLES: Final[Mapping[str, Role]] = {
    role.name: role
    for role in (
        Role("owners_committee_member", Party.OWNERS_COMMITTEE, _OWNERS_COMMITTEE),
        Role(PROPERTY_MANAGER, Party.PROPERTY_COMPANY, _COMMUNITY),
        Role("property_staff", Party.PROPERTY_COMPANY, _GUARD),
        Role("property_clerk", Party.PROPERTY_COMPANY, _CLERK),
        Role("foreman", Party.PROPERTY_COMPANY, _FOREMAN),
        Role("technician", Party.PROPERTY_COMPANY, _TECHNICIAN),
        Role("waste_inspector", Party.PROPERTY_COMPANY, _WASTE_INSPECTOR),
        Role("waste_collector", Party.PROPERTY_COMPANY, _WASTE_COLLECTOR),
        Role("residents_committee_member", Party.RESIDENTS_COMMITTEE, _RESIDENTS_COMMITTEE),
        Role("social_organisation_member", Party.SOCIAL_ORGANISATION, _SOCIAL_ORGANISATION),
        Role("owner", Party.RESIDENT, _HOUSEHOLD_OWNER),
        Role("resident", Party.RESIDENT, _HOUSEHOLD_MEMBER),
        Role("guest", Party.RESIDENT, frozenset()),
        Role(PLATFORM_OPERATOR, Party.PLATFORM, frozenset({STAFF, "identity.communities.create"})),
    )
}


def grantable(name: str) -> Role | None:
    """The role of one of the four parties with this name; None for every other, which nobody in a community can give."""
    role = ROLES.get(name)
    return None if role is None or role.party in (Party.RESIDENT, Party.PLATFORM) else role


def fits_a_building(role: Role) -> bool:
    """Whether holding `role` for one building means anything."""
    return bool(role.permissions & BUILDING_PERMISSIONS)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What an account may do: everywhere in its community, in a household, in a building."""

    everywhere: frozenset[str]
    by_household: Mapping[UUID, frozenset[str]]
    by_building: Mapping[UUID, frozenset[str]]


def holdings(grants: Iterable[tuple[str, UUID | None]], memberships: Iterable[tuple[UUID, MemberKind]]) -> Holdings:
    """What granted roles, each with the building it is limited to or None, and memberships of households add up to.

    A role that is no longer known carries nothing.
    """
    everywhere: frozenset[str] = frozenset()
    by_building: dict[UUID, frozenset[str]] = {}
    for name, building_id in grants:
        permissions = ROLES[name].permissions if name in ROLES else frozenset()
        if building_id is None:
            everywhere |= permissions
        else:
            everywhere |= permissions & {STAFF}
            by_building[building_id] = by_building.get(building_id, frozenset()) | permissions & BUILDING_PERMISSIONS
    by_household = {
        household_id: ROLES["owner" if kind is MemberKind.OWNER else "resident"].permissions for household_id, kind in memberships
    }
    return Holdings(everywhere, by_household, by_building)
