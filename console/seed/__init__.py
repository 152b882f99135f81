"""Creates the demonstration community through the API, as its property company would.

Every step carries an idempotency key, so that a start that was interrupted goes on where it stopped.
"""

from console.seed.api import Api, SeedError
from console.seed.community import seed, seed_green, seed_safe
from console.seed.parking import TARIFF

__all__ = ["TARIFF", "Api", "SeedError", "seed", "seed_green", "seed_safe"]
