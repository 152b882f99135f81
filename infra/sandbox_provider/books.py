"""The sandbox provider's books in one SQLite file: orders, takings, refunds, and notifications that are not delivered yet.

Each public method is one transaction. Refusals are raised as `Refusal` with the code that the protocol answers with.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Asia/Shanghai")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    out_trade_no TEXT PRIMARY KEY, page TEXT NOT NULL UNIQUE, content TEXT NOT NULL, amount_fen INTEGER NOT NULL, description TEXT NOT NULL,
    attach TEXT NOT NULL, time_expire TEXT NOT NULL, notify_url TEXT NOT NULL, closed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS takings (
    transaction_id TEXT PRIMARY KEY, out_trade_no TEXT NOT NULL REFERENCES orders, amount_fen INTEGER NOT NULL, success_time TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS takings_of_order ON takings (out_trade_no);
CREATE INDEX IF NOT EXISTS takings_of_day ON takings (success_time);
CREATE TABLE IF NOT EXISTS refunds (
    out_refund_no TEXT PRIMARY KEY, refund_id TEXT NOT NULL, content TEXT NOT NULL, transaction_id TEXT NOT NULL REFERENCES takings,
    amount_fen INTEGER NOT NULL, abnormal INTEGER NOT NULL, success_time TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS refunds_of_taking ON refunds (transaction_id);
CREATE INDEX IF NOT EXISTS refunds_of_day ON refunds (success_time);
CREATE TABLE IF NOT EXISTS notifications (
    notification_id INTEGER PRIMARY KEY, url TEXT NOT NULL, body BLOB NOT NULL, unsigned INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS notifications_due ON notifications (next_at);
"""


