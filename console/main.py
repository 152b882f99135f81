"""The command line: one function for each command. What a command does is in the module beside it that it calls."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from console import catalog
from servicekit.config import SettingsError

main = typer.Typer(
    help="Linli 邻里: the open backend of a smart residential community.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
deadletters = typer.Typer(help="Events that could not be handled: look at them, and hand them out again.", no_args_is_help=True)
outbox = typer.Typer(help="Published events: hand them out again after the broker lost them.", no_args_is_help=True)
ledgers = typer.Typer(help="Ledgers: prove that they are sound.", no_args_is_help=True)
main.add_typer(deadletters, name="deadletters")
main.add_typer(outbox, name="outbox")
main.add_typer(ledgers, name="ledger")

Services = Annotated[list[str], typer.Argument(help=f"{', '.join(catalog.SERVICES)}, or all")]
ServiceName = Annotated[str, typer.Argument(help="The service whose database it is")]
Folder = Annotated[Path, typer.Option("--data", help="Where data, secrets and logs are kept")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free port")]
DEFAULT_FOLDER = Path(".linli")


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # where it has no wheel, asyncio's own loop does the same, slower
        asyncio.run(work)
    else:
        uvloop.run(work)


def _fail(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(1)


@main.command()
def serve(services: Services) -> None:
    """Run services in this process until SIGTERM. Settings come from LINLI_* variables; see docs/settings.md."""
    from servicekit.config import ProcessSettings, load
    from servicekit.service import serve as run_services

    try:
        _run(run_services(catalog.find(services), load(ProcessSettings)))
    except (SettingsError, catalog.UnknownServiceError, OSError) as error:
        _fail(str(error))


@main.command()
def migrate(services: Services) -> None:
    """Bring the databases of services up to date, with the owners' addresses in LINLI_<SERVICE>_MIGRATION_URL."""
    from console import databases

    try:
        _run(databases.migrate(catalog.find(services)))
    except (SettingsError, catalog.UnknownServiceError, databases.DatabaseError) as error:
        _fail(str(error))


@deadletters.command("list")
def list_dead_letters(service: ServiceName, data: Folder = DEFAULT_FOLDER, every: Annotated[bool, typer.Option("--all")] = False) -> None:
    """Show what waits for a person, oldest first; with --all what was replayed too."""
    from console import databases

    _on_database(databases.list_dead_letters(service, every=every), data)


@deadletters.command("replay")
def replay_dead_letters(
    service: ServiceName,
    identifiers: Annotated[list[str] | None, typer.Argument(help="Which; without any, all that wait")] = None,
    data: Folder = DEFAULT_FOLDER,
) -> None:
    """Publish dead letters again. Consumers that have handled them already do nothing."""
    from console import databases

    _on_database(databases.replay_dead_letters(service, identifiers or []), data)


@outbox.command("replay")
def replay_outbox(
    service: ServiceName,
    since: Annotated[datetime, typer.Option(help="UTC, such as 2026-01-05T08:00:00")],
    data: Folder = DEFAULT_FOLDER,
) -> None:
    """Publish everything again that a service published since an instant. Consumers that have handled it already do nothing."""
    from console import databases

    _on_database(databases.replay_outbox(service, since), data)


@ledgers.command("audit")
def audit_ledger(service: ServiceName, data: Folder = DEFAULT_FOLDER) -> None:
    """Check on the live database what must always hold of a ledger, and name the first rows that break it. Exits with 1 if any does."""
    from console import databases

    _on_database(databases.audit_ledger(service), data)


# A group of one command still has its name.
@ledgers.callback()
def _ledgers() -> None: ...


def _on_database(work: Coroutine[Any, Any, None], folder: Path) -> None:
    from console import databases
    from console.environment import stored_environment
    from servicekit.errors import ServiceError

    os.environ.update({key: value for key, value in stored_environment(folder).items() if key not in os.environ})
    try:
        _run(work)
    except (SettingsError, catalog.UnknownServiceError, databases.DatabaseError, ServiceError, OSError) as error:
        _fail(str(error))


@main.command()
def up(
    data: Folder = DEFAULT_FOLDER,
    gateway_port: Port = catalog.HTTP_PORTS["gateway"],
    ingest_port: Port = catalog.HTTP_PORTS["ingest"],
    postgres_port: Port = 0,
    nats_port: Port = 0,
    mqtt_port: Port = 0,
    simulator: Annotated[bool, typer.Option(help="Simulated cameras, gates, doors, bins, people and sensors")] = True,
    separate: Annotated[bool, typer.Option("--separate", help="One process for each service instead of one for all")] = False,
) -> None:
    """Start everything on this machine: PostgreSQL, NATS, all services, a demonstration community and simulated devices."""
    from console.up import Options, UpError, run
    from infra.local.process import LocalServerError

    options = Options(
        folder=data.absolute(),
        gateway_port=gateway_port,
        ingest_port=ingest_port,
        postgres_port=postgres_port,
        nats_port=nats_port,
        mqtt_port=mqtt_port,
        simulator=simulator,
        separate=separate,
    )
    try:
        _run(run(options))
    except (UpError, LocalServerError, OSError) as error:
        _fail(f"{error}\n`linli doctor` explains what may be wrong.")


@main.command()
def reset(data: Folder = DEFAULT_FOLDER) -> None:
    """Forget everything that `linli up` stored."""
    from console.up import UpError, forget

    try:
        forget(data.absolute())
    except (UpError, OSError) as error:
        _fail(str(error))


@main.command()
def doctor(data: Folder = DEFAULT_FOLDER) -> None:
    """Explain what keeps `linli up` from starting: ports, disk, permissions, versions."""
    from infra.local.doctor import diagnose

    findings = diagnose(data.absolute(), catalog.HTTP_PORTS)
    for finding in findings:
        typer.echo(f"{'ok   ' if finding.ok else 'WRONG'} {finding.name}: {finding.detail}")
        if not finding.ok:
            typer.echo(f"      {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@main.command()
def simulate(
    data: Folder = DEFAULT_FOLDER,
    cars_per_minute: Annotated[int, typer.Option(min=0, max=600)] = 30,
    deposits_per_minute: Annotated[int, typer.Option(min=0, max=600)] = 12,
    passages_per_minute: Annotated[int, typer.Option(min=0, max=600)] = 20,
    orders_per_hour: Annotated[int, typer.Option(min=0, max=3600)] = 60,
    minutes: Annotated[float, typer.Option(help="0 runs until it is stopped")] = 0,
) -> None:
    """Let people come and go, drive, bring waste and have things repaired in the demonstration community, over the devices' own protocols.
    Prints what happens as JSON lines.
    """
    from console.simulator.day import Pace
    from console.simulator.day import simulate as run_simulator

    pace = Pace(
        cars_per_minute=cars_per_minute,
        deposits_per_minute=deposits_per_minute,
        passages_per_minute=passages_per_minute,
        orders_per_hour=orders_per_hour,
        minutes=minutes,
    )
    try:
        _run(run_simulator(data.absolute(), pace))
    except FileNotFoundError as error:
        _fail(f"{error.filename} does not exist: `linli up` makes the demonstration community")
    except OSError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(0)


@main.command()
def otp(phone: str, data: Folder = DEFAULT_FOLDER) -> None:
    """Print the newest one-time code that the development sender sent to a phone."""
    from console.environment import newest_code

    code = newest_code(data.absolute(), phone)
    if code is None:
        _fail(f"no code was sent to {phone} lately")
    typer.echo(code)


if __name__ == "__main__":
    main()
