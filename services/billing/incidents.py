"""Money that does not fit, and that a person must look at. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Incident:
    """`kind` is the code of the error or of the difference. `reference` is ours as the provider knows it, `transaction_id` the provider's
    own number or empty, and an amount is 0 on the side that has none."""

    provider: str
    kind: str
    reference: str
    transaction_id: str = ""
    our_amount_fen: int = 0
    provider_amount_fen: int = 0
