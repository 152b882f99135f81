"""The register of devices as its contract says it."""

from functools import partial

from linli.ingest.v1.ingest_pb2 import (
    Device as DeviceMessage,
)
from linli.ingest.v1.ingest_pb2 import (
    DeviceKind,
    DisableDeviceRequest,
    GetDeviceRequest,
    ListDevicesRequest,
    ListDevicesResponse,
    RegisterDeviceRequest,
    RegisteredDevice,
    RotateSecretRequest,
)
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.rpc import secret_answer
from servicekit.times import to_timestamp
from services.ingest import operations, store
from services.ingest.devices import Device


@secret_answer
async def register_device(tx: Transaction, request: RegisterDeviceRequest) -> RegisteredDevice:
    """RegisterDevice of the contract."""
    device, secret = await operations.register_device(tx, request.device_id, request.name, request.kind)
    return RegisteredDevice(device=_message(device), secret=secret)


async def get_device(tx: Transaction, request: GetDeviceRequest) -> DeviceMessage:
    """GetDevice of the contract."""
    return _message(await operations.get_device(tx, request.device_id))


async def list_devices(tx: Transaction, request: ListDevicesRequest) -> ListDevicesResponse:
    """ListDevices of the contract."""
    devices, token = await page(request, str, partial(store.select_devices, tx), lambda device: device.device_id)
    return ListDevicesResponse(devices=[_message(device) for device in devices], next_page_token=token)


@secret_answer
async def rotate_secret(tx: Transaction, request: RotateSecretRequest) -> RegisteredDevice:
    """RotateSecret of the contract."""
    device, secret = await operations.rotate_secret(tx, request.device_id)
    return RegisteredDevice(device=_message(device), secret=secret)


async def disable_device(tx: Transaction, request: DisableDeviceRequest) -> DeviceMessage:
    """DisableDevice of the contract."""
    return _message(await operations.disable_device(tx, request.device_id))


def _message(device: Device) -> DeviceMessage:
    return DeviceMessage(
        device_id=device.device_id,
        name=device.name,
        kind=DeviceKind.ValueType(device.kind),
        online=device.online,
        last_seen_at=to_timestamp(device.last_seen_at),
        disabled=device.disabled,
        irregular_records=device.irregular_records,
    )
