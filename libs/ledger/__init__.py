"""A double-entry ledger on PostgreSQL: accounts, transfers, holds, at the speed of group commit. Knows no service.

A service that keeps one lists `MIGRATIONS` before its own. `turn.py` is where everything is written, `writer.py` writes for many callers at
once, `reading.py` answers questions, `audit.py` proves what must always hold.
"""

from pathlib import Path
from typing import Final

from ledger.reading import Statement, balance, balance_at, balances, entries, expired_holds, find_transfer, statement
from ledger.reading_store import Entry
from ledger.store import TurnLost
from ledger.transfers import Account, Balance, Posting, Receipt, Resolution, Side, State, StoredTransfer, Transfer
from ledger.turn import Turn, expire_holds, take_turn
from ledger.writer import Writer

MIGRATIONS: Final = Path(__file__).parent / "migrations"

__all__ = [
    "MIGRATIONS",
    "Account",
    "Balance",
    "Entry",
    "Posting",
    "Receipt",
    "Resolution",
    "Side",
    "State",
    "Statement",
    "StoredTransfer",
    "Transfer",
    "Turn",
    "TurnLost",
    "Writer",
    "balance",
    "balance_at",
    "balances",
    "entries",
    "expire_holds",
    "expired_holds",
    "find_transfer",
    "statement",
    "take_turn",
]
