"""Who is told which secret, how secrets are replaced, and how they come into Kubernetes."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from console import catalog
from console.kubernetes import INSTALLATION, complete, in_cluster, manifests
from console.main import main
from console.secrets import SECRETS, Postgres, Secrets, SecretsError, Sets, installation, kept_in, write_folders
from servicekit.commands import CommandKeys, CommandSigner
from servicekit.config import SECRETS_FOLDER, DatabaseSettings, NatsSettings, load
from servicekit.identifiers import new_id
from servicekit.sealing import SealBrokenError, data_keys
from servicekit.service import Service
from servicekit.signing import Signer
from tests.machine.secrets_api import Cluster, account, running

PHONE = "13800000000"
POSTGRES = Postgres("postgres.example", 5433, "sslmode=verify-full&sslrootcert=/run/tls/ca.crt")
# Required, and for everybody to see.
OPEN = {"LINLI_IDENTITY_CODE_SENDER": "development"}
SERVICES = catalog.find(["all"])
# The one secret that several services share.
TICKETS = "LINLI_BLOB_TICKET_KEY"


def make(known: Secrets) -> Sets:
    """The sets of an installation with a database server of its own."""
    return installation(known, POSTGRES, PHONE, with_superuser=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("secrets")
    write_folders(made, make(kept_in(made)))
    return made


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_starts_with_its_own_folder_and_nothing_else(service: Service, folder: Path) -> None:
    environment = {SECRETS_FOLDER: str(folder / service.name), **OPEN}
    load(service.settings, service.name, environment)
    assert load(NatsSettings, service.name, environment).nats_password
    if service.migrations:
        assert load(DatabaseSettings, service.name, environment).migration_url == ""


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_what_a_service_requires_is_in_no_other_folder(service: Service, folder: Path) -> None:
    prefix = f"LINLI_{service.name.upper()}_"
    required = {f"{prefix}{field.name.upper()}" for field in msgspec.structs.fields(service.settings) if field.required} - OPEN.keys()
    own = {path.name for path in (folder / service.name).iterdir()}
    assert required <= own
    assert all(name.startswith(prefix) for name in own - {TICKETS})
    elsewhere = {path.name for path in folder.glob("*/*") if path.parent.name not in (service.name, f"{service.name}-owner")}
    assert not [name for name in elsewhere if name.startswith(prefix)]


def test_no_secret_value_is_known_to_two_services(folder: Path) -> None:
    values: dict[str, list[str]] = {}
    for path in folder.glob("*/LINLI_*"):
        if path.name != TICKETS and not path.name.endswith(("_USER", "_PHONE")):
            values.setdefault(path.read_text(), []).append(path.name)
    assert [names for names in values.values() if len(names) > 1] == []


def test_ingest_and_the_doors_and_gates_know_who_signs(folder: Path) -> None:
    for service, key in (("parking", "GATE"), ("access", "DOOR")):
        signer = Signer((folder / service / f"LINLI_{service.upper()}_{key}_KEY").read_text())
        known = (folder / "ingest" / f"LINLI_INGEST_{key}_PUBLIC_KEY").read_text()
        assert base64.b64decode(known) == signer.public_key


def test_what_exists_stays_and_a_new_service_gets_what_it_lacks(tmp_path: Path) -> None:
    before = make(kept_in(tmp_path))
    stored = json.loads((tmp_path / SECRETS).read_text())
    lacking = {name: value for name, value in stored.items() if not name.startswith("waste")}
    (tmp_path / SECRETS).write_text(json.dumps(lacking))
    after = make(kept_in(tmp_path))
    assert {name for name in before if before[name] != after[name]} == {"waste", "waste-owner", "nats"}
    assert make(kept_in(tmp_path)) == after


def test_secrets_that_were_lost_are_not_made_anew_over_what_was_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "LINLI_IDENTITY_SMS_TOKEN").write_text("a person has put it there before")
    write_folders(tmp_path, make(kept_in(tmp_path)))
    kept = (tmp_path / SECRETS).read_text()
    (tmp_path / SECRETS).unlink()
    with pytest.raises(SecretsError, match="put it back"):
        kept_in(tmp_path)
    (tmp_path / SECRETS).write_text(kept)
    assert kept_in(tmp_path).values == json.loads(kept)


def test_a_password_is_replaced_at_once_everywhere_it_is(tmp_path: Path) -> None:
    known = kept_in(tmp_path)
    before = make(known)
    known.rotate("parking-nats")
    after = make(kept_in(tmp_path))
    assert {name for name in before if before[name] != after[name]} == {"parking", "nats"}
    assert after["parking"]["LINLI_PARKING_NATS_PASSWORD"] in after["nats"]["accounts.conf"]


def test_whoever_replaces_a_secret_need_not_say_again_where_the_database_is(tmp_path: Path) -> None:
    def told(*options: str) -> str:
        assert CliRunner().invoke(main, ["secrets", "--folder", str(tmp_path), *options]).exit_code == 0
        return (tmp_path / "parking" / "LINLI_PARKING_DATABASE_URL").read_text().partition("@")[2]

    assert told() == "127.0.0.1:5432/linli_parking"
    elsewhere = "db.example:6432/linli_parking?sslmode=verify-full"
    assert told("--postgres-host=db.example", "--postgres-port=6432", "--postgres-options=sslmode=verify-full") == elsewhere
    assert told("--rotate=parking-database") == told() == elsewhere
    assert told("--postgres-host=db.example") == "db.example:5432/linli_parking"


def test_a_data_key_is_known_everywhere_before_it_seals_and_the_old_one_still_opens() -> None:
    known = Secrets()

    def keys() -> str:
        return make(known)["identity"]["LINLI_IDENTITY_DATA_KEYS"]

    first = keys()
    known.rotate("identity-data")
    announced = keys()
    known.rotate("identity-data")
    used = keys()
    assert [part[:2] for part in announced.split(",")] == ["k1", "k2"]
    assert [part[:2] for part in used.split(",")] == ["k2", "k1"]
    # Processes of every two steps that follow each other read what the other has sealed.
    for sealing, opening in ((first, announced), (announced, first), (announced, used), (used, announced)):
        sealed = data_keys(sealing).seal(b"13800000011", "row")
        assert data_keys(opening).open(sealed, "row") == b"13800000011"
    with pytest.raises(SealBrokenError):  # without the step between them they would not
        data_keys(first).open(data_keys(used).seal(b"13800000011", "row"), "row")


def test_a_gate_key_is_known_to_ingest_before_parking_signs_with_it() -> None:
    known = Secrets()
    signer = make(known)["parking"]["LINLI_PARKING_GATE_KEY"]
    known.rotate("gate")
    announced = make(known)
    assert announced["parking"]["LINLI_PARKING_GATE_KEY"] == signer
    known.rotate("gate")
    used = make(known)
    known.rotate("gate")  # the key after that takes the place of the first
    assert make(known)["parking"] == used["parking"]
    with pytest.raises(SecretsError, match=r"nothing-like-it .*\bgate\b"):
        known.rotate("nothing-like-it")
    assert used["parking"]["LINLI_PARKING_GATE_KEY"] != signer
    for sets in (announced, used):
        verified = CommandKeys(sets["ingest"]["LINLI_INGEST_GATE_PUBLIC_KEY"])
        for key in (signer, used["parking"]["LINLI_PARKING_GATE_KEY"]):
            command = CommandSigner(Signer(key)).open(new_id(), "gate-1", 1, datetime.now(UTC))
            assert verified.read(command) is not None


def test_what_must_never_change_is_not_rotated() -> None:
    known = Secrets()
    make(known)
    for name in ("identity-index", "access-matching", "ingest-credentials", "nothing-like-it"):
        with pytest.raises(SecretsError, match=name):
            known.rotate(name)


def test_manifests_hold_every_set_and_the_installation(tmp_path: Path) -> None:
    known = Secrets()
    sets = make(known)
    documents = [json.loads(text) for text in manifests(known, sets).split("---\n") if text]
    by_name = {document["metadata"]["name"]: document["stringData"] for document in documents}
    assert by_name.keys() == {f"linli-{name}" for name in sets} | {INSTALLATION}
    assert by_name["linli-parking"] == sets["parking"]
    assert json.loads(by_name[INSTALLATION][SECRETS]) == known.values


# In Kubernetes.


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running() as started:
        yield started


def fill(cluster: Cluster, folder: Path, token: str = "") -> Sets:
    """What the Job does."""
    with in_cluster(account(folder, token) if token else account(folder), cluster.url) as api:
        return complete(api, make)


def stored(cluster: Cluster, name: str) -> dict[str, str]:
    """The values of a Secret."""
    return {key: base64.b64decode(value).decode() for key, value in cluster.secrets[name]["data"].items()}


def test_the_job_makes_every_secret_and_a_second_one_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    sets = fill(cluster, tmp_path)
    assert {name: stored(cluster, f"linli-{name}") for name in sets} == sets
    assert cluster.secrets.keys() == {f"linli-{name}" for name in sets} | {INSTALLATION}
    assert fill(cluster, tmp_path) == sets


def test_two_jobs_at_once_agree(cluster: Cluster, tmp_path: Path) -> None:
    assert _race(cluster, tmp_path)
    with running(checks_versions=False) as careless:
        fill(careless, tmp_path)
        assert not _race(careless, tmp_path)


def _race(cluster: Cluster, folder: Path) -> bool:
    """Two Jobs of one version, of which the second runs wholly while the first has read and not yet kept. Whether both told the same."""
    told: list[Sets] = []

    def slowly(known: Secrets) -> Sets:
        known.password("new-in-this-version")
        sets = {"new": {"password": known.password("new-in-this-version")}, **make(known)}
        if not told:
            told.append({})
            with in_cluster(account(folder), cluster.url) as api:
                told[0] = complete(api, slowly)
        return sets

    with in_cluster(account(folder), cluster.url) as api:
        told.append(complete(api, slowly))
    return told[0] == told[1]


def test_a_value_that_a_person_changed_is_not_overwritten_and_what_they_added_stays(cluster: Cluster, tmp_path: Path) -> None:
    fill(cluster, tmp_path)
    cluster.put("linli-identity", {"LINLI_IDENTITY_SMS_TOKEN": "dG9rZW4="}, "kubectl")
    fill(cluster, tmp_path)
    assert stored(cluster, "linli-identity")["LINLI_IDENTITY_SMS_TOKEN"] == "token"
    cluster.put("linli-identity", {"LINLI_IDENTITY_DATA_KEYS": "azI6"}, "kubectl")
    with pytest.raises(SecretsError, match=r"linli-identity was changed by others.*\.data\.LINLI_IDENTITY_DATA_KEYS"):
        fill(cluster, tmp_path)


def test_what_was_made_of_an_installation_that_cannot_be_read_or_was_removed_is_not_overwritten(cluster: Cluster, tmp_path: Path) -> None:
    sets = fill(cluster, tmp_path)
    kept = cluster.secrets[INSTALLATION]["data"]
    cluster.secrets[INSTALLATION]["data"] = {}
    with pytest.raises(SecretsError, match="put it back"):
        fill(cluster, tmp_path)
    del cluster.secrets[INSTALLATION]
    for _ in range(2):  # the Job is tried again
        with pytest.raises(SecretsError, match=f"another {INSTALLATION}"):
            fill(cluster, tmp_path)
    assert {name: stored(cluster, f"linli-{name}") for name in sets} == sets
    cluster.secrets[INSTALLATION]["data"] = kept
    assert fill(cluster, tmp_path) == sets


def test_a_job_without_the_right_says_so(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="403 secrets is forbidden"):
        fill(cluster, tmp_path, "another-token")
    with pytest.raises(SecretsError, match="no pod"), in_cluster(tmp_path / "nowhere"):
        pass
