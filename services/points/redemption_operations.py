"""Redemptions: reserved by a resident, picked up with a code, cancelled, or expired.

A reservation is one pending transfer on the ledger, in points and in the item at once: whether both suffice is decided there and nowhere
else, so of all who want the last item with their last points, as many get one as there are.
"""

import secrets
from datetime import timedelta
from typing import Final
from uuid import UUID

import ledger
from ledger import Posting, Resolution, Transfer
from servicekit import households
from servicekit.database import Transaction
from servicekit.errors import Conflict, NotFound, ServiceError
from servicekit.identifiers import derived_id, new_id
from services.points import catalogue_store, holders, pool_operations, redemption_store, store
from services.points.catalogue_operations import handed_out_id, item_not_found, stock_id
from services.points.catalogue_store import Item
from services.points.holders import Holder
from services.points.notices import Notice, tell
from services.points.redemption_store import Redemption, RedemptionState
from services.points.rule_operations import no_rules, not_a_resident

_CODE_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CODE_LENGTH: Final = 16


async def redeem(tx: Transaction, item_id: UUID, quantity: int, household_id: UUID | None) -> Redemption:
    """Reserves some of an item for the caller, and holds its points until it is picked up.

    Raises NotFound for an item that is not listed or a household that is not the caller's, and Conflict for a caller who lives nowhere here
    or does not pool, an item that is not valid now or of which they have had enough, and when points or stock do not suffice.
    """
    turn = await holders.take_turn(tx, [tx.community_id])
    if not await households.is_resident(tx, tx.caller.account_id):
        raise not_a_resident()
    if household_id is not None:
        await pool_operations.check_may_spend(tx, household_id)
    item = await catalogue_store.find_item(tx, item_id)
    if item is None or not item.listed:
        raise item_not_found()
    await _check_offer(tx, item, quantity)
    redemption = await _reservation(tx, item, quantity, household_id)
    await _hold(turn, redemption)
    await redemption_store.insert_redemption(tx, redemption)
    name_zh, name_en = _names(redemption)
    zh, en = f"已预约{name_zh}，请凭取货码领取", f"{name_en} is reserved; show your code to pick it up"
    tell(tx, _notice(redemption, "points.reserved", zh, en))
    return redemption


async def _check_offer(tx: Transaction, item: Item, quantity: int) -> None:
    if not item.is_valid(tx.now):
        raise Conflict("points.item_not_valid", "该兑换品不在有效期内", "The item is not redeemed at this time")
    if item.per_resident_max:
        had = await redemption_store.count_had(tx, item.item_id, tx.caller.account_id)
        if had + quantity > item.per_resident_max:
            zh, en = f"每人限兑 {item.per_resident_max} 件", f"A resident redeems at most {item.per_resident_max} of it"
            raise Conflict("points.item_limit", zh, en)


async def _reservation(tx: Transaction, item: Item, quantity: int, household_id: UUID | None) -> Redemption:
    terms = await store.terms_at(tx, tx.now)
    if terms is None:
        raise no_rules()
    expires_at = tx.now + timedelta(hours=terms.hold_hours)
    return Redemption(
        redemption_id=new_id(),
        community_id=tx.community_id,
        item_id=item.item_id,
        name_zh=item.name_zh,
        name_en=item.name_en,
        pickup_place=item.pickup_place,
        account_id=tx.caller.account_id,
        household_id=household_id,
        quantity=quantity,
        points=item.points * quantity,
        state=RedemptionState.RESERVED,
        pickup_code="".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH)),
        reserved_at=tx.now,
        expires_at=expires_at if item.valid_until is None else min(expires_at, item.valid_until),
    )


async def _hold(turn: ledger.Turn, redemption: Redemption) -> None:
    payer = Holder(redemption.community_id, redemption.household_id or redemption.account_id)
    stock = stock_id(redemption.item_id)
    transfer = Transfer(
        redemption.redemption_id,
        redemption.community_id,
        "redemption",
        (
            Posting(payer.points_id, redemption.points),
            Posting(holders.redeemed_id(redemption.community_id), -redemption.points),
            Posting(stock, redemption.quantity),
            Posting(handed_out_id(redemption.item_id), -redemption.quantity),
        ),
        {
            "source_id": str(redemption.redemption_id),
            "text_zh": f"兑换{_names(redemption)[0]}",
            "text_en": f"Redeemed {_names(redemption)[1]}",
        },
        pending_until=redemption.expires_at,
    )
    (answer,) = await turn.apply([transfer])
    if not isinstance(answer, ServiceError):
        return
    # Somebody who never had points has no account yet.
    if answer.code not in ("ledger.insufficient", "ledger.account_not_found"):
        raise answer
    there = (await turn.balances([stock]))[stock].available
    if there < redemption.quantity:
        raise Conflict("points.out_of_stock", "库存不足", "There is not enough in stock", details={"stock": str(there)})
    raise insufficient()


