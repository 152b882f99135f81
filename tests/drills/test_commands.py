"""Whoever owns the network replays, withholds, alters and redirects commands: a door opens for those that are its own, new and in time.

The attacker has every command that was ever signed, delivered or not, and may say to any terminal what they like, as often as they like.
Each defence is taken away once, to see that the drill would find it missing.
"""

import base64
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from console.simulator.terminals import Shown, Terminal
from linli.device.v1.commands_pb2 import DeviceCommand, SignedCommand
from servicekit.commands import LIFETIME, CommandSigner
from servicekit.identifiers import new_id
from servicekit.signing import Signer
from services.access.doors import CredentialKind
from tests.support import TestClock

COMMANDS = int(os.environ.get("LINLI_DRILL_COMMANDS", "10000"))
DOORS = 3
# After each command that a door obeys the attacker says so much.
ATTACKS_BETWEEN = 50
SEED = bytes(range(32))
PUBLIC_KEY = base64.b64encode(Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


@dataclass(slots=True)
class Door:
    """A terminal, what opened it, and what was signed for it: obeyed, and withheld while it was new."""

    terminal: Terminal
    counter: int = 0
    opened: list[str] = field(default_factory=list)
    obeyed: list[SignedCommand] = field(default_factory=list)
    withheld: list[SignedCommand] = field(default_factory=list)


class Attack:
    """The attacker between the platform and its doors."""

    def __init__(self, folder: Path, terminal: Callable[..., Terminal] = Terminal) -> None:
        self.clock = TestClock(datetime(2026, 3, 2, tzinfo=UTC))
        self.chance = random.Random(23)
        self.doors = []
        for number in range(DOORS):
            opened: list[str] = []
            made = terminal(folder / str(number), f"door-{number}", PUBLIC_KEY, self.clock, opened.append)
            self.doors.append(Door(made, opened=opened))
        self._signer = CommandSigner(Signer(base64.b64encode(SEED).decode()))
        self.said = Counter[str]()
        self._kinds: dict[str, Callable[[Door], SignedCommand]] = {
            "replayed": self._replay,
            "reordered": self._reorder,
            "flipped": self._flip,
            "redirected": self._redirect,
            "late": self._late,
            "made up": self._make_up,
        }

    def sign(self, door: Door) -> SignedCommand:
        """A new command, as access signs them."""
        door.counter += 1
        return self._signer.open(new_id(), door.terminal.device_id, door.counter, self.clock())

    def obey(self, door: Door) -> None:
        """The platform opens a door. A command before it is withheld, so that its counter is too old when it comes."""
        door.withheld.append(self.sign(door))
        command = self.sign(door)
        assert say(door, command) == "opened"
        door.obeyed.append(command)

    def go(self) -> None:
        """Says everything to everybody, between commands that are obeyed."""
        for number in range(COMMANDS):
            if number % ATTACKS_BETWEEN == 0:
                self.clock.advance(seconds=1)
                for door in self.doors:
                    self.obey(door)
            kind = self.chance.choice(list(self._kinds))
            self.said[kind] += 1
            door = self.chance.choice(self.doors)
            outcome = say(
                door, self._kinds[kind](door), awaited=self.chance.choice((None, door.terminal.show(CredentialKind.CARD, "04CAFE")))
            )
            assert outcome in ("refused", "expired"), f"{kind}: {outcome}"

    def _replay(self, door: Door) -> SignedCommand:
        # The newest half of the time: it has not expired.
        return self.chance.choice((door.obeyed[-1], self.chance.choice(door.obeyed)))

    def _reorder(self, door: Door) -> SignedCommand:
        return self.chance.choice((door.withheld[-1], self.chance.choice(door.withheld)))

    def _flip(self, door: Door) -> SignedCommand:
        command = self._fresh(door)
        altered = self.chance.choice(("command", "signature"))
        content = bytearray(getattr(command, altered))
        content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        setattr(command, altered, bytes(content))
        return command

    def _redirect(self, door: Door) -> SignedCommand:
        # New, in time, and signed with a counter that this door has not seen yet.
        other = self.chance.choice([each for each in self.doors if each is not door])
        return self._signer.open(new_id(), other.terminal.device_id, max(door.counter, other.counter) + 1, self.clock())

    def _late(self, door: Door) -> SignedCommand:
        # Signed for this door with a counter above all, and withheld until now.
        return self._signer.open(new_id(), door.terminal.device_id, door.counter + 1, self.clock() - LIFETIME * 2)

    def _make_up(self, door: Door) -> SignedCommand:
        """Says what it likes, signed with a key of its own."""
        forger = CommandSigner(Signer(base64.b64encode(self.chance.randbytes(32)).decode()))
        return forger.open(new_id(), door.terminal.device_id, door.counter + 1, self.clock())

    def _fresh(self, door: Door) -> SignedCommand:
        """A command that this door would obey now."""
        return self._signer.open(new_id(), door.terminal.device_id, door.counter + 1, self.clock())


def say(door: Door, command: SignedCommand, awaited: Shown | None = None) -> str:
    """Says a command to a door's terminal as ingest would. Returns what it did."""
    message = {
        "command": base64.b64encode(command.command).decode(),
        "signature": base64.b64encode(command.signature).decode(),
        "key_id": command.key_id,
    }
    return door.terminal.obey(message, awaited)[1]


def test_no_door_opens_for_what_is_replayed_reordered_altered_redirected_or_late(tmp_path: Path) -> None:
    attack = Attack(tmp_path)
    attack.go()
    print("said:", dict(attack.said))
    assert min(attack.said.values()) > COMMANDS // 10
    for number, door in enumerate(attack.doors):
        assert door.opened == [DeviceCommand.FromString(command.command).command_id for command in door.obeyed]
        # It remembers when it was without power in between.
        door.terminal = Terminal(tmp_path / str(number), door.terminal.device_id, PUBLIC_KEY, attack.clock)
        assert [say(door, command) for command in (door.obeyed[-1], door.withheld[-1])] == ["refused", "refused"]
        assert say(door, attack.sign(door)) == "opened"


# Without one of the defences.


class Forgetful(Terminal):
    """Does not remember which command it obeyed last."""

    _counter = property(lambda _self: 0, lambda _self, _value: None)


class Trusting(Terminal):
    """Takes every signature for genuine."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._keys.has_signed = lambda *_: True  # type: ignore[method-assign]


class Everybody(str):
    """A name that is everybody's."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class Obliging(Terminal):
    """Obeys what was signed for another door."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.device_id = Everybody(self.device_id)


class Timeless(Terminal):
    """Does not look at the clock when it obeys."""

    def obey(self, message: dict[str, Any], awaited: Shown | None) -> tuple[str, str]:
        clock, self.clock = self.clock, lambda: datetime(2026, 1, 1, tzinfo=UTC)
        try:
            return super().obey(message, awaited)
        finally:
            self.clock = clock


@pytest.mark.parametrize(
    ("terminal", "found"), [(Forgetful, "re(played|ordered)"), (Trusting, "flipped|made up"), (Obliging, "redirected"), (Timeless, "late")]
)
def test_the_drill_fails_without_one_of_the_defences(terminal: type[Terminal], found: str, tmp_path: Path) -> None:
    attack = Attack(tmp_path, terminal)
    with pytest.raises(AssertionError, match=f"({found}): opened"):
        attack.go()
