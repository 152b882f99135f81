"""Cameras and platforms that speak GA/T 1400."""

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from linli.device.v1.events_pb2 import ObjectObserved, PlateRead
from linli.ingest.v1.ingest_pb2 import DisableDeviceRequest, RotateSecretRequest
from services.ingest.devices import Kind
from tests.ingest.fleet import CAMERA, INGEST, JPEG, PNG, VIID_CAMERA, Fleet, fleet, stored
from tests.support import Servers, TestClock, eventually

SOURCE = f"{VIID_CAMERA}022017101808060802206"
VEHICLE_ID = f"{SOURCE}0269899"
REGISTER = {"RegisterObject": {"DeviceID": VIID_CAMERA}}
KEEP_ALIVE = {"KeepaliveObject": {"DeviceID": VIID_CAMERA}}
NAMED = {"User-Identify": VIID_CAMERA}


def vehicle(**fields: Any) -> dict[str, Any]:
    """A motor vehicle as the standard writes it."""
    usual = {
        "MotorVehicleID": VEHICLE_ID,
        "InfoKind": 1,
        "SourceID": SOURCE,
        "TollgateID": "2141245",
        "DeviceID": VIID_CAMERA,
        "LaneNo": 1,
        "HasPlate": "1",
        "PlateClass": "02",
        "PlateColor": "5",
        "PlateNo": "苏NF5676",
        "Speed": 8,
        "Direction": "0",
        "PassTime": "20171018080608",
        "PlateReliability": "98",
    }
    return {key: value for key, value in {**usual, **fields}.items() if value is not None}


def vehicles(*records: Any) -> dict[str, Any]:
    return {"MotorVehicleListObject": {"MotorVehicleObject": list(records)}}


def picture(data: bytes, **fields: Any) -> dict[str, Any]:
    return {
        "ImageID": "1",
        "Type": "01",
        "FileFormat": "Jpeg",
        "ShotTime": "20171018080608",
        "Data": base64.b64encode(data).decode(),
        **fields,
    }


async def register(town: Fleet, device_id: str = VIID_CAMERA, **options: Any) -> httpx.Response:
    """Registers as httpx's own digest client does."""
    auth = httpx.DigestAuth(device_id, town.secrets[device_id])
    return await town.http.post("/VIID/System/Register", json={"RegisterObject": {"DeviceID": device_id}}, auth=auth, **options)


async def post(town: Fleet, path: str, body: Any, **options: Any) -> httpx.Response:
    """Posts as a device that has registered."""
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return await town.http.post(f"/VIID/{path}", **content, **{"headers": NAMED, **options})


def status(answer: httpx.Response) -> tuple[int, int]:
    """HTTP status and StatusCode of an answer with one status."""
    code: int = answer.json()["ResponseStatusObject"]["StatusCode"]
    return answer.status_code, code


def statuses(answer: httpx.Response) -> list[tuple[int, str]]:
    """StatusCode and Id of each object."""
    return [(one["StatusCode"], one["Id"]) for one in answer.json()["ResponseStatusListObject"]["ResponseStatusObject"]]


class QuirkyDigest(httpx.Auth):
    """A digest client of our own, that can be as odd as devices are."""

    def __init__(
        self, username: str, secret: str, *, count: int = 1, absolute: bool = False, quoted_count: bool = False, qop: bool = True
    ) -> None:
        self.username, self.secret, self.count = username, secret, count
        self.absolute, self.quoted_count, self.qop = absolute, quoted_count, qop
        self.challenge = ""
        self.header = ""

    def auth_flow(self, request: httpx.Request) -> Any:
        if not self.challenge:
            response = yield request
            if response.status_code != 401:
                return
            self.challenge = response.headers["www-authenticate"]
        self.header = request.headers["Authorization"] = self.answer(request)
        yield request

    def answer(self, request: httpx.Request) -> str:
        # As the simplest devices read it: three quoted values in this order, without a comma inside.
        match = re.match(r'Digest realm="([^",]*)", qop="([^",]*)", nonce="([0-9a-f]+)"', self.challenge)
        assert match, self.challenge
        realm, qop, nonce = match.groups()
        uri = str(request.url) if self.absolute else request.url.raw_path.decode()
        first, second = md5(f"{self.username}:{realm}:{self.secret}"), md5(f"{request.method}:{uri}")
        head = f'Digest username="{self.username}", realm="{realm}", nonce="{nonce}", uri="{uri}"'
        if not self.qop:
            return f'{head}, response="{md5(f"{first}:{nonce}:{second}")}"'
        count, cnonce = f"{self.count:08x}", "0a4f113b"
        self.count += 1
        response = md5(f"{first}:{nonce}:{count}:{cnonce}:{qop}:{second}")
        shown = f'"{count}"' if self.quoted_count else count
        return f'{head}, response="{response}", qop={qop}, nc={shown}, cnonce="{cnonce}", algorithm=MD5'


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


