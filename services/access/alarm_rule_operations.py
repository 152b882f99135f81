"""What can be done with the rules for alarms."""

from typing import Final

from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid
from servicekit.identifiers import new_id
from services.access import alarm_rule_store
from services.access.alarm_rules import ALWAYS_ARMED, Rule
from services.access.door_operations import check_zones

# A community's rules are read together with every batch of observations.
RULES_MAX: Final = 500


async def set_rule(tx: Transaction, rule: Rule) -> Rule:
    """Sets what becomes of a kind of observation, everywhere or in one zone.

    Raises NotFound for a zone that is not there, Invalid for a rule that would disarm what must stay armed, and Conflict for one too many.
    """
    if rule.kind in ALWAYS_ARMED and (not rule.enabled or rule.windows or rule.confidence_min_permille):
        field = FieldViolation("kind", "access.alarm_rule_armed", "fire, calls for help and care are always armed")
        raise Invalid("access.alarm_rule_armed", "火警、求助和关怀告警须始终启用", "This kind is always armed", fields=[field])
    if rule.zone_id is not None:
        await check_zones(tx, [rule.zone_id])
    own = {(each.kind, each.zone_id) for each in await alarm_rule_store.list_rules(tx)}
    if len(own | {(rule.kind, rule.zone_id)}) > RULES_MAX:
        raise Conflict("access.alarm_rules_many", "告警规则数量已达上限", "There are too many rules for alarms")
    await alarm_rule_store.set_rule(tx, new_id(), rule)
    return rule
