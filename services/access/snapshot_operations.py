"""Keeps what each terminal is to know up with the facts. Whoever changes facts of a subject says so here, in the same transaction.

How it is sent to terminals is in `syncing.py`.
"""

import json
from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

from servicekit.commands import next_counter
from servicekit.database import Transaction
from servicekit.identifiers import parse_id
from servicekit.timers import Due, set_timers
from services.access import entry_store, snapshot_store
from services.access.entries import Entry, entries_of
from services.access.snapshot_store import Row
from services.access.snapshots import entry_of, entry_text, is_narrower

REFRESH: Final = "access_refresh"
# Subjects that one transaction looks at. Of a community with fifty terminals they are five thousand entries, for which everybody else who
# changes something there waits a tenth of a second, and so does everybody at any door while they are compared.
_AT_ONCE: Final = 100


async def refresh(tx: Transaction, subject_ids: Iterable[UUID]) -> dict[str, int]:
    """Works out anew what terminals are to know of these accounts and passes.

    Returns the new versions of the terminals for which something changed. Call it after the facts are written: from here on until the end
    of the transaction nobody else's change of the community's facts is taken in, so that none is overlooked.
    """
    asked = sorted(set(subject_ids))
    if not asked:
        return {}
    await snapshot_store.take_turn(tx)
    site = await entry_store.load_site(tx)
    wanted = {
        (device_id, subject.subject_id): entry
        for subject in await entry_store.load_subjects(tx, asked)
        for device_id, entry in entries_of(subject, site, tx.now).items()
    }
    known = await snapshot_store.find_entries(tx, asked)
    texts = {id(entry): entry_text(entry) for entry in {id(each): each for each in wanted.values()}.values()}
    changes: list[tuple[Row, bool]] = []
    for key in sorted(wanted.keys() | known.keys()):
        before, entry = known.get(key), wanted.get(key)
        after = None if entry is None else texts[id(entry)]
        if before != after:
            changes.append((Row(*key, after, entry is not None and entry.face), _is_narrower(before, entry)))
    if not changes:
        return {}
    versions = await snapshot_store.raise_versions(tx, {row.device_id for row, _ in changes})
    await snapshot_store.write_entries(tx, changes, versions)
    return versions


def _is_narrower(before: str | None, after: Entry | None) -> bool:
    if before is None:
        return False
    return after is None or is_narrower(entry_of(json.loads(before)), after)


async def refresh_all(tx: Transaction, device_ids: Collection[str] = (), *, cleared: Collection[str] = ()) -> None:
    """Works out anew what terminals are to know of everybody, a part of them at a time, from when the transaction has committed.

    `device_ids` are terminals whose door changed, or that were placed or taken away: they hear of that at once. Those of them that
    are `cleared` know nobody until they are worked out anew; for that the transaction has the community's turn.
    """
    if device_ids:
        versions = await snapshot_store.raise_versions(tx, device_ids)
        await snapshot_store.clear(tx, {device_id: versions[device_id] for device_id in cleared})
    await set_timers(tx, [Due(REFRESH, tx.community_id, "", tx.now)])


async def distrust_terminals(tx: Transaction) -> None:
    """Has every terminal take everything anew: after a restore it may know more than we do, under versions that we give out again."""
    await snapshot_store.renew_versions(tx, next_counter(0, tx.now))


async def refresh_more(tx: Transaction, due: Due) -> None:
    """Goes on with everybody behind the subject that the timer names."""
    after = parse_id(due.name)
    listed = await entry_store.list_subjects(tx, after, _AT_ONCE)
    known = await snapshot_store.list_known(tx, after, _AT_ONCE)
    # Those whom nothing may let in any more are known to terminals only.
    subject_ids = sorted({*listed, *known})[:_AT_ONCE]
    await refresh(tx, subject_ids)
    if len(subject_ids) == _AT_ONCE:
        await set_timers(tx, [Due(REFRESH, tx.community_id, str(subject_ids[-1]), tx.now)])
