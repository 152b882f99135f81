"""What the Dockerfile promises whoever runs the image. What any Dockerfile should keep to is hadolint's, in `make check`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra" / "image" / "Dockerfile").read_text()
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY\b|_SEED\b")


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction in capitals, and its arguments on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    words = [line.split(None, 1) for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()]
    return [(name.upper(), rest.strip()) for name, rest in words]


def problems(text: str) -> Iterator[str]:
    """How a Dockerfile breaks the rules of this house."""
    found = instructions(text)
    users = [value for name, value in found if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        yield "runs as root, or as a user whose number Kubernetes cannot see"
    for name, value in found:
        command = re.sub(r"^(--\S+\s+)*(CMD\s+)?", "", value)
        if name in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK") and not _is_exec_form(command):
            yield f"{name} needs a shell"
        if name == "RUN" and "--network=none" not in value:
            yield "RUN may use the network"
        if name == "FROM" and not value.startswith("${"):
            yield "FROM names an image that a releaser cannot choose and pin"
        if name == "ADD":
            yield "ADD may fetch and unpack what nobody has checked"
        if name in ("ARG", "ENV") and _SECRET.search(value):
            yield f"{name} holds a secret, which everybody who has the image reads"
    for name in ("HEALTHCHECK", "ENTRYPOINT"):
        if name not in dict(found):
            yield f"there is no {name}"


def _is_exec_form(command: str) -> bool:
    try:
        return isinstance(json.loads(command), list)
    except ValueError:
        return False


def test_the_image_needs_no_root_no_shell_no_network_and_holds_no_secret() -> None:
    assert list(problems(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001", "USER linli"),
        ('ENTRYPOINT ["/linli/bin/linli"]', "ENTRYPOINT linli"),
        ('CMD ["/linli/bin/linli", "health"]', "CMD curl localhost"),
        ("RUN --network=none", "RUN"),
        ("FROM ${BASE}", "FROM python:latest"),
        ("ARG REVISION", "ARG INDEX_PASSWORD"),
        ("COPY --from=build /linli /linli", "ADD https://example.com/linli.tar.gz /linli"),
    ],
)
def test_a_dockerfile_that_breaks_a_rule_is_found_out(good: str, bad: str) -> None:
    assert good in DOCKERFILE
    assert list(problems(DOCKERFILE.replace(good, bad))) != []


def test_only_wheels_the_lock_and_the_installer_enter_the_build() -> None:
    entries = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert entries == ["*", "!dist/wheels", "!infra/image/install.py", "!requirements-services.lock"]
