"""Plate cameras that speak their own protocols over HTTP: the plate push, and GA/T 1400."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx

# What the plate push calls the colours; cameras report what they see, and nobody decides by it.
_BLUE, _GREEN = 1, 5
_PUSH_TIMEOUT_S = 2.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a camera was answered: whether to open, and after how many seconds."""

    opened: bool
    seconds: float
    status: int
    body: Any


def plate_alarm(serial: str, plate: str, at: datetime) -> dict[str, Any]:
    """What a camera pushes when it reads a plate; `plate` is empty when it could not read it."""
    result = {
        "license": plate or "_无_",
        "colorType": _GREEN if len(plate) == 8 else _BLUE,
        "type": 1,
        "confidence": 98,
        "direction": 4,
        "triggerType": 8,
        "timeStamp": {"Timeval": {"sec": int(at.timestamp()), "usec": at.microsecond}},
    }
    return {
        "AlarmInfoPlate": {"serialno": serial, "deviceName": serial, "ipaddr": "127.0.0.1", "channel": 0, "result": {"PlateResult": result}}
    }


class PushCamera:
    """A camera that pushes AlarmInfoPlate and opens its barrier when the answer says so."""

    def __init__(self, client: httpx.AsyncClient, ingest_url: str, serial: str, secret: str) -> None:
        self.serial = serial
        self._client = client
        self._url = f"{ingest_url}/devices/plate"
        self._auth = httpx.BasicAuth(serial, secret)

    async def push(self, plate: str, at: datetime) -> Answer:
        """Reports a plate read at an instant; the same plate and instant again is the same record. Raises httpx.HTTPError."""
        started = time.perf_counter()
        answer = await self._client.post(self._url, json=plate_alarm(self.serial, plate, at), auth=self._auth, timeout=_PUSH_TIMEOUT_S)
        seconds = time.perf_counter() - started
        body = answer.json()
        info = body.get("Response_AlarmInfoPlate", {}).get("info") if isinstance(body, dict) else None
        return Answer(info == "ok", seconds, answer.status_code, body)

    async def heartbeat(self) -> int:
        """Says that the camera is alive; returns the HTTP status."""
        body = {"heartbeat": {"serialno": self.serial}}
        return (await self._client.post(self._url, json=body, auth=self._auth, timeout=_PUSH_TIMEOUT_S)).status_code


class ViidCamera:
    """A camera that speaks GA/T 1400. Its gate is a device of its own."""

    def __init__(self, client: httpx.AsyncClient, ingest_url: str, device_id: str, secret: str) -> None:
        self.device_id = device_id
        self._client = client
        self._url = f"{ingest_url}/VIID"
        self._auth = httpx.DigestAuth(device_id, secret)
        self._headers = {"User-Identify": device_id, "Content-Type": "application/VIID+JSON"}
        self._zone = ZoneInfo("Asia/Shanghai")

    async def register(self) -> int:
        """Registers; returns the status code of the standard."""
        return await self._post("System/Register", {"RegisterObject": {"DeviceID": self.device_id}})

    async def keep_alive(self) -> int:
        """Says that the camera is alive; returns the status code of the standard."""
        return await self._post("System/Keepalive", {"KeepaliveObject": {"DeviceID": self.device_id}})

    async def report(self, plate: str, at: datetime, sequence: int) -> int:
        """Reports a vehicle; returns the record's status code. Raises httpx.HTTPError."""
        local = at.astimezone(self._zone).strftime("%Y%m%d%H%M%S")
        source = f"{self.device_id}02{local}{sequence % 100_000:05}"
        vehicle = {
            "MotorVehicleID": f"{source}02{sequence % 100_000:05}",
            "InfoKind": 1,
            "SourceID": source,
            "DeviceID": self.device_id,
            "LaneNo": 1,
            "HasPlate": "1" if plate else "0",
            "PlateClass": "02",
            "PlateColor": "5",
            "PlateNo": plate,
            "PassTime": local,
        }
        return await self._post("MotorVehicles", {"MotorVehicleListObject": {"MotorVehicleObject": [vehicle]}})

    async def _post(self, path: str, body: dict[str, Any]) -> int:
        answer = await self._client.post(f"{self._url}/{path}", json=body, headers=self._headers, auth=self._auth, timeout=5.0)
        parsed = answer.json()
        if "ResponseStatusListObject" in parsed:
            parsed = {"ResponseStatusObject": parsed["ResponseStatusListObject"]["ResponseStatusObject"][0]}
        return int(parsed["ResponseStatusObject"]["StatusCode"])
