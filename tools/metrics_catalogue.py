"""docs/metrics.md, generated from what is declared: every metric with its labels and what it says."""

from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from console import catalog

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "metrics.md"
PREFIX: Final = "linli_"
_HEAD: Final = """# Metrics

Generated from the declarations by `make metrics`. Every process shows its own at `/metrics` of its operations address. How to read them
is told in [observability](observability.md).

| metric | kind | labels | what it says |
| --- | --- | --- | --- |
"""


def declared() -> list[Collector]:
    """The metrics of the runtime and of all services, by name."""
    catalog.find(["all"])
    collectors = [each for each in set(REGISTRY._collector_to_names) if getattr(each, "_name", "").startswith(PREFIX)]
    return sorted(collectors, key=lambda each: str(getattr(each, "_name", "")))


def labels_of(metric: Collector) -> tuple[str, ...]:
    """The names of a metric's labels."""
    found: tuple[str, ...] = getattr(metric, "_labelnames", ())
    return found


def render() -> str:
    """The document."""
    lines = []
    for metric in declared():
        (family,) = metric.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in labels_of(metric))
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n")
    return _HEAD + "".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