# Who is asking.


async def test_a_device_registers_with_a_digest_and_is_known_by_its_address_afterwards(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        assert (await post(town, "System/Keepalive", KEEP_ALIVE)).status_code == 401
        answer = await register(town)
        told = answer.json()["ResponseStatusObject"]
        assert (answer.status_code, told["StatusCode"], told["StatusString"]) == (200, 0, "OK")
        assert (told["Id"], told["RequestURL"]) == (VIID_CAMERA, "/VIID/System/Register")
        assert status(await post(town, "System/Keepalive", KEEP_ALIVE)) == (200, 0)


async def test_the_challenge_is_one_that_every_device_can_read(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        answer = await town.http.post("/VIID/System/Register", json=REGISTER)
        assert status(answer) == (401, 4)
        assert re.fullmatch(r'Digest realm="linli", qop="auth", nonce="[0-9a-f]{64}"', answer.headers["www-authenticate"])


async def test_a_digest_as_real_devices_write_it_is_accepted(servers: Servers, tmp_path: Path) -> None:
    quirks: list[dict[str, Any]] = [{"absolute": True}, {"quoted_count": True}, {"qop": False}, {"absolute": True, "quoted_count": True}]
    async with fleet(servers, tmp_path) as town:
        for quirk in quirks:
            auth = QuirkyDigest(VIID_CAMERA, town.secrets[VIID_CAMERA], **quirk)
            assert status(await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth)) == (200, 0), quirk


async def test_a_device_may_send_a_digest_on_any_path_and_is_registered_by_it(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        auth = QuirkyDigest(VIID_CAMERA, town.secrets[VIID_CAMERA])
        assert statuses(await post(town, "MotorVehicles", vehicles(vehicle()), auth=auth)) == [(0, VEHICLE_ID)]
        assert status(await post(town, "System/Keepalive", KEEP_ALIVE, auth=auth)) == (200, 0)
        assert status(await post(town, "System/Keepalive", KEEP_ALIVE)) == (200, 0)


async def test_a_digest_works_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        auth = QuirkyDigest(VIID_CAMERA, town.secrets[VIID_CAMERA])
        assert (await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth)).status_code == 200
        replayed = await town.http.post("/VIID/System/Register", json=REGISTER, headers={"Authorization": auth.header})
        assert replayed.status_code == 401
        assert replayed.headers["www-authenticate"].endswith(", stale=true")
        elsewhere = await town.http.post("/VIID/System/UnRegister", json=REGISTER, headers={"Authorization": auth.header})
        assert elsewhere.status_code == 401
        assert "stale" not in elsewhere.headers["www-authenticate"]
        # The next count of the same nonce is good.
        assert (await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth)).status_code == 200


async def test_a_nonce_without_counts_works_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        auth = QuirkyDigest(VIID_CAMERA, town.secrets[VIID_CAMERA], qop=False)
        answers = [await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 401]


async def test_an_old_nonce_is_stale_and_a_made_up_one_too(servers: Servers, tmp_path: Path) -> None:
    clock = TestClock()
    async with fleet(servers, tmp_path, clock=clock) as town:
        auth = QuirkyDigest(VIID_CAMERA, town.secrets[VIID_CAMERA])
        await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth)
        clock.advance(minutes=6)
        old = await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth)
        auth.challenge = f'Digest realm="linli", qop="auth", nonce="{"0" * 64}"'
        made_up = await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth)
        for answer in (old, made_up):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].endswith(", stale=true")


