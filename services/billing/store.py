"""All SQL of billing: each statement beside the one function that runs it, rows mapped at once to dataclasses."""

import uuid
from collections.abc import Sequence
from datetime import date, datetime, timedelta

import asyncpg
import msgspec

from servicekit.database import Transaction
from servicekit.identifiers import new_id
from servicekit.listing import Listing, one_of
from services.billing.charges import Charge, ChargeState
from services.billing.incidents import Incident
from services.billing.payments import DueRefund, Outcome, Payment, PaymentState, Refund
from services.billing.reconciliation import Difference, EntryKind, OurEntry, Reconciliation

# How long the timers leave a pending payment or refund alone: a quarter of its age, but within these bounds, and after a day the longest.
_PATIENCE_MIN = timedelta(seconds=2)
_PATIENCE_MAX = timedelta(minutes=1)
_PATIENCE_OLD = timedelta(hours=1)

_LOCK_IDS = "SELECT pg_advisory_xact_lock(hashtextextended('billing.charge ' || id, 0)) FROM unnest($1::text[]) AS id"


async def lock_charge_ids(tx: Transaction, ids: Sequence[uuid.UUID]) -> None:
    """Locks the ids of charges that may not exist yet, until the transaction ends."""
    # In one order, so that two charges which name each other cannot lock crosswise.
    await tx.execute(_LOCK_IDS, sorted(str(identifier) for identifier in ids))


_INSERT_CHARGE = """
INSERT INTO charges
    (charge_id, community_id, origin, origin_id, amount_fen, text_zh, text_en, state, payable_until, raised_at, replaces_charge_id)
VALUES ($1, $2, $3, $4, $5, $6, $7,
    CASE WHEN EXISTS (SELECT 1 FROM charges WHERE replaces_charge_id = $1) THEN 'cancelled' ELSE $8 END, $9, $10, $11)
ON CONFLICT DO NOTHING
"""


async def insert_charge(tx: Transaction, charge: Charge) -> None:
    """Writes a new charge: cancelled when its replacement is here already, untouched when it is here itself."""
    await tx.execute(
        _INSERT_CHARGE,
        charge.charge_id,
        tx.community_id,
        charge.origin,
        charge.origin_id,
        charge.amount_fen,
        charge.text_zh,
        charge.text_en,
        charge.state,
        charge.payable_until,
        charge.raised_at,
        charge.replaces_charge_id,
    )


_CANCEL_CHARGE = "UPDATE charges SET state = 'cancelled' WHERE charge_id = $1 AND state = 'due'"


async def cancel_charge(tx: Transaction, charge_id: uuid.UUID) -> None:
    """Cancels a charge that is still due."""
    await tx.execute(_CANCEL_CHARGE, charge_id)


def _charges(rest: str) -> str:
    return f"""
SELECT charge_id, origin, origin_id, amount_fen, text_zh, text_en, state, payable_until, raised_at, replaces_charge_id FROM charges
{rest}"""  # noqa: S608  # the rest is ours


_SELECT_CHARGE = _charges("WHERE charge_id = $1")
_LOCK_CHARGE = _charges("WHERE charge_id = $1 FOR UPDATE")
# Seen from outside, a due charge whose time has passed is cancelled.
_CHARGES = Listing(
    select=_charges(""),
    where="community_id = {}",
    filters={
        "due_at": "state = 'due' AND payable_until > {}",
        "cancelled_at": "state = 'cancelled' OR state = 'due' AND payable_until <= {}",
        "settled": one_of("state", (ChargeState.PAID, ChargeState.REFUNDED)),
        "origin_id": "origin_id = {}",
    },
    key=("raised_at", "charge_id"),
    descending=True,
)


async def charge(tx: Transaction, charge_id: uuid.UUID) -> Charge | None:
    """One charge."""
    row = await tx.fetchrow(_SELECT_CHARGE, charge_id)
    return None if row is None else _charge(row)


