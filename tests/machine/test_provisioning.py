"""Commands that make and migrate databases, when what they are told is wrong."""

from typing import Any

import pytest
from typer.testing import CliRunner

from console.main import main

OWN = {"LINLI_WASTE_DATABASE_URL": "postgresql://linli_waste:hush@127.0.0.1:1/linli_waste"}
OWN |= {"LINLI_WASTE_MIGRATION_URL": "postgresql://linli_waste_owner:hush@127.0.0.1:1/linli_waste"}
IDENTITY = {"LINLI_OPERATOR_PHONE": "13800000000", "LINLI_OPERATOR_PASSWORD": "hush", "LINLI_IDENTITY_CODE_SENDER": "http"}
IDENTITY |= {"LINLI_IDENTITY_INDEX_KEY": "A" * 43 + "=", "LINLI_IDENTITY_DATA_KEYS": "k1:" + "A" * 43 + "="}
# What comes of a password whose slash was not escaped.
BROKEN = "postgresql://linli:hu/sh@127.0.0.1/linli"


@pytest.mark.parametrize(
    ("command", "told", "named"),
    [
        ("provision waste", {**OWN, "LINLI_POSTGRES_URL": BROKEN}, "waste"),
        ("provision waste", {**OWN, "LINLI_POSTGRES_URL": "postgresql://postgres:hush@127.0.0.1:1/"}, "waste"),
        ("provision waste", {**OWN, "LINLI_POSTGRES_URL": "x", "LINLI_WASTE_DATABASE_URL": BROKEN}, "LINLI_WASTE_DATABASE_URL"),
        (
            "provision waste",
            {**OWN, "LINLI_POSTGRES_URL": "x", "LINLI_WASTE_MIGRATION_URL": "postgresql://[hush"},
            "LINLI_WASTE_MIGRATION_URL",
        ),
        ("migrate waste", {"LINLI_WASTE_MIGRATION_URL": BROKEN}, "waste"),
        ("bootstrap", {**IDENTITY, "LINLI_IDENTITY_DATABASE_URL": BROKEN}, "identity"),
        ("deadletters list waste", {"LINLI_WASTE_DATABASE_URL": BROKEN}, "waste"),
        ("ledger audit billing", {"LINLI_BILLING_DATABASE_URL": BROKEN}, "billing"),
    ],
)
def test_an_address_that_will_not_do_is_named_and_nothing_of_its_password_is_shown(command: str, told: dict[str, str], named: str) -> None:
    result: Any = CliRunner().invoke(main, command.split(), env=told)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "it ends with a traceback"
    assert named in result.output
    assert "hu" not in result.output