async def test_a_wrong_digest_is_answered_as_a_stranger_is(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.register("33010299011190000999", Kind.VIID)
        await town.caller.call(f"{INGEST}/DisableDevice", DisableDeviceRequest(device_id="33010299011190000999"))
        answers = [
            await town.http.post("/VIID/System/Register", json=REGISTER, auth=QuirkyDigest(username, secret))
            for username, secret in [
                (VIID_CAMERA, "wrong"),
                ("33010299011190000000", "wrong"),
                ("33010299011190000999", town.secrets["33010299011190000999"]),
                (CAMERA, town.secrets[CAMERA]),
                ("", ""),
            ]
        ]
        for header in (
            "Digest",
            "Digest username",
            "Digest " + "x" * 5000,
            'Digest username="a", username="b"',
            "Basic YTpi",
            "Digest qop=auth-int",
            "Digest qop=auth, nc=zz",
        ):
            answers.append(await town.http.post("/VIID/System/Register", json=REGISTER, headers={"Authorization": header}))
        shown = [(answer.status_code, answer.json()["ResponseStatusObject"]["StatusString"]) for answer in answers]
        assert shown == [(401, "Invalid Operation: ingest.credential_refused")] * len(answers)
        assert not any("stale" in answer.headers["www-authenticate"] for answer in answers)


async def test_a_device_that_names_another_is_refused(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        auth = httpx.DigestAuth(VIID_CAMERA, town.secrets[VIID_CAMERA])
        other = {"RegisterObject": {"DeviceID": "33010299011190000000"}}
        assert status(await town.http.post("/VIID/System/Register", json=other, auth=auth)) == (400, 8)
        named = await town.http.post("/VIID/System/Register", json=REGISTER, auth=auth, headers={"User-Identify": "33010299011190000000"})
        assert named.status_code == 401


async def test_somebody_at_another_address_cannot_speak_for_a_registered_device(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, LINLI_INGEST_TRUSTED_PROXIES="127.0.0.0/8") as town:
        await register(town, headers={"X-Forwarded-For": "9.9.9.9, 10.0.0.7"})
        mine = {**NAMED, "X-Forwarded-For": "10.0.0.7"}
        for stranger in ({**NAMED, "X-Forwarded-For": "10.0.0.8"}, {**NAMED, "X-Forwarded-For": "10.0.0.7, 10.0.0.8"}, NAMED):
            assert (await post(town, "System/Keepalive", KEEP_ALIVE, headers=stranger)).status_code == 401
        assert status(await post(town, "System/Keepalive", KEEP_ALIVE, headers=mine)) == (200, 0)


async def test_a_forwarded_address_is_not_believed_from_just_anybody(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town, headers={"X-Forwarded-For": "10.0.0.7"})
        assert status(await post(town, "System/Keepalive", KEEP_ALIVE, headers={**NAMED, "X-Forwarded-For": "10.0.0.8"})) == (200, 0)


async def test_a_device_that_missed_three_keep_alives_must_register_again(servers: Servers, tmp_path: Path) -> None:
    clock = TestClock()
    async with fleet(servers, tmp_path, clock=clock) as town:
        await register(town)
        for _ in range(5):
            clock.advance(seconds=90)
            assert status(await post(town, "System/Keepalive", KEEP_ALIVE)) == (200, 0)
        clock.advance(seconds=271)
        assert (await post(town, "System/Keepalive", KEEP_ALIVE)).status_code == 401
        assert (await register(town)).status_code == 200


async def test_a_device_that_signs_off_must_register_again(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        assert status(await post(town, "System/UnRegister", {"UnRegisterObject": {"DeviceID": VIID_CAMERA}})) == (200, 0)
        assert (await post(town, "System/Keepalive", KEEP_ALIVE)).status_code == 401


async def test_a_new_secret_ends_the_registration_made_with_the_old_one(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        await town.caller.call(f"{INGEST}/RotateSecret", RotateSecretRequest(device_id=VIID_CAMERA))

        async def refused() -> bool:
            return (await post(town, "System/Keepalive", KEEP_ALIVE)).status_code == 401

        await eventually(refused, deadline_s=2)


# The system's part.


async def test_the_time_is_told_in_the_communitys_own_zone(servers: Servers, tmp_path: Path) -> None:
    clock = TestClock(datetime(2026, 1, 1, 20, 30, 40, tzinfo=UTC))
    async with fleet(servers, tmp_path, clock=clock) as town:
        await register(town)
        told = (await town.http.get("/VIID/System/Time", headers=NAMED)).json()["SystemTimeObject"]
        assert (told["LocalTime"], told["TimeZone"], told["TimeMode"]) == ("20260102043040", "Asia/Shanghai", "1")
        await town.set_zone("Asia/Urumqi")
        told = (await town.http.get("/VIID/System/Time", headers=NAMED)).json()["SystemTimeObject"]
        assert (told["LocalTime"], told["TimeZone"]) == ("20260102023040", "Asia/Urumqi")


async def test_each_content_type_that_devices_write_is_accepted_and_no_other(servers: Servers, tmp_path: Path) -> None:
    body = json.dumps(vehicles(vehicle())).encode()
    async with fleet(servers, tmp_path) as town:
        await register(town)
        assert statuses(await post(town, "MotorVehicles", body)) == [(0, VEHICLE_ID)]
        for media in ("application/VIID+JSON", "application/json", "application/*+JSON", "application/VIID+JSON;charset=UTF-8"):
            answer = await post(town, "MotorVehicles", body, headers={**NAMED, "Content-Type": media})
            assert statuses(answer) == [(0, VEHICLE_ID)], media
        assert status(await post(town, "MotorVehicles", body, headers={**NAMED, "Content-Type": "text/xml"})) == (415, 7)


async def test_a_body_that_cannot_be_used_has_the_standards_status(servers: Servers, tmp_path: Path) -> None:
    cases: list[tuple[bytes, tuple[int, int]]] = [
        (b"{", (400, 7)),
        (b"", (400, 7)),
        (b"[1]", (400, 7)),
        (b"\x80\x80\xff", (400, 7)),
        (b"{}", (400, 8)),
        (b'{"MotorVehicleListObject": []}', (400, 8)),
        (b'{"MotorVehicleListObject": {"MotorVehicleObject": "x"}}', (400, 8)),
        (json.dumps(vehicles(*[{}] * 501)).encode(), (400, 8)),
        (b" " * (10 * 1024 * 1024), (413, 8)),
    ]
    async with fleet(servers, tmp_path) as town:
        await register(town)
        for body, expected in cases:
            assert status(await post(town, "MotorVehicles", body)) == expected, body[:60]
            assert status(await post(town, "System/Keepalive", KEEP_ALIVE)) == (200, 0)


async def test_without_the_broker_the_device_is_told_that_we_are_busy_and_its_record_is_kept_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        servers.nats.kill()
        try:
            answer = await post(town, "MotorVehicles", vehicles(vehicle()))
            assert (answer.status_code, statuses(answer)) == (503, [(2, VEHICLE_ID)])
            assert int(answer.headers["retry-after"]) >= 1
        finally:
            servers.nats.restart()

        async def taken() -> bool:
            return (await post(town, "MotorVehicles", vehicles(vehicle()))).status_code == 200

        await eventually(taken)
        assert statuses(await post(town, "MotorVehicles", vehicles(vehicle()))) == [(0, VEHICLE_ID)]
        assert await stored(servers) == 1


# Records.


async def test_a_motor_vehicle_becomes_a_plate_read(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        record = vehicle(SubImageList={"SubImageInfoObject": [picture(JPEG), picture(PNG, Type="02")]})
        assert statuses(await post(town, "MotorVehicles", vehicles(record))) == [(0, VEHICLE_ID)]
        read = (await town.running.event(PlateRead)).message
        assert (read.device_id, read.record_id, read.plate) == (VIID_CAMERA, VEHICLE_ID, "苏NF5676")
        assert (read.plate_colour, read.plate_class, read.confidence, read.lane_number) == ("5", "02", 98, 1)
        assert read.occurred_at.ToDatetime(UTC) == datetime(2017, 10, 18, 0, 6, 8, tzinfo=UTC)  # 08:06:08 in Shanghai.
        assert datetime.now(UTC) - read.received_at.ToDatetime(UTC) < timedelta(seconds=30)
        assert not read.awaits_decision
        assert [(tmp_path / key).read_bytes() for key in read.image_keys] == [JPEG, PNG]


async def test_a_record_that_is_sent_again_is_one_event(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        for _ in range(3):
            assert statuses(await post(town, "MotorVehicles", vehicles(vehicle()))) == [(0, VEHICLE_ID)]
        assert await stored(servers) == 1


async def test_two_cameras_may_use_the_same_record_id(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        other = "33010299011190000254"
        await town.register(other, Kind.VIID)
        auth = httpx.DigestAuth(other, town.secrets[other])
        await post(town, "MotorVehicles", vehicles(vehicle()))
        await post(town, "MotorVehicles", vehicles(vehicle()), headers={}, auth=auth)
        assert await stored(servers) == 2


async def test_records_with_unusable_ids_are_kept_under_stable_ones_and_counted(servers: Servers, tmp_path: Path) -> None:
    unusable = ["0", VEHICLE_ID[:-1], VEHICLE_ID + "7", "44" + VEHICLE_ID[2:], VEHICLE_ID[:-2] + "·x", None]
    records = [
        vehicle(MotorVehicleID=given, PassTime=at, SubImageList={"SubImageInfoObject": [picture(JPEG)]})
        for given in unusable
        for at in ("20171018080608", "20171018080709")
    ]
    async with fleet(servers, tmp_path) as town:
        await register(town)
        for _ in range(2):
            assert [code for code, _ in statuses(await post(town, "MotorVehicles", vehicles(*records)))] == [0] * len(records)
        assert await stored(servers) == len(records)
        ids = {event.message.record_id for event in town.running.events(PlateRead)}
        assert len(ids) == len(records)
        assert not ids & {given for given in unusable if given}
        await town.turn()
        assert (await town.device(VIID_CAMERA)).irregular_records == 2 * len(records)


async def test_one_record_that_cannot_be_used_does_not_cost_the_others(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        answer = await post(town, "MotorVehicles", vehicles({}, vehicle(), "x", vehicle(PassTime={}, PlateNo=[])))
        assert answer.status_code == 200
        assert [code for code, _ in statuses(answer)] == [8, 0, 8, 0]


async def test_a_single_object_without_its_list_is_accepted(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        single = {"MotorVehicleListObject": {"MotorVehicleObject": vehicle()}}
        assert statuses(await post(town, "MotorVehicles", single)) == [(0, VEHICLE_ID)]


async def test_a_face_leaves_nothing_that_tells_whose_it_is(servers: Servers, tmp_path: Path) -> None:
    face = {
        "FaceID": f"{SOURCE}0600001",
        "InfoKind": 1,
        "SourceID": SOURCE,
        "DeviceID": VIID_CAMERA,
        "LeftTopX": 10,
        "LeftTopY": 20,
        "FaceAppearTime": "20171018080608",
        "Name": "张三",
        "IDType": "111",
        "IDNumber": "330102199001011234",
        "GenderCode": "1",
        "EthicCode": "01",
        "FeatureList": {"FeatureObject": [{"FeatureData": "c2VjcmV0"}]},
        "VendorFeature": "c2VjcmV0",
        "SubImageList": {"SubImageInfoObject": [picture(JPEG, Type="11"), picture(PNG, Type="14")]},
    }
    async with fleet(servers, tmp_path) as town:
        await register(town)
        answer = await post(town, "Faces", {"FaceListObject": {"FaceObject": [face]}})
        assert statuses(answer) == [(0, face["FaceID"])]
        seen = (await town.running.event(ObjectObserved)).message
        assert (seen.kind, seen.device_id, seen.record_id) == ("face", VIID_CAMERA, face["FaceID"])
        assert seen.occurred_at.ToDatetime(UTC) == datetime(2017, 10, 18, 0, 6, 8, tzinfo=UTC)
        assert json.loads(seen.record_json).keys() == {"FaceID", "InfoKind", "SourceID", "DeviceID", "LeftTopX", "LeftTopY"}
        assert not seen.image_keys
        assert not (tmp_path / str(town.community_id)).exists()


async def test_pictures_of_faces_are_kept_where_the_community_has_the_consents(servers: Servers, tmp_path: Path) -> None:
    face = {"FaceID": f"{SOURCE}0600001", "SubImageList": {"SubImageInfoObject": [picture(JPEG, Type="11")]}}
    async with fleet(servers, tmp_path, LINLI_INGEST_KEEP_FACE_PICTURES="true") as town:
        await register(town)
        await post(town, "Faces", {"FaceListObject": {"FaceObject": [face]}})
        assert len((await town.running.event(ObjectObserved)).message.image_keys) == 1


@pytest.mark.parametrize(
    ("path", "list_name", "object_name", "id_field", "kind"),
    [
        ("Persons", "PersonListObject", "PersonObject", "PersonID", "person"),
        ("NonMotorVehicles", "NonMotorVehicleListObject", "NonMotorVehicleObject", "NonMotorVehicleID", "non_motor_vehicle"),
    ],
)
async def test_persons_and_bicycles_are_observations(
    servers: Servers, tmp_path: Path, path: str, list_name: str, object_name: str, id_field: str, kind: str
) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        images = {"SubImageInfoObject": [picture(JPEG, Type="10"), picture(PNG, Type="11")]}
        record = {id_field: f"{SOURCE}0100001", "DeviceID": VIID_CAMERA, "Name": "张三", "AppearTime": "x", "SubImageList": images}
        answer = await post(town, path, {list_name: {object_name: [record]}})
        assert statuses(answer) == [(0, f"{SOURCE}0100001")]
        seen = (await town.running.event(ObjectObserved)).message
        assert (seen.kind, json.loads(seen.record_json)) == (kind, {id_field: f"{SOURCE}0100001", "DeviceID": VIID_CAMERA})
        assert [Path(key).suffix for key in seen.image_keys] == [".jpg"]  # Not the face.


async def test_a_notification_is_kept_with_the_records_that_it_carries(servers: Servers, tmp_path: Path) -> None:
    notification = {
        "NotificationID": "330102990111900002530420260101001",
        "SubscribeID": "330102990111900002530320260101001",
        "Title": "张三",
        "TriggerTime": "20171018080608",
        "MotorVehicleObjectList": {"MotorVehicleObject": [vehicle()]},
        "FaceObjectList": {"FaceObject": [{"FaceID": f"{SOURCE}0600001"}]},
    }
    async with fleet(servers, tmp_path) as town:
        await register(town)
        body = {"SubscribeNotificationListObject": {"SubscribeNotificationObject": [notification]}}
        assert statuses(await post(town, "SubscribeNotifications", body)) == [(0, notification["NotificationID"])]
        assert (await town.running.event(PlateRead)).message.record_id == VEHICLE_ID
        told = await town.running.event(ObjectObserved, lambda event: event.message.kind == "notification")
        assert "张三" not in told.message.record_json
        await town.running.event(ObjectObserved, lambda event: event.message.kind == "face")


async def test_a_platform_may_send_records_of_its_cameras_and_speaks_in_its_own_name(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await register(town)
        camera = "33010101001210000001"
        record = vehicle(DeviceID=camera, MotorVehicleID=camera + VEHICLE_ID[20:])
        await post(town, "MotorVehicles", vehicles(record))
        read = (await town.running.event(PlateRead)).message
        assert (read.device_id, read.record_id) == (VIID_CAMERA, camera + VEHICLE_ID[20:])
