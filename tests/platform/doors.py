"""How a community of a test comes by doors and passages, care and alarms: through HTTP, and through what its devices say."""

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from linli.access.v1 import access_pb2
from linli.device.v1 import events_pb2 as device
from services.access.journal import BEGINNING
from services.ingest import observing
from tests.platform.endpoints import leaves
from tests.platform.orders import PICTURE
from tests.support import eventually

if TYPE_CHECKING:
    from tests.platform.neighbourhood import Community

EVERY_KIND = [name for name in device.CredentialKind.keys() if name != "CREDENTIAL_KIND_UNSPECIFIED"]  # noqa: SIM118
# Needs no person, so no rule makes a work order of it.
_QUIET_KIND = "loitering"


async def furnish(community: "Community") -> None:
    """The manager has passed a door, consents have texts, the household cares for somebody, and a camera has seen an intruder."""
    await community.do("access.CreateZone", kind="ZONE_KIND_COMMUNITY")
    await community.do("access.CreateDoor", credential_kinds=EVERY_KIND, anti_passback="ANTI_PASSBACK_OFF")
    terminal = (await community.new_device("DEVICE_KIND_TERMINAL"))["device"]["device_id"]
    await community.do("access.AddTerminal", device_id=terminal, direction="DIRECTION_IN")
    await _pass(community, terminal)
    for kind in access_pb2.ConsentKind.values()[1:]:
        await community.do("access.PublishConsentText", kind=access_pb2.ConsentKind.Name(kind))
    await community.do("access.StartCare", **await for_care(community))
    camera = new_camera(community)
    await community.do("access.CreateWatchPoint", source_id=camera, kind="WATCH_POINT_KIND_CAMERA")
    alarm_id = await _observe(community, camera, kind="intrusion", pictures=[base64.b64encode(PICTURE).decode()])
    # Waste has alarms, too.
    community.words.ids["alarm_id"] = alarm_id

    async def is_an_order() -> bool:
        return bool((await community.do("access.GetAlarm", alarm_id=alarm_id))["work_order_id"])

    await eventually(is_an_order, "somebody is sent to the intruder")


async def _pass(community: "Community", terminal: str) -> None:
    """The manager shows a code, is let in, and the terminal's journal says so."""
    await community.at_last("access.OpenMyDoor", {"door_id": community.words.ids["door_id"]})
    code = (await community.do("access.CreateMyCode"))["code"]
    shown = device.CredentialPresented(device_id=terminal, presentation_id="p1", kind=device.CREDENTIAL_KIND_CODE, value=code)
    shown.received_at.GetCurrentTime()
    await community.publish(shown)
    await eventually(lambda: _has_passed(community, "PASSAGE_OUTCOME_REQUESTED"), "the door is to open")
    record = {"sequence": 1, "kind": "opened", "at": datetime.now(UTC).isoformat(), "presentation": "p1"}
    journal = device.JournalUploaded(device_id=terminal, first_sequence=1, previous_hash=BEGINNING, records=[json.dumps(record)])
    journal.received_at.GetCurrentTime()
    await community.publish(journal)
    await eventually(lambda: _has_passed(community, "PASSAGE_OUTCOME_OPENED"), "the door has opened")
    (at_door,) = (await community.do("access.ListTerminals"))["terminals"]
    report = device.TerminalReported(device_id=terminal, snapshot_version=int(at_door["wanted_version"]), journal_sequence=1)
    report.occurred_at.GetCurrentTime()
    report.received_at.GetCurrentTime()
    await community.publish(report)

    async def has_reported() -> bool:
        (heard,) = (await community.do("access.ListTerminals"))["terminals"]
        return bool(heard["confirmed_version"] == at_door["wanted_version"])

    await eventually(has_reported, "the terminal has confirmed what it knows")


async def _has_passed(community: "Community", outcome: str) -> bool:
    passages = (await community.do("access.ListPassages", outcome=outcome))["passages"]
    return any(passage["credential_kind"] == "CREDENTIAL_KIND_CODE" for passage in passages)


async def newest_text(community: "Community", kind: str) -> int:
    """The version of the newest text of a consent."""
    texts = (await community.do("access.ListConsentTexts"))["texts"]
    return next(int(text["version"]) for text in texts if text["kind"] == kind)


async def newcomer(community: "Community") -> str:
    """Somebody who has just moved in with the manager, and consented to nothing. Returns their account."""
    household = await community.do("identity.AddMember")
    return str(dict(leaves(household))["account_id"])


async def consent(community: "Community", kind: str, account_id: str) -> str:
    """The manager consents, for themselves or somebody of the household, as soon as access has heard of them. Returns the consent's id."""
    values = {"kind": kind, "text_version": await newest_text(community, kind), "account_id": account_id}
    return str((await community.at_last("access.GiveConsent", values))["consent_id"])


async def for_care(community: "Community") -> dict[str, Any]:
    """What care for somebody needs: their consent, and a sensor."""
    account_id = await newcomer(community)
    await consent(community, "CONSENT_KIND_CARE_ACTIVITY", account_id)
    sensor = (await community.new_device("DEVICE_KIND_SENSOR"))["device"]["device_id"]
    return {"kind": "CARE_KIND_ACTIVITY", "account_id": account_id, "source_ids": [sensor]}


async def new_alarm(community: "Community") -> str:
    """An alarm that nobody has taken. Returns its id."""
    return await _observe(community, new_camera(community), kind=_QUIET_KIND)


def new_camera(community: "Community") -> str:
    """A camera for which an edge box speaks, and nobody has heard of."""
    return f"camera-{community.words.text()}"


async def _observe(community: "Community", camera: str, **seen: Any) -> str:
    """The edge box sees something in a camera's pictures. Returns the id of the alarm that it becomes."""
    at = datetime.now(UTC).isoformat()
    url, batch = community.town.running.http_urls["ingest"] + observing.PATH, {"observations": [{"camera": camera, "at": at, **seen}]}
    sent = await community.town.client.post(url, json=batch, auth=httpx.BasicAuth(*community.box))
    assert sent.is_success, sent.text

    async def find() -> str | None:
        alarms = (await community.do("access.ListAlarms", source_id=camera))["alarms"]
        return str(alarms[0]["alarm_id"]) if alarms else None

    found = await eventually(find, "the alarm")
    assert found is not None
    return found
