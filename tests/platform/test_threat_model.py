"""The threat model covers what the services declare, says something of each kind of threat, and names only tests that exist."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from console import catalog
from servicekit.blobs import BlobSettings
from servicekit.service import Service

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "threat-model.md"
ACCEPTED = "Accepted risks and what is missing"
STRIDE = set("STRIDE")
# Ways that no service declares.
ALWAYS = {("commands", "operators"), ("operations", "every process"), ("backups", "operators"), ("image", "the release")}

Way = tuple[str, str]


@dataclass(slots=True)
class Arrow:
    """One way into the platform or between its parts, and its rows: letter, threat, mitigation, what shows it."""

    title: str
    declared: set[Way] = field(default_factory=set)
    rows: list[Sequence[str]] = field(default_factory=list)


@dataclass(slots=True)
class Model:
    """The document."""

    arrows: list[Arrow]
    accepted: set[str]


def read(text: str) -> Model:
    model = Model([], set())
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if line.startswith("### "):
            model.arrows.append(Arrow(line.removeprefix("### ")))
        elif line.startswith("Declared: "):
            kind, _, names = line.removeprefix("Declared: ").rstrip(".").partition(" of ")
            model.arrows[-1].declared |= {(kind, name) for name in names.split(", ")}
        elif cells and re.fullmatch(r"A\d+", cells[0]):
            model.accepted.add(cells[0])
        elif cells and cells[0] in STRIDE:
            model.arrows[-1].rows.append(cells)
    return model


def declared(services: Sequence[Service]) -> Iterator[Way]:
    """The ways that come of the declarations."""
    yield from ALWAYS
    for service in services:
        subjects = [subject.split(".")[0] for subject in (*service.nats_publishes, *service.nats_subscribes)]
        ways = {
            "http": service.http is not None,
            "api": service.api is not None,
            "keys": "identity" in service.peers,
            "mqtt": "devices" in subjects,
            "nats": True,  # Each process has a connection for each of its services.
            "database": bool(service.migrations),
            "blobs": issubclass(service.settings, BlobSettings),
            "outside": service.outside,
        }
        yield from ((kind, service.name) for kind, is_there in ways.items() if is_there)


@cache
def _tests_of(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_relative_to(ROOT / "tests") or not path.is_file():
        return frozenset()
    functions = (
        node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def problems(text: str, services: Sequence[Service]) -> list[str]:
    """What is wrong with the document."""
    model, found = read(text), []
    covered = [way for arrow in model.arrows for way in arrow.declared]
    wanted = set(declared(services))
    found += [f"no arrow is for {kind} of {name}" for kind, name in sorted(wanted - set(covered))]
    found += [f"nothing declares {kind} of {name}" for kind, name in sorted(set(covered) - wanted)]
    found += [f"two arrows are for {kind} of {name}" for kind, name in sorted({way for way in covered if covered.count(way) > 1})]
    for arrow in model.arrows:
        if not arrow.declared:
            found.append(f"{arrow.title}: it does not say what is declared")
        if missing := STRIDE - {row[0] for row in arrow.rows}:
            found.append(f"{arrow.title}: nothing is said of {', '.join(sorted(missing))}")
        found += [f"{arrow.title}: {problem}" for row in arrow.rows for problem in _problems_of(row, model.accepted)]
    mentioned = set(re.findall(r"\bA\d+\b", text.partition(f"## {ACCEPTED}")[0]))
    found += [f"nothing leads to {risk}" for risk in sorted(model.accepted - mentioned)]
    found += [f"{risk} is not among the accepted risks" for risk in sorted(mentioned - model.accepted)]
    return found


def _problems_of(row: Sequence[str], accepted: set[str]) -> Iterator[str]:
    if len(row) != 4 or not all(row):
        yield f"a row of {row[0]} has no four cells: {row}"
        return
    named = re.findall(r"`([^`]+)`", row[3])
    for test in named:
        file, _, name = test.partition("::")
        if name not in _tests_of(file):
            yield f"there is no test {test}"
    risks = re.findall(r"\[(A\d+)\]", row[3])
    if not named and not accepted.intersection(risks):
        yield f"no test shows and no accepted risk admits: {row[1]}"


def test_every_way_that_is_declared_has_its_threats_its_defences_and_tests_that_exist() -> None:
    assert problems(DOCUMENT.read_text(encoding="utf-8"), catalog.find(["all"])) == []


def test_the_check_sees_what_is_missing() -> None:
    text, services = DOCUMENT.read_text(encoding="utf-8"), catalog.find(["all"])
    a_test = "tests/drills/test_commands.py::test_the_drill_fails_without_one_of_the_defences"
    spoilt = {
        "no arrow is for http of insights": (text, [*services, Service(name="insights", http=lambda _running: None)]),  # type: ignore[arg-type, return-value]
        "no arrow is for outside of billing": (text.replace("Declared: outside of billing.", ""), services),
        "nothing declares database of gateway": (text.replace("database of access", "database of gateway, access"), services),
        f"there is no test {a_test}_any_more": (text.replace(a_test, f"{a_test}_any_more"), services),
        "there is no test tests/nowhere.py::test_it": (text.replace(a_test, "tests/nowhere.py::test_it"), services),
        "nothing is said of R": (re.sub(r"\| R \|.*\n", "", text), services),
        "no test shows and no accepted risk admits": (text.replace("[A7](#accepted", "[A99](#accepted"), services),
        "nothing leads to A99": (f"{text}| A99 | a risk | a reason | an end |\n", services),
    }
    for problem, (document, declarations) in spoilt.items():
        assert any(problem in each for each in problems(document, declarations)), problem