async def confirm(tx: Transaction, pickup_code: str) -> Redemption:
    """Hands an item over: the caller, a clerk, has scanned its code, and the points are spent.

    Raises NotFound for a code that nobody here has, and Conflict when the reservation has ended or its time has passed.
    """
    turn = await holders.take_turn(tx, [tx.community_id])
    redemption = await redemption_store.find_by_code(tx, pickup_code)
    if redemption is None:
        raise NotFound("points.pickup_code_unknown", "取货码无效", "There is no reservation with this code")
    await _resolve(turn, redemption, is_posted=True)
    (ended,) = await redemption_store.end(tx, [redemption.redemption_id], RedemptionState.PICKED_UP)
    name_zh, name_en = _names(ended)
    zh, en = f"您已领取{name_zh}，使用 {ended.points} 积分", f"You picked up {name_en} for {ended.points} points"
    tell(tx, _notice(ended, "points.picked_up", zh, en))
    return ended


async def cancel(tx: Transaction, redemption_id: UUID) -> Redemption:
    """Gives the caller's reservation up. Raises NotFound, and Conflict when it has ended."""
    turn = await holders.take_turn(tx, [tx.community_id])
    redemption = await get_own(tx, redemption_id)
    await _resolve(turn, redemption, is_posted=False)
    (ended,) = await redemption_store.end(tx, [redemption_id], RedemptionState.CANCELLED)
    return ended


async def _resolve(turn: ledger.Turn, redemption: Redemption, *, is_posted: bool) -> None:
    if redemption.state is RedemptionState.PICKED_UP:
        raise Conflict("points.picked_up_already", "该兑换已领取", "It has been picked up already")
    if redemption.state is RedemptionState.CANCELLED:
        raise Conflict("points.reservation_cancelled", "该预约已取消", "The reservation was given up")
    resolution_id = derived_id("points.redemption", str(redemption.redemption_id), "posted" if is_posted else "voided")
    (answer,) = await turn.apply([Resolution(resolution_id, redemption.community_id, redemption.redemption_id, is_posted)])
    if isinstance(answer, ServiceError):
        if answer.code == "ledger.pending_expired":
            raise Conflict("points.reservation_expired", "预约已过期，积分已退回", "The reservation has expired; its points are free again")
        raise answer


async def expire_reservations(tx: Transaction) -> None:
    """Ends the reservations of all communities that nobody picked up in time, and tells who had them."""
    expired = [transfer.transfer_id for transfer in await ledger.expire_holds(tx, shards=holders.shards(tx))]
    for redemption in await redemption_store.end(tx, expired, RedemptionState.EXPIRED) if expired else ():
        name_zh, name_en = _names(redemption)
        zh, en = f"{name_zh}未按时领取，预约已过期，积分已退回", f"{name_en} was not picked up in time; its points are free again"
        tell(tx, _notice(redemption, "points.reservation_expired", zh, en))


async def get_own(tx: Transaction, redemption_id: UUID) -> Redemption:
    """One of the caller's redemptions. Raises NotFound."""
    redemption = await redemption_store.find_own(tx, redemption_id)
    if redemption is None:
        raise NotFound("points.redemption_not_found", "没有找到该兑换", "There is no such redemption")
    return redemption


def _names(redemption: Redemption) -> tuple[str, str]:
    """The item in Chinese and in English, with how many."""
    many = f" ×{redemption.quantity}" if redemption.quantity > 1 else ""
    return f"「{redemption.name_zh}」{many}", (redemption.name_en or redemption.name_zh) + many


def _notice(redemption: Redemption, kind: str, zh: str, en: str) -> Notice:
    link = f"/v1/me/points/redemptions/{redemption.redemption_id}"
    return Notice(redemption.community_id, redemption.account_id, kind, zh, en, link)


def insufficient() -> Conflict:
    """The error for a holder who does not have as many points."""
    return Conflict("points.insufficient", "积分不足", "There are not enough points")
