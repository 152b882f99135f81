"""The methods of linli.points.v1.PointsService, each in the module of its noun."""

from services.points.catalogue_rpc import adjust_stock, create_item, get_item, list_items, update_item
from services.points.earning_rpc import confirm_contributions, correct_earning, report_travel
from services.points.gift_rpc import gift_points
from services.points.grant_rpc import approve_grant, grant_points, grant_points_in_batch, list_grants, reject_grant
from services.points.leaderboard_rpc import get_leaderboard, update_my_points_preferences
from services.points.pool_rpc import get_household_points, list_household_entries, set_pooling
from services.points.redemption_rpc import (
    cancel_redemption,
    confirm_redemption,
    get_my_redemption,
    list_my_redemptions,
    list_redemptions,
    redeem,
)
from services.points.rule_rpc import get_rules, list_rule_books, publish_rules
from services.points.statement_rpc import download_my_statement, get_my_points, get_resident_points, list_my_entries, list_resident_entries

__all__ = [
    "adjust_stock",
    "approve_grant",
    "cancel_redemption",
    "confirm_contributions",
    "confirm_redemption",
    "correct_earning",
    "create_item",
    "download_my_statement",
    "get_household_points",
    "get_item",
    "get_leaderboard",
    "get_my_points",
    "get_my_redemption",
    "get_resident_points",
    "get_rules",
    "gift_points",
    "grant_points",
    "grant_points_in_batch",
    "list_grants",
    "list_household_entries",
    "list_items",
    "list_my_entries",
    "list_my_redemptions",
    "list_redemptions",
    "list_resident_entries",
    "list_rule_books",
    "publish_rules",
    "redeem",
    "reject_grant",
    "report_travel",
    "set_pooling",
    "update_item",
    "update_my_points_preferences",
]
