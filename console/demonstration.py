"""The demonstration community: what `linli up` creates through the API, and remembers for the simulator."""

import msgspec


class DemonstrationLane(msgspec.Struct, frozen=True):
    """A lane, its devices, and the protocol of its camera: "push" or "viid"."""

    lane_id: str
    name: str
    entry: bool
    protocol: str
    camera_device_id: str
    gate_device_id: str


class Demonstration(msgspec.Struct, frozen=True):
    """What a simulator, or a newcomer with curl, must know. Kept in `demonstration.json`, for its owner only: it holds device secrets."""

    gateway_url: str
    ingest_url: str
    mqtt_host: str
    mqtt_port: int
    gate_public_key: str
    community_id: str
    lot_id: str
    lanes: list[DemonstrationLane]
    secrets: dict[str, str]
    edge_box_id: str
    plates: list[str]
    manager_phone: str
    manager_password: str
    resident_phone: str
    visitor_phone: str
