"""A community of a test's own, on a service that the tests of a module share: what one test does is another community's to the next.

The tests of each service build theirs on it, with what their service's communities have.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from servicekit.auth import Principal
from servicekit.events import M, Received
from servicekit.identifiers import new_id
from tests.support import Platform, TestClock


@dataclass(slots=True)
class Town:
    """A running service, and the clock that it goes by."""

    running: Platform
    clock: TestClock


@dataclass(slots=True)
class OwnCommunity:
    """A community, and the account of somebody who runs it."""

    town: Town
    community_id: UUID = field(default_factory=new_id)
    account_id: UUID = field(default_factory=new_id)

    contract: ClassVar[ServiceDescriptor]

    @property
    def clock(self) -> TestClock:
        return self.town.clock

    @property
    def running(self) -> Platform:
        return self.town.running

    async def send(self, who: Principal | None, method: str, request: Message, **metadata: str) -> Any:
        """Calls a method of the service's contract as somebody, or without a token."""
        return await self.running.caller(who).call(f"{self.contract.full_name}/{method}", request, **metadata)

    async def publish(self, event: Message, **envelope: Any) -> str:
        """Publishes another service's event, of the present unless the envelope says otherwise."""
        return await self.running.publish(event, self.community_id, **{"occurred_at": self.clock.now, **envelope})

    async def event(self, kind: type[M], **fields: Any) -> Received[M]:
        """The first event of this community with these fields; waits for it."""

        def fits(event: Received[M]) -> bool:
            return event.community_id == self.community_id and all(getattr(event.message, name) == value for name, value in fields.items())

        return await self.running.event(kind, fits)