class Refusal(Exception):
    """The answer is no. `status` is the HTTP status, `code` the protocol's word."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """What a merchant wants paid, in fen. `page` is the secret part of its pay_url."""

    out_trade_no: str
    page: str
    amount_fen: int
    description: str
    attach: str
    time_expire: datetime
    notify_url: str
    closed: bool


@dataclass(frozen=True, slots=True)
class Taking:
    """Money that was taken for an order."""

    transaction_id: str
    out_trade_no: str
    amount_fen: int
    success_time: datetime


@dataclass(frozen=True, slots=True)
class Refund:
    """Money on its way back; it has arrived, or come to nothing, at `success_time`."""

    out_refund_no: str
    refund_id: str
    transaction_id: str
    amount_fen: int
    abnormal: bool
    success_time: datetime

    def state(self, now: datetime) -> str:
        """The protocol's word for how far it is."""
        if now < self.success_time:
            return "PROCESSING"
        return "ABNORMAL" if self.abnormal else "SUCCESS"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification that is to be delivered. `unsigned` ones carry a wrong signature."""

    notification_id: int
    url: str
    body: bytes
    unsigned: bool
    attempts: int


class Books:
    """The books in one file, used from one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        # Every commit outlives the process; only a power cut may lose the last ones.
        self._connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _one(self, sql: str, *arguments: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute(sql, arguments).fetchone()
        return row

    def order(self, out_trade_no: str) -> Order:
        """An order by the merchant's number. Raises Refusal."""
        return self._order("SELECT * FROM orders WHERE out_trade_no = ?", out_trade_no)

    def order_of_page(self, page: str) -> Order:
        """An order by its page. Raises Refusal."""
        return self._order("SELECT * FROM orders WHERE page = ?", page)

    def _order(self, sql: str, key: str) -> Order:
        row = self._one(sql, key)
        if row is None:
            raise Refusal(404, "ORDER_NOT_EXIST")
        values = {name: row[name] for name in row.keys() if name != "content"}  # noqa: SIM118  # a row iterates over its values
        values |= {"time_expire": datetime.fromisoformat(row["time_expire"]), "closed": bool(row["closed"])}
        return Order(**values)

    def takings(self, out_trade_no: str) -> list[Taking]:
        """What was taken for an order."""
        rows = self._connection.execute("SELECT * FROM takings WHERE out_trade_no = ? ORDER BY rowid", (out_trade_no,))
        return [_taking(row) for row in rows]

    def put_order(
        self, out_trade_no: str, amount_fen: int, description: str, attach: str, time_expire: datetime, notify_url: str, now: datetime
    ) -> Order:
        """Takes an order, or finds it when it is the same. Raises Refusal for another content, and when it is paid or closed."""
        expiry = time_expire.astimezone(UTC).isoformat()
        content = json.dumps([amount_fen, description, attach, expiry, notify_url])
        with self._transaction() as connection:
            row = self._one("SELECT content FROM orders WHERE out_trade_no = ?", out_trade_no)
            if row is None:
                connection.execute(
                    "INSERT INTO orders (out_trade_no, page, content, amount_fen, description, attach, time_expire, notify_url)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (out_trade_no, secrets.token_urlsafe(18), content, amount_fen, description, attach, expiry, notify_url),
                )
            elif row["content"] != content:
                raise Refusal(409, "OUT_TRADE_NO_USED")
            return self._open_order(self.order(out_trade_no), now)

    def _open_order(self, order: Order, now: datetime) -> Order:
        if self.takings(order.out_trade_no):
            raise Refusal(409, "ORDER_PAID")
        if order.closed or now >= order.time_expire:
            raise Refusal(409, "ORDER_CLOSED")
        return order

    def close_order(self, out_trade_no: str) -> None:
        """Closes an order. Raises Refusal when there is none, or it is paid."""
        with self._transaction() as connection:
            order = self.order(out_trade_no)
            if self.takings(out_trade_no):
                raise Refusal(409, "ORDER_PAID")
            connection.execute("UPDATE orders SET closed = 1 WHERE out_trade_no = ?", (order.out_trade_no,))

    def pay(self, page: str, now: datetime, *, times: int) -> tuple[Order, list[Taking]]:
        """Takes the money for an order, more than once only by mistake. Raises Refusal when it cannot be paid."""
        with self._transaction() as connection:
            order = self._open_order(self.order_of_page(page), now)
            for _ in range(times):
                connection.execute(
                    "INSERT INTO takings (transaction_id, out_trade_no, amount_fen, success_time) VALUES (?, ?, ?, ?)",
                    (_number("42"), order.out_trade_no, order.amount_fen, now.astimezone(UTC).isoformat()),
                )
            return order, self.takings(order.out_trade_no)

    def refund(self, out_refund_no: str) -> Refund:
        """A refund. Raises Refusal."""
        row = self._one("SELECT * FROM refunds WHERE out_refund_no = ?", out_refund_no)
        if row is None:
            raise Refusal(404, "REFUND_NOT_EXIST")
        return _refund(row)

    def put_refund(
        self, out_refund_no: str, out_trade_no: str, transaction_id: str, amount_fen: int, success_time: datetime, *, abnormal: bool
    ) -> tuple[Refund, bool]:
        """Gives money back, or finds the refund when it is the same; says whether it is new. Raises Refusal."""
        content = json.dumps([out_trade_no, transaction_id, amount_fen])
        with self._transaction() as connection:
            row = self._one("SELECT * FROM refunds WHERE out_refund_no = ?", out_refund_no)
            if row is not None:
                if row["content"] != content:
                    raise Refusal(409, "OUT_REFUND_NO_USED")
                return _refund(row), False
            taking = self._one("SELECT * FROM takings WHERE transaction_id = ? AND out_trade_no = ?", transaction_id, out_trade_no)
            if taking is None:
                raise Refusal(404, "TRANSACTION_NOT_EXIST")
            given = self._one("SELECT total(amount_fen) AS fen FROM refunds WHERE transaction_id = ? AND NOT abnormal", transaction_id)
            assert given is not None
            if int(given["fen"]) + amount_fen > taking["amount_fen"]:
                raise Refusal(409, "NOT_ENOUGH")
            connection.execute(
                "INSERT INTO refunds (out_refund_no, refund_id, content, transaction_id, amount_fen, abnormal, success_time)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (out_refund_no, _number("50"), content, transaction_id, amount_fen, abnormal, success_time.astimezone(UTC).isoformat()),
            )
            return self.refund(out_refund_no), True

    def bill(self, day: date, now: datetime) -> list[list[str]]:
        """The lines of a day's reconciliation file without its merchant: kind, reference, transaction, amount, state, time, attach."""
        start = datetime.combine(day, time(), ZONE)
        bounds = (start.astimezone(UTC).isoformat(), (start + timedelta(days=1)).astimezone(UTC).isoformat())
        payments = self._connection.execute(
            "SELECT t.*, o.attach FROM takings t JOIN orders o USING (out_trade_no)"
            " WHERE t.success_time >= ? AND t.success_time < ? ORDER BY t.success_time",
            bounds,
        )
        lines = [
            ["payment", row["out_trade_no"], row["transaction_id"], str(row["amount_fen"]), "SUCCESS", _local(row), row["attach"]]
            for row in payments
        ]
        refunds = self._connection.execute(
            "SELECT r.*, o.attach FROM refunds r JOIN takings t USING (transaction_id) JOIN orders o USING (out_trade_no)"
            " WHERE r.success_time >= ? AND r.success_time < ? ORDER BY r.success_time",
            bounds,
        )
        for row in refunds:
            state = _refund(row).state(now)
            lines.append(["refund", row["out_refund_no"], row["transaction_id"], str(row["amount_fen"]), state, _local(row), row["attach"]])
        return lines

    def put_notification(self, url: str, body: bytes, next_at: float, *, unsigned: bool) -> None:
        """Keeps a notification until it is delivered. Times are seconds since 1970, infinity for one that is held back."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO notifications (url, body, unsigned, next_at) VALUES (?, ?, ?, ?)", (url, body, unsigned, next_at)
            )

    def held_notifications(self) -> list[int]:
        """Those that are held back, oldest first."""
        rows = self._connection.execute("SELECT notification_id FROM notifications WHERE next_at = 9e999 ORDER BY notification_id")
        return [row["notification_id"] for row in rows]

    def due_notifications(self, now: float, limit: int) -> list[Delivery]:
        """Those whose time has come."""
        rows = self._connection.execute("SELECT * FROM notifications WHERE next_at <= ? ORDER BY next_at LIMIT ?", (now, limit))
        return [Delivery(r["notification_id"], r["url"], r["body"], bool(r["unsigned"]), r["attempts"]) for r in rows]

    def next_notification_at(self) -> float:
        """When the next one is due; infinity when none is."""
        row = self._one("SELECT min(next_at) AS next_at FROM notifications")
        return float("inf") if row is None or row["next_at"] is None else float(row["next_at"])

    def postpone_notification(self, notification_id: int, next_at: float, attempts: int) -> None:
        """Says when a notification is sent next."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE notifications SET next_at = ?, attempts = ? WHERE notification_id = ?", (next_at, attempts, notification_id)
            )

    def drop_notification(self, notification_id: int) -> None:
        """Forgets a notification that was delivered, or given up."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM notifications WHERE notification_id = ?", (notification_id,))


def _number(prefix: str) -> str:
    return prefix + "".join(secrets.choice("0123456789") for _ in range(26))


def _taking(row: sqlite3.Row) -> Taking:
    return Taking(row["transaction_id"], row["out_trade_no"], row["amount_fen"], datetime.fromisoformat(row["success_time"]))


def _refund(row: sqlite3.Row) -> Refund:
    at = datetime.fromisoformat(row["success_time"])
    return Refund(row["out_refund_no"], row["refund_id"], row["transaction_id"], row["amount_fen"], bool(row["abnormal"]), at)


def _local(row: sqlite3.Row) -> str:
    return datetime.fromisoformat(row["success_time"]).astimezone(ZONE).isoformat()
