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


class DemonstrationBin(msgspec.Struct, frozen=True):
    """A smart bin and what each compartment holds, in grams, by the compartment's name. The names are those of the categories."""

    bin_id: str
    device_id: str
    name: str
    capacity_grams: dict[str, int]


class DemonstrationResident(msgspec.Struct, frozen=True):
    """A resident who has a card, for bins and doors."""

    account_id: str
    name: str
    card_number: str
    # Empty in an installation that is older than doors; the next start fills them in.
    phone: str = ""
    building: str = ""
    household_id: str = ""


class DemonstrationTerminal(msgspec.Struct, frozen=True):
    """A terminal at one side of a door. `building` is empty at a door that everybody uses."""

    device_id: str
    door_id: str
    door: str
    building: str
    entry: bool


class DemonstrationTechnician(msgspec.Struct, frozen=True):
    """Somebody who does work orders, and signs in with the manager's password."""

    account_id: str
    name: str
    phone: str


class DemonstrationWatch(msgspec.Struct, frozen=True):
    """A box that looks at the pictures of cameras."""

    box_id: str
    camera_ids: list[str]


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
    # Empty in an installation that is older than they are; the next start makes them.
    bins: list[DemonstrationBin] = []
    residents: list[DemonstrationResident] = []
    door_public_key: str = ""
    terminals: list[DemonstrationTerminal] = []
    # What is typed at a door by whoever has set a PIN, number and PIN, by account.
    pins: dict[str, str] = {}
    technicians: list[DemonstrationTechnician] = []
    watch: DemonstrationWatch | None = None
