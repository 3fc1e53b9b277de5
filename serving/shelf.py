"""What a worker serves from: an open release for each arm."""

from typing import NamedTuple

from serving.opened import Opened
from serving.router import Arm, arm_of


class Chosen(NamedTuple):
    """A viewer's arm, and the release that serves it."""

    arm: Arm
    opened: Opened


class Shelf:
    """The open releases of one worker; `champion` is always there."""

    def __init__(self, champion: Opened) -> None:
        self.champion = champion
        self.challenger: Opened | None = None
        self._salt: str | None = None  # of the split between the two
        self._share = champion.settings.serving.popularity_share

    def choose(self, user_id: str) -> Chosen:
        """The viewer's arm and its release."""
        arm = arm_of(user_id, self._share, self._salt)
        if arm == "challenger" and self.challenger is not None:
            return Chosen(arm, self.challenger)
        return Chosen(arm, self.champion)

    def start(self) -> None:
        """Look after what is missing, in the background."""
        self.champion.start()

    def close(self) -> None:
        self.champion.close()
