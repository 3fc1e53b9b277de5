"""Which arm a viewer is in: sticky, without memory, the same in every worker and after every restart.

One per cent of the viewers are in the popularity arm, by a salt that never changes, so the fallback is never untested.
While there is a challenger, the others are split in two by a salt of its own, so that no two experiments share halves.
"""

from hashlib import blake2b
from typing import Literal

Arm = Literal["champion", "challenger", "popularity"]
POPULARITY_SALT = "greenlight popularity arm"  # permanent: a viewer in this arm stays in it
STEPS = 1 << 32


def arm_of(user_id: str, popularity_share: float, challenger_salt: str | None) -> Arm:
    """The viewer's arm; `challenger_salt` is None where there is no challenger."""
    if _place(POPULARITY_SALT, user_id) < popularity_share * STEPS:
        return "popularity"
    if challenger_salt is not None and _place(challenger_salt, user_id) < STEPS // 2:
        return "challenger"
    return "champion"


def _place(salt: str, user_id: str) -> int:
    """Where a viewer falls among `STEPS` equal steps."""
    return int.from_bytes(blake2b(user_id.encode(), digest_size=4, key=salt.encode()[:64]).digest())
