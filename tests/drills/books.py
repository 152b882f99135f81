"""What must be true of a ledger after any drill."""

import asyncpg

from ledger.audit import audit


async def check_ledger(url: str) -> None:
    """Every invariant of the ledger holds in this database."""
    connection = await asyncpg.connect(url)
    try:
        broken = [finding async for finding in audit(connection) if finding.broken]
    finally:
        await connection.close()
    assert not broken, broken
