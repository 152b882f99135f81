"""The SQL that gathers who may pass where, for `entries.py`: a community's terminals and rules, and what is known of its subjects."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.households import Home, list_homes
from servicekit.staff import roles_of
from services.access.doors import AntiPassback, CredentialKind, Direction, ZoneKind
from services.access.entries import LEAVING, Rule, Site, Subject, TerminalPlace, Times, Whom, WhomKind
from services.access.windows import unpacked

_SELECT_TERMINALS = """
SELECT device_id, door_id, zone_id, zones.kind AS zone_kind, building_id, direction, credential_kinds, anti_passback, in_use
FROM terminals JOIN doors USING (door_id) JOIN zones USING (zone_id)
WHERE terminals.community_id = $1 AND removed_at IS NULL ORDER BY device_id
"""


async def load_terminals(tx: Transaction) -> list[TerminalPlace]:
    """The community's terminals that are in place."""
    rows = await tx.fetch(_SELECT_TERMINALS, tx.community_id)
    return [
        TerminalPlace(
            device_id=row["device_id"],
            door_id=row["door_id"],
            zone_id=row["zone_id"],
            zone_kind=ZoneKind(row["zone_kind"]),
            building_id=row["building_id"],
            direction=Direction(row["direction"]),
            kinds=frozenset(map(CredentialKind, row["credential_kinds"])),
            anti_passback=AntiPassback(row["anti_passback"]),
            in_use=row["in_use"],
        )
        for row in rows
    ]


# Those that have not ended so long ago that nobody is inside on them any more.
_SELECT_RULES = """
SELECT rule_id, zone_id, whom, whom_id, role, windows, valid_from, valid_until FROM access_rules
WHERE community_id = $1 AND (valid_until IS NULL OR (valid_until > $2 AND valid_from < valid_until)) ORDER BY rule_id
"""


async def load_site(tx: Transaction) -> Site:
    """The community's terminals, and its rules that hold, will, or did until lately."""
    rows = await tx.fetch(_SELECT_RULES, tx.community_id, tx.now - LEAVING)
    return Site(tuple(await load_terminals(tx)), tuple(map(rule_of, rows)))


def rule_of(row: asyncpg.Record) -> Rule:
    """A row of access_rules as a rule."""
    whom: Whom = (WhomKind(row["whom"]), row["role"] or row["whom_id"])
    times = Times(unpacked(json.loads(row["windows"])), row["valid_from"], row["valid_until"])
    return Rule(row["rule_id"], row["zone_id"], whom, times)


_SELECT_CREDENTIALS = """
SELECT account_id, array_agg(digest) FILTER (WHERE kind = 'card') AS cards, array_agg(digest) FILTER (WHERE kind = 'pin') AS pins,
    bool_or(kind = 'face') AS face, (array_agg(face_templates.credential_id) FILTER (WHERE face_templates.sealed IS NOT NULL))[1]
        AS template_id
FROM credentials LEFT JOIN face_templates USING (credential_id, account_id)
WHERE account_id = ANY($1::uuid[]) AND revoked_at IS NULL GROUP BY account_id
"""
# What a pass opens it opens once it is confirmed, until it ends.
_SELECT_PASSES = """
SELECT pass_id, passes.household_id, building_id, zone_ids, valid_from, least(valid_until, ended_at) AS valid_until, entries_max
FROM passes LEFT JOIN known_households USING (household_id)
WHERE pass_id = ANY($1::uuid[]) AND (confirmed_at IS NOT NULL OR $2::boolean) AND valid_from < least(valid_until, ended_at)
"""


