"""The SQL of the rules for alarms that communities set."""

import json
from uuid import UUID

from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from services.access.alarm_rules import Rule, Rulebook
from services.access.alarms import Severity
from services.access.windows import packed, unpacked

_UPSERT_RULE = """
INSERT INTO alarm_rules AS rule (
    alarm_rule_id, community_id, kind, zone_id, enabled, severity, window_s, confidence_min_permille, windows, work_order_category,
    escalate_after_s, set_by, set_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (community_id, kind, zone_id) DO UPDATE SET enabled = excluded.enabled, severity = excluded.severity,
    window_s = excluded.window_s, confidence_min_permille = excluded.confidence_min_permille, windows = excluded.windows,
    work_order_category = excluded.work_order_category, escalate_after_s = excluded.escalate_after_s, set_by = excluded.set_by,
    set_at = excluded.set_at
"""
_LIST_RULES = """
SELECT kind, zone_id, enabled, severity, window_s, confidence_min_permille, windows, work_order_category, escalate_after_s
FROM alarm_rules WHERE community_id = $1
"""


async def set_rule(tx: Transaction, alarm_rule_id: UUID, rule: Rule) -> None:
    """Sets the caller's rule for a kind, everywhere or in one zone."""
    windows = json.dumps(packed(rule.windows))
    row = (rule.kind, rule.zone_id, rule.enabled, rule.severity, rule.window_s, rule.confidence_min_permille, windows)
    last = (rule.work_order_category, rule.escalate_after_s, tx.caller.account_id, tx.now)
    await tx.execute(_UPSERT_RULE, alarm_rule_id, tx.community_id, *row, *last)


async def list_rules(tx: Transaction) -> list[Rule]:
    """The rules that somebody in the community has set."""
    return [
        Rule(
            kind=row["kind"],
            zone_id=row["zone_id"],
            enabled=row["enabled"],
            severity=Severity(row["severity"]),
            window_s=row["window_s"],
            confidence_min_permille=row["confidence_min_permille"],
            windows=unpacked(json.loads(row["windows"])),
            work_order_category=row["work_order_category"],
            escalate_after_s=row["escalate_after_s"],
            customised=True,
        )
        for row in await tx.fetch(_LIST_RULES, tx.community_id)
    ]


async def load_rulebook(tx: Transaction) -> Rulebook:
    """The rules in force in the transaction's community."""
    return Rulebook(await list_rules(tx), await find_time_zone(tx))
