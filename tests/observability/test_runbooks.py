"""Runbooks: one for each alert, in one form, with commands and queries that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from console import catalog
from console.main import main
from tests.observability.promql import RULES, labels_of
from tools.dashboards import ROOT

_FOLDER = ROOT / "docs" / "runbooks"
_BOOKS = sorted(path for path in _FOLDER.glob("*.md") if path.name != "README.md")
_HEADINGS = [
    "## Symptom",
    "## What it means for residents",
    "## Cause, the likely first",
    "## First command",
    "## What to do",
    "## Over when",
]
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
# A command of ours in a line of a shell, perhaps in a pod or behind variables, or in running text.
_COMMAND = re.compile(r"(?:^|-- |[A-Z_]+=\S+ )(linli [^|\n]+)|`(linli [^`]+)`", re.MULTILINE)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _blocks(path: Path, language: str) -> Iterator[str]:
    for found, body in _BLOCK.findall(_text(path)):
        if found == language:
            yield "\n".join(line.strip() for line in body.splitlines())


def _commands() -> Iterator[tuple[str, str]]:
    for path in [*_BOOKS, _FOLDER / "README.md"]:
        shell = "\n".join(_blocks(path, "sh"))
        prose = _BLOCK.sub("", _text(path))
        for text in (shell, prose):
            yield from ((path.name, (match[1] or match[2]).strip()) for match in _COMMAND.finditer(text) if match[2] or text is shell)


def _refused(command: str) -> str:
    """What the command line has against a command or its options; nothing when it knows them. Nothing is run."""
    answer = CliRunner().invoke(main, [*shlex.split(command)[1:], "--help"])
    return answer.output if answer.exit_code else ""


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    alerts = {
        rule["alert"] for path in RULES for group in yaml.safe_load(_text(path))["groups"] for rule in group["rules"] if "alert" in rule
    }

    assert {path.stem for path in _BOOKS} == alerts


@pytest.mark.parametrize("path", _BOOKS, ids=lambda path: path.stem)
def test_a_runbook_goes_from_what_is_seen_to_what_says_that_it_is_over(path: Path) -> None:
    text = _text(path)

    assert text.startswith(f"# {path.stem}\n")
    assert re.findall(r"^## .*$", text, re.MULTILINE) == _HEADINGS
    parts = dict(zip(_HEADINGS, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True))
    assert all(part.strip() for part in parts.values())
    assert "```" in parts["## First command"], "the first command is one that can be run"
    assert "```" in parts["## Over when"], "what says that it is over can be run too"


def test_queries_in_runbooks_ask_for_what_is_measured() -> None:
    for path in _BOOKS:
        for query in _blocks(path, "promql"):
            try:
                labels_of(query)
            except (AssertionError, ValueError) as error:
                raise AssertionError(f"{path.name}: {error}: {query}") from error


def test_commands_in_runbooks_exist_with_these_options() -> None:
    commands = list(_commands())
    wrong = [f"{book}: {command}: {refused}" for book, command in commands if (refused := _refused(command))]

    assert not wrong, "\n".join(wrong)
    assert {"linli deadletters list parking", "linli deadletters replay parking", "linli health"} <= {command for _, command in commands}


@pytest.mark.parametrize("command", ["linli mend parking", "linli deadletters bury parking", "linli deadletters list parking --loudly"])
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    assert _refused(command)


def test_deployments_in_runbooks_are_those_of_services() -> None:
    text = "\n".join(_text(path) for path in _BOOKS)

    assert set(re.findall(r"deploy/linli-(\w+)", text)) <= set(catalog.SERVICES)


def test_links_in_runbooks_lead_somewhere() -> None:
    for path in [*_BOOKS, _FOLDER / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", _text(path)):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