async def load_subjects(tx: Transaction, subject_ids: Collection[UUID], *, unconfirmed: bool = False) -> list[Subject]:
    """What is known of these accounts and passes.

    A pass that opens nothing is absent; one that is not confirmed is there as if it were, when asked for. An account about which nothing is
    known is there.
    """
    asked = list(subject_ids)
    passes = {row["pass_id"]: _pass(row) for row in await tx.fetch(_SELECT_PASSES, asked, unconfirmed)}
    homes = await list_homes(tx, asked)
    roles = await roles_of(tx, asked)
    credentials = {row["account_id"]: row for row in await tx.fetch(_SELECT_CREDENTIALS, asked)}
    other_passes = frozenset(await _find_passes(tx, asked)) - passes.keys()
    accounts = [
        _account(account_id, credentials.get(account_id), homes.get(account_id, []), roles[account_id])
        for account_id in dict.fromkeys(asked)
        if account_id not in passes and account_id not in other_passes
    ]
    return [*passes.values(), *accounts]


_FIND_PASSES = "SELECT pass_id FROM passes WHERE pass_id = ANY($1::uuid[])"


async def _find_passes(tx: Transaction, subject_ids: Iterable[UUID]) -> list[UUID]:
    return [row["pass_id"] for row in await tx.fetch(_FIND_PASSES, list(subject_ids))]


def _account(account_id: UUID, row: asyncpg.Record | None, lived_in: Iterable[Home], roles: frozenset[str]) -> Subject:
    homes = {home.household_id: home.building_id for home in lived_in}
    if row is None:
        return Subject(account_id, is_pass=False, homes=homes, roles=roles)
    return Subject(
        subject_id=account_id,
        is_pass=False,
        cards=frozenset(row["cards"] or ()),
        pins=frozenset(row["pins"] or ()),
        face=row["face"],
        template_id=row["template_id"],
        homes=homes,
        roles=roles,
    )


def _pass(row: asyncpg.Record) -> Subject:
    return Subject(
        subject_id=row["pass_id"],
        is_pass=True,
        homes={row["household_id"]: row["building_id"]} if row["building_id"] else {},
        zone_ids=frozenset(row["zone_ids"]),
        times=Times(valid_from=row["valid_from"], valid_until=row["valid_until"]),
        entries_max=row["entries_max"],
    )


# Everybody whom something may let in, and everything that opened something until lately.
_LIST_SUBJECTS = """
SELECT subject_id FROM (
    SELECT account_id AS subject_id FROM known_residents WHERE community_id = $1
    UNION SELECT account_id FROM known_staff WHERE community_id = $1 AND cardinality(roles) > 0
    UNION SELECT whom_id FROM access_rules WHERE community_id = $1 AND whom = 'account'
    UNION SELECT pass_id FROM passes WHERE community_id = $1 AND confirmed_at IS NOT NULL AND valid_until > $2
) AS known
WHERE $3::uuid IS NULL OR subject_id > $3 ORDER BY subject_id LIMIT $4
"""


async def list_subjects(tx: Transaction, after: UUID | None, limit: int) -> list[UUID]:
    """The community's accounts and passes that may have a way in or out, in the order of their ids."""
    return [row["subject_id"] for row in await tx.fetch(_LIST_SUBJECTS, tx.community_id, tx.now - LEAVING, after, limit)]


@dataclass(frozen=True, slots=True)
class Household:
    """Where a household lives, and who. Of one that is not known neither is."""

    building_id: UUID | None
    account_ids: frozenset[UUID]


_TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtextextended('access.people ' || $1, 0))"


async def take_turn(tx: Transaction, subject_id: UUID) -> None:
    """Waits until nobody else takes in news of this household or account; until the transaction ends nobody does."""
    await tx.execute(_TAKE_TURN, str(subject_id))


_FIND_HOUSEHOLD = """
SELECT building_id, array(SELECT account_id FROM known_residents WHERE known_residents.household_id = $1) AS account_ids
FROM known_households WHERE household_id = $1
"""


async def find_household(tx: Transaction, household_id: UUID) -> Household:
    """A household as it is known now."""
    row = await tx.fetchrow(_FIND_HOUSEHOLD, household_id)
    return Household(None, frozenset()) if row is None else Household(row["building_id"], frozenset(row["account_ids"]))
