"""docs/settings.md, generated from the settings structs and the comments above their fields."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import msgspec

from console import catalog
from console.provisioning import OperatorSettings, SuperuserSettings
from servicekit.blobs import BlobSettings
from servicekit.config import PREFIX, ApiSettings, DatabaseSettings, NatsSettings, ProcessSettings
from servicekit.service import HttpSettings

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"
_INTRODUCTION = """# Settings

Generated from the code by `make settings`. A process reads its settings from the environment. What a service has for itself, such as
`LINLI_PARKING_DATABASE_URL`, may also be set for all services without the service's name. Secrets may come by files: `<NAME>_FILE` names
one that holds the value, and `LINLI_SECRETS_FOLDER` a folder of files that are called like their variables. The environment wins over
both. A value that is missing or wrong stops the start with its name.
"""


def render() -> str:
    """The document."""
    parts = [_INTRODUCTION, *_section("Every process", ProcessSettings, "")]
    services = catalog.find(["all"])
    parts += _section("Every service with a database", DatabaseSettings, "<SERVICE>")
    parts += _section("Every service", NatsSettings, "<SERVICE>")
    parts += _section("Every service with an API for others", ApiSettings, "<SERVICE>")
    served = ", ".join(service.name for service in services if service.http is not None)
    parts += _section(f"Every service that speaks HTTP ({served})", HttpSettings, "<SERVICE>")
    keepers = ", ".join(service.name for service in services if issubclass(service.settings, BlobSettings))
    parts += _section(f"Every service that keeps or serves files ({keepers})", BlobSettings, "")
    parts += ["## Where services find each other\n"]
    parts += [f"`{PREFIX}_<SERVICE>_ADDRESS` overrides `{PREFIX}_SERVICE_ADDRESS` for one service.\n"]
    for service in services:
        if msgspec.structs.fields(service.settings):
            parts += _section(service.name, service.settings, service.name.upper())
    parts += _section("`linli provision`", SuperuserSettings, "")
    parts += _section("`linli bootstrap` and `linli smoke`", OperatorSettings, "")
    return "\n".join(parts)


def _section(title: str, settings: type[msgspec.Struct], owner: str) -> Iterator[str]:
    comments, inherited = _comments(settings), {name for base in settings.__bases__ for name in getattr(base, "__struct_fields__", ())}
    yield f"## {title}\n"
    yield "| variable | default | |\n| --- | --- | --- |"
    for field in msgspec.structs.fields(settings):
        if field.name in inherited:
            continue
        name = "_".join(part for part in (PREFIX, owner, field.name.upper()) if part)
        default = "required" if field.required else f"`{field.default!r}`"
        yield f"| `{name}` | {default} | {comments.get(field.name, '').replace('|', chr(92) + '|')} |"
    yield ""


def _comments(settings: type[msgspec.Struct]) -> dict[str, str]:
    """The comment lines directly above each field."""
    found, pending = {}, []
    for line in inspect.getsource(settings).splitlines():
        text = line.strip()
        if text.startswith("#"):
            pending.append(text.removeprefix("#").strip())
        elif ":" in text and not text.startswith(("class ", '"""')):
            found[text.partition(":")[0].strip()] = " ".join(pending)
            pending = []
        else:
            pending = []
    return found


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