async def lock_charge(tx: Transaction, charge_id: uuid.UUID) -> Charge | None:
    """One charge, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_CHARGE, charge_id)
    return None if row is None else _charge(row)


async def list_charges(
    tx: Transaction, state: ChargeState | None, origin_id: str | None, after: tuple[datetime, uuid.UUID] | None, limit: int
) -> list[Charge]:
    """Charges, newest first, in the state that they show now."""
    shown: dict[str, object] = {"settled": state}
    if state in (ChargeState.DUE, ChargeState.CANCELLED):
        shown = {f"{state}_at": tx.now}
    return [_charge(row) for row in await _CHARGES.fetch(tx, [tx.community_id], after, limit, origin_id=origin_id, **shown)]


_SET_CHARGE_STATE = "UPDATE charges SET state = $2 WHERE charge_id = $1"


async def set_charge_state(tx: Transaction, charge_id: uuid.UUID, state: ChargeState) -> None:
    """Moves a charge, which the caller has locked, to another state."""
    await tx.execute(_SET_CHARGE_STATE, charge_id, state)


_INSERT_PAYMENT = """
INSERT INTO payments (payment_id, community_id, charge_id, provider, account_id, order_id, state, amount_fen, pay_url, created_at,
    expires_at, paid_at, provider_payment_id, next_query_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""


async def insert_payment(tx: Transaction, payment: Payment) -> None:
    """Writes a new payment."""
    await tx.execute(
        _INSERT_PAYMENT,
        payment.payment_id,
        payment.community_id,
        payment.charge_id,
        payment.provider,
        payment.account_id,
        payment.order_id,
        payment.state,
        payment.amount_fen,
        payment.pay_url,
        payment.created_at,
        payment.expires_at,
        payment.paid_at,
        payment.provider_payment_id,
        payment.created_at + _PATIENCE_MIN,
    )


def _payments(rest: str) -> str:
    return f"""
SELECT p.payment_id, p.community_id, p.charge_id, p.provider, p.account_id, p.order_id, p.state, p.amount_fen, p.pay_url, p.created_at,
    p.expires_at, p.paid_at, p.provider_payment_id, p.refunded_fen, c.text_zh, c.text_en
FROM payments p JOIN charges c USING (charge_id)
{rest}"""  # noqa: S608  # the rest is ours


_SELECT_PAYMENT = _payments("WHERE p.payment_id = $1")
_SELECT_OPEN_PAYMENT = _payments("WHERE p.charge_id = $1 AND p.provider = $2 AND p.account_id = $3 AND p.state = 'pending'")
_SELECT_TAKEN_PAYMENT = _payments("WHERE p.provider = $1 AND p.provider_payment_id = $2")
_SELECT_PAYMENTS = _payments("WHERE p.payment_id = ANY($1::uuid[])")
_PAYMENTS = Listing(
    select=_payments(""),
    where="p.community_id = {}",
    filters={"state": one_of("p.state", PaymentState), "account_id": "p.account_id = {}"},
    key=("p.payment_id",),
    descending=True,
)


async def payment(tx: Transaction, payment_id: uuid.UUID) -> Payment | None:
    """One payment."""
    row = await tx.fetchrow(_SELECT_PAYMENT, payment_id)
    return None if row is None else _payment(row)


async def open_payment(tx: Transaction, charge_id: uuid.UUID, provider: str, account_id: uuid.UUID) -> Payment | None:
    """The pending payment of a charge by this account at this provider."""
    row = await tx.fetchrow(_SELECT_OPEN_PAYMENT, charge_id, provider, account_id)
    return None if row is None else _payment(row)


async def taken_payment(tx: Transaction, provider: str, provider_payment_id: str) -> Payment | None:
    """The payment that this taking of money is."""
    row = await tx.fetchrow(_SELECT_TAKEN_PAYMENT, provider, provider_payment_id)
    return None if row is None else _payment(row)


async def list_payments(
    tx: Transaction, state: PaymentState | None, account_id: uuid.UUID | None, after: uuid.UUID | None, limit: int
) -> list[Payment]:
    """Payments, newest first, of one account when it is named."""
    rows = await _PAYMENTS.fetch(tx, [tx.community_id], after, limit, state=state, account_id=account_id)
    return [_payment(row) for row in rows]


_SET_PAY_URL = "UPDATE payments SET pay_url = $2 WHERE payment_id = $1 AND state = 'pending'"


async def set_pay_url(tx: Transaction, payment_id: uuid.UUID, pay_url: str) -> bool:
    """Stores where a pending payment is paid. False when it is not pending any more."""
    return await tx.execute(_SET_PAY_URL, payment_id, pay_url) == 1


_CLOSE_PAYMENT = "UPDATE payments SET state = 'closed' WHERE payment_id = $1 AND state = 'pending'"


async def close_payment(tx: Transaction, payment_id: uuid.UUID) -> bool:
    """Closes a pending payment; leaves any other as it is, and says False."""
    return await tx.execute(_CLOSE_PAYMENT, payment_id) == 1


_SET_TAKEN = "UPDATE payments SET state = $2, provider_payment_id = $3, paid_at = $4 WHERE payment_id = $1"


async def set_taken(tx: Transaction, payment_id: uuid.UUID, state: PaymentState, provider_payment_id: str, paid_at: datetime) -> None:
    """Says that the provider took the money of a payment."""
    await tx.execute(_SET_TAKEN, payment_id, state, provider_payment_id, paid_at)


_HURRY_QUERIES = "UPDATE payments SET next_query_at = $2 WHERE charge_id = $1 AND state = 'pending'"


async def hurry_queries(tx: Transaction, charge_id: uuid.UUID) -> None:
    """Lets the timer look at the open payments of a charge at once."""
    await tx.execute(_HURRY_QUERIES, charge_id, tx.now)


_CLAIM_PAYMENTS = """
UPDATE payments SET next_query_at = $1::timestamptz
    + CASE WHEN $1 - created_at > interval '1 day' THEN $5::interval
    ELSE least(greatest(($1 - created_at) / 4, $3::interval), $4::interval) END
WHERE payment_id IN (
    SELECT payment_id FROM payments WHERE state = 'pending' AND next_query_at <= $1
    ORDER BY next_query_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING payment_id
"""


async def claim_payments(tx: Transaction, limit: int) -> list[Payment]:
    """Pending payments whose time has come to be asked about; they are left alone for a while, by this process and all others."""
    rows = await tx.fetch(_CLAIM_PAYMENTS, tx.now, limit, _PATIENCE_MIN, _PATIENCE_MAX, _PATIENCE_OLD)
    return [_payment(row) for row in await tx.fetch(_SELECT_PAYMENTS, [row["payment_id"] for row in rows])]


_SELECT_COMMUNITY_OF_PAYMENT = "SELECT community_id FROM payments WHERE payment_id = $1 AND order_id = $1 AND provider = $2"
_SELECT_COMMUNITY_OF_REFUND = (
    "SELECT r.community_id FROM refunds r JOIN payments p USING (payment_id) WHERE r.refund_id = $1 AND p.provider = $2"
)


async def community_of(tx: Transaction, kind: EntryKind, provider: str, identifier: uuid.UUID) -> uuid.UUID | None:
    """The community of a payment or refund at a provider, in the platform scope."""
    sql = _SELECT_COMMUNITY_OF_PAYMENT if kind is EntryKind.PAYMENT else _SELECT_COMMUNITY_OF_REFUND
    found: uuid.UUID | None = await tx.fetchval(sql, identifier, provider)
    return found


_CLAIM_MONEY = """
UPDATE payments SET refund_claimed_fen = refund_claimed_fen + $2
WHERE payment_id = $1 AND state IN ('succeeded', 'returned') AND $2 <= amount_fen - refund_claimed_fen
"""
_INSERT_REFUND = """
INSERT INTO refunds (refund_id, community_id, payment_id, amount_fen, reason, state, created_at, next_attempt_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
"""


async def insert_refund(tx: Transaction, refund: Refund) -> bool:
    """Writes a new refund. False when its payment has not that much left to give back, or never brought any money."""
    if not await tx.execute(_CLAIM_MONEY, refund.payment_id, refund.amount_fen):
        return False
    await tx.execute(
        _INSERT_REFUND,
        refund.refund_id,
        tx.community_id,
        refund.payment_id,
        refund.amount_fen,
        refund.reason,
        refund.state,
        refund.created_at,
    )
    return True


def _refunds(rest: str) -> str:
    return f"SELECT refund_id, community_id, payment_id, amount_fen, reason, state, created_at, attempts FROM refunds\n{rest}"  # noqa: S608


_SELECT_REFUND = _refunds("WHERE refund_id = $1")
_SELECT_REFUNDS_OF_PAYMENT = _refunds("WHERE payment_id = $1 ORDER BY refund_id")
_SELECT_REFUNDS = _refunds("WHERE refund_id = ANY($1::uuid[])")


async def refund(tx: Transaction, refund_id: uuid.UUID) -> Refund | None:
    """One refund."""
    row = await tx.fetchrow(_SELECT_REFUND, refund_id)
    return None if row is None else _refund(row)


async def refunds_of(tx: Transaction, payment_id: uuid.UUID) -> list[Refund]:
    """The refunds of a payment, oldest first."""
    return [_refund(row) for row in await tx.fetch(_SELECT_REFUNDS_OF_PAYMENT, payment_id)]


_CLAIM_REFUNDS = """
UPDATE refunds SET attempts = attempts + 1, next_attempt_at = $1::timestamptz
    + CASE WHEN $1 - created_at > interval '1 day' THEN $5::interval
    ELSE least(greatest(($1 - created_at) / 4, $3::interval), $4::interval) END
WHERE refund_id IN (
    SELECT refund_id FROM refunds WHERE state = 'pending' AND next_attempt_at <= $1
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING refund_id
"""


async def claim_refunds(tx: Transaction, limit: int) -> list[DueRefund]:
    """Pending refunds whose time has come; they are left alone for a while, by this process and all others."""
    claimed = await tx.fetch(_CLAIM_REFUNDS, tx.now, limit, _PATIENCE_MIN, _PATIENCE_MAX, _PATIENCE_OLD)
    rows = await tx.fetch(_SELECT_REFUNDS, [row["refund_id"] for row in claimed])
    payments = {p.payment_id: p for p in map(_payment, await tx.fetch(_SELECT_PAYMENTS, [row["payment_id"] for row in rows]))}
    return [DueRefund(_refund(row), row["community_id"], payments[row["payment_id"]], row["attempts"] - 1) for row in rows]


_FINISH_REFUND = "UPDATE refunds SET state = $2, finished_at = $3 WHERE refund_id = $1 AND state = 'pending'"
_GIVE_MONEY = "UPDATE payments SET refunded_fen = refunded_fen + $2 WHERE payment_id = $1"
_KEEP_MONEY = "UPDATE payments SET refund_claimed_fen = refund_claimed_fen - $2 WHERE payment_id = $1"


async def finish_refund(tx: Transaction, refund: Refund, outcome: Outcome, finished_at: datetime) -> bool:
    """Ends a pending refund. False when it had ended already."""
    if not await tx.execute(_FINISH_REFUND, refund.refund_id, outcome, finished_at):
        return False
    await tx.execute(_GIVE_MONEY if outcome is Outcome.SUCCEEDED else _KEEP_MONEY, refund.payment_id, refund.amount_fen)
    return True


_SELECT_OUR_PAYMENTS = """
SELECT order_id, coalesce(provider_payment_id, '') AS transaction_id, amount_fen,
    coalesce(paid_at >= $2 AND paid_at < $3, false) AS expected
FROM payments WHERE provider = $1 AND ((paid_at >= $2 AND paid_at < $3) OR order_id = ANY($4::uuid[]))
"""
_SELECT_OUR_REFUNDS = """
SELECT r.refund_id, r.amount_fen, r.state, p.provider_payment_id AS transaction_id,
    r.state = 'succeeded' AND r.finished_at >= $2 AND r.finished_at < $3 AS expected
FROM refunds r JOIN payments p USING (payment_id)
WHERE p.provider = $1 AND ((r.state = 'succeeded' AND r.finished_at >= $2 AND r.finished_at < $3) OR r.refund_id = ANY($4::uuid[]))
"""


async def our_entries(tx: Transaction, provider: str, start: datetime, end: datetime, identifiers: Sequence[uuid.UUID]) -> list[OurEntry]:
    """Our books for the time from `start` until before `end`, and the orders and refunds that are named besides."""
    payments = await tx.fetch(_SELECT_OUR_PAYMENTS, provider, start, end, identifiers)
    refunds = await tx.fetch(_SELECT_OUR_REFUNDS, provider, start, end, identifiers)
    entries = [_payment_entry(row) for row in payments]
    entries += [_refund_entry(row) for row in refunds]
    return entries


_SELECT_OWNERS = """
SELECT order_id AS id, community_id FROM payments WHERE provider = $1 AND order_id = ANY($2::uuid[])
UNION
SELECT r.refund_id, r.community_id FROM refunds r JOIN payments p USING (payment_id) WHERE p.provider = $1 AND r.refund_id = ANY($2::uuid[])
"""


async def owners(tx: Transaction, provider: str, identifiers: Sequence[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
    """The communities of orders and refunds at a provider, as far as they exist in the transaction's scope."""
    return {row["id"]: row["community_id"] for row in await tx.fetch(_SELECT_OWNERS, provider, identifiers)}


_LOCK_DAY = "SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(' ', 'billing.day', $1::uuid, $2::text, $3::date), 0))"
_SELECT_LATER_RECONCILIATION = """
SELECT reconciliation_id, provider, day, matched, differences::text AS differences, run_at FROM reconciliations
WHERE provider = $1 AND day = $2 AND reconciliation_id > $3 ORDER BY reconciliation_id DESC LIMIT 1
"""


async def lock_reconciliation(tx: Transaction, provider: str, day: date, began: uuid.UUID) -> Reconciliation | None:
    """Locks a day of the community, until the transaction ends, for who began to reconcile it when the id `began` was made. Answers with
    what somebody else has kept since then."""
    await tx.execute(_LOCK_DAY, tx.community_id, provider, day)
    row = await tx.fetchrow(_SELECT_LATER_RECONCILIATION, provider, day, began)
    return None if row is None else _reconciliation(row)


_INSERT_RECONCILIATION = """
INSERT INTO reconciliations (reconciliation_id, community_id, provider, day, matched, differences, run_at)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
"""


async def insert_reconciliation(tx: Transaction, reconciliation: Reconciliation) -> None:
    """Keeps what came of a reconciliation."""
    await tx.execute(
        _INSERT_RECONCILIATION,
        reconciliation.reconciliation_id,
        tx.community_id,
        reconciliation.provider,
        reconciliation.day,
        reconciliation.matched,
        msgspec.json.encode(reconciliation.differences).decode(),
        reconciliation.run_at,
    )


_RECONCILIATIONS = Listing(
    select="SELECT reconciliation_id, provider, day, matched, differences::text AS differences, run_at FROM reconciliations",
    where="community_id = {}",
    key=("day", "reconciliation_id"),
    descending=True,
)


async def list_reconciliations(tx: Transaction, after: tuple[date, uuid.UUID] | None, limit: int) -> list[Reconciliation]:
    """Reconciliations, newest day first."""
    return [_reconciliation(row) for row in await _RECONCILIATIONS.fetch(tx, [tx.community_id], after, limit)]


_IS_RECONCILED = "SELECT EXISTS (SELECT 1 FROM reconciliations WHERE provider = $1 AND day = $2)"


async def is_reconciled(tx: Transaction, provider: str, day: date) -> bool:
    """Whether a day of the transaction's community was compared with this provider's file."""
    return bool(await tx.fetchval(_IS_RECONCILED, provider, day))


_INSERT_INCIDENT = """
INSERT INTO incidents
    (incident_id, community_id, provider, kind, reference, transaction_id, our_amount_fen, provider_amount_fen, noted_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING
"""


async def insert_incident(tx: Transaction, community_id: uuid.UUID, incident: Incident) -> bool:
    """Writes down an incident. False when it was written down before."""
    written = await tx.execute(
        _INSERT_INCIDENT,
        new_id(),
        community_id,
        incident.provider,
        incident.kind,
        incident.reference,
        incident.transaction_id,
        incident.our_amount_fen,
        incident.provider_amount_fen,
        tx.now,
    )
    return written == 1


def _charge(row: asyncpg.Record) -> Charge:
    return Charge(**{**dict(row), "state": ChargeState(row["state"])})


def _payment(row: asyncpg.Record) -> Payment:
    values = dict(row)
    text_zh, text_en = values.pop("text_zh"), values.pop("text_en")
    return Payment(**{**values, "state": PaymentState(row["state"]), "text": text_zh or text_en})


def _refund(row: asyncpg.Record) -> Refund:
    return Refund(row["refund_id"], row["payment_id"], row["amount_fen"], row["reason"], Outcome(row["state"]), row["created_at"])


def _payment_entry(row: asyncpg.Record) -> OurEntry:
    outcome = Outcome.SUCCEEDED if row["transaction_id"] else Outcome.PENDING
    return OurEntry(EntryKind.PAYMENT, row["order_id"].hex, row["transaction_id"], row["amount_fen"], outcome, row["expected"])


def _refund_entry(row: asyncpg.Record) -> OurEntry:
    outcome = Outcome(row["state"])
    return OurEntry(EntryKind.REFUND, row["refund_id"].hex, row["transaction_id"], row["amount_fen"], outcome, row["expected"])


def _reconciliation(row: asyncpg.Record) -> Reconciliation:
    differences = msgspec.json.decode(row["differences"], type=list[Difference])
    return Reconciliation(row["reconciliation_id"], row["provider"], row["day"], row["matched"], differences, row["run_at"])
