"""The methods of linli.points.v1.PointsService about what residents have: points, entries, statements."""

import asyncio
from functools import partial
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody

import ledger
from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.errors import Invalid
from servicekit.paging import ListRequest, page
from servicekit.rpc import MESSAGE_BYTES_MAX, Call, outside_transaction
from servicekit.times import to_day, to_timestamp
from services.points import pool_store, statement_operations
from services.points.holders import Holder
from services.points.statement import as_csv
from services.points.statement_pdf import as_pdf

# What of an answer is not the statement.
_ENVELOPE_BYTES = 1024


async def get_my_points(tx: Transaction, _request: pb.GetMyPointsRequest) -> pb.Points:
    """The caller's points; a guest has none."""
    return await _points(tx, tx.caller.account_id)


async def get_resident_points(tx: Transaction, request: pb.GetResidentPointsRequest) -> pb.Points:
    """A resident's points, for the counter."""
    account_id = UUID(request.account_id)
    await statement_operations.check_resident(tx, account_id)
    return await _points(tx, account_id)


async def _points(tx: Transaction, account_id: UUID) -> pb.Points:
    standing = await statement_operations.find_standing(tx, account_id)
    return pb.Points(
        account_id=str(account_id),
        points=standing.points,
        held=standing.held,
        owed=standing.owed,
        expiring=standing.expiring,
        expires_at=to_timestamp(standing.expires_at),
        pooling=account_id in await pool_store.find_pools(tx, [account_id]),
    )


async def list_my_entries(tx: Transaction, request: pb.ListMyEntriesRequest) -> pb.ListEntriesResponse:
    """The caller's entries, newest first."""
    return await list_entries(tx, tx.caller.account_id, request)


async def list_resident_entries(tx: Transaction, request: pb.ListResidentEntriesRequest) -> pb.ListEntriesResponse:
    """A resident's entries, newest first, for the counter."""
    account_id = UUID(request.account_id)
    await statement_operations.check_resident(tx, account_id)
    return await list_entries(tx, account_id, request)


async def list_entries(tx: Transaction, holder_id: UUID, request: ListRequest) -> pb.ListEntriesResponse:
    """A holder's entries, newest first."""
    fetch = partial(ledger.entries, tx, Holder(tx.community_id, holder_id).points_id)
    entries, token = await page(request, int, fetch, lambda entry: entry.version)
    return pb.ListEntriesResponse(entries=[_entry(entry) for entry in entries], next_page_token=token)


def _entry(entry: ledger.Entry) -> pb.Entry:
    details = entry.details
    return pb.Entry(
        number=entry.version,
        transfer_id=str(entry.transfer_id),
        change=entry.change,
        previous_points=entry.previous_balance,
        points=entry.balance,
        kind=entry.kind,
        rule_id=str(details.get("rule_id", "")),
        rules_version=int(details.get("rules_version", 0)),
        source_id=str(details.get("source_id", "")),
        text_zh=str(details.get("text_zh", "")),
        text_en=str(details.get("text_en", "")),
        occurred_at=to_timestamp(entry.occurred_at),
        recorded_at=to_timestamp(entry.recorded_at),
    )


@outside_transaction
async def download_my_statement(call: Call, request: pb.DownloadMyStatementRequest) -> HttpBody:
    """The caller's statement of a period. Writing it out is work for the processor, so it is done in a thread, with no transaction open."""
    from_day, until_day = to_day(request.from_day, "from_day"), to_day(request.until_day, "until_day")
    async with call.transaction() as tx:
        statement = await statement_operations.make_statement(tx, call.caller.account_id, from_day, until_day)
    if request.format == pb.STATEMENT_FORMAT_PDF:
        content_type, data = "application/pdf", await asyncio.to_thread(as_pdf, statement)
    else:
        content_type, data = "text/csv; charset=utf-8", await asyncio.to_thread(as_csv, statement)
    if len(data) > MESSAGE_BYTES_MAX - _ENVELOPE_BYTES:
        raise Invalid("points.statement_too_long", "期间内的记录过多，请缩短期间", "The period has too many entries; ask for a shorter one")
    return HttpBody(content_type=content_type, data=data)
