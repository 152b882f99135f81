"""What can be done with devices: register, give another secret, disable; and telling who comes and goes."""

from itertools import groupby

from linli.device.v1.events_pb2 import DeviceChanged, DeviceOffline, DeviceOnline
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import Conflict, NotFound
from servicekit.rpc import Call
from servicekit.times import to_timestamp
from services.ingest import store
from services.ingest.credentials import Vault, new_secret
from services.ingest.devices import SILENCE_MAX, Device, Kind
from services.ingest.digest import NONCE_LIFE
from services.ingest.metrics import DEVICES

# Devices that come or go in one turn of the job; the rest follow in the next.
_TURNS_MAX = 1000


async def register_device(tx: Transaction, device_id: str, name: str, kind: int) -> tuple[Device, str]:
    """A new device and its secret, which nobody can look up again.

    Raises Conflict when the id is taken, by this community or another: which one is nobody's business.
    """
    secret = new_secret()
    credential = tx.resource(Vault).credential(device_id, secret)
    device = await store.insert_device(
        tx,
        device_id=device_id,
        name=name,
        kind=kind,
        secret_hash=credential.secret_hash,
        sealed_digest_key=credential.sealed_digest_key,
    )
    if device is None:
        raise Conflict("ingest.device_exists", "该设备编号已被登记", "This device id is taken")
    _tell_changed(tx, device)
    return device, secret


async def rotate_secret(tx: Transaction, device_id: str) -> tuple[Device, str]:
    """Gives a device another secret; the old one and the registration made with it stop working. Raises NotFound."""
    secret = new_secret()
    credential = tx.resource(Vault).credential(device_id, secret)
    device = _found(await store.update_credential(tx, device_id, credential.secret_hash, credential.sealed_digest_key))
    _tell_changed(tx, device)
    return device, secret


async def disable_device(tx: Transaction, device_id: str) -> Device:
    """Refuses a device from now on. Raises NotFound."""
    device = _found(await store.disable_device(tx, device_id))
    _tell_changed(tx, device)
    return device


async def get_device(tx: Transaction, device_id: str) -> Device:
    """A device of the community. Raises NotFound."""
    return _found(await store.select_device(tx, device_id))


def _found(device: Device | None) -> Device:
    if device is None:
        raise NotFound("ingest.device_not_found", "没有找到该设备", "There is no such device")
    return device


def _tell_changed(tx: Transaction, device: Device) -> None:
    tx.publish(DeviceChanged(device_id=device.device_id, disabled=device.disabled), version=device.version)


async def tell_who_came_and_went(tx: Transaction) -> None:
    """Publishes each device that has fallen silent, or is heard again, once for each turn."""
    devices = await store.select_changed_status(tx, tx.now - SILENCE_MAX, _TURNS_MAX)
    if not devices:
        return
    await store.turn_status(tx, [device.device_id for device in devices])
    for community_id, members in groupby(devices, key=lambda device: device.community_id):
        await tx.enter(community_id)
        for device in members:
            seen_at = to_timestamp(device.last_seen_at)
            event = (
                DeviceOffline(device_id=device.device_id, last_seen_at=seen_at)
                if device.online
                else DeviceOnline(device_id=device.device_id, occurred_at=seen_at)
            )
            tx.publish(event, version=device.version + 1)
    await tx.enter(PLATFORM)


async def forget_old_nonces(tx: Transaction) -> None:
    """Forgets the uses of nonces that nobody can use any more."""
    await store.delete_digest_uses(tx, tx.now - 2 * NONCE_LIFE)


async def count_devices(call: Call) -> None:
    """Sets the gauge of who is there; takes it back when that cannot be read."""
    try:
        async with call.transaction(PLATFORM) as tx:
            counted = await store.count_devices(tx)
    except Exception:
        DEVICES.clear()
        raise
    for kind in Kind:
        for is_online in (True, False):
            DEVICES.labels(kind.name.lower(), "online" if is_online else "offline").set(counted.get((kind, is_online), 0))
