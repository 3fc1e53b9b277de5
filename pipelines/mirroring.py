"""The loop that keeps the mirror up with Kafka: `python -m pipelines.mirroring`. `greenlight up` runs it where Kafka is
configured. `kafka.json` in the home says how it is."""

import logging
import time
from dataclasses import dataclass, field

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, load
from events.clock import wall_ms
from events.mirror import Mirror
from pipelines.kafka_state import note
from pipelines.loop import asked_to_end, run, speak

log = logging.getLogger("greenlight.mirroring")

IDLE_S = 0.5  # until the next look, while Kafka is away: else the mirror waits for it by itself
AGAIN_S = 2.0  # after a file of the home could not be used
NOTE_S = 2.0


@dataclass
class Mirroring:
    """`step` never raises: what it could not do, the next one does."""

    home: Home
    settings: Settings
    trouble: str = ""  # of the home's files; Kafka's is the mirror's own
    _mirror: Mirror | None = None
    _noted: tuple[float, tuple[str, bool]] = field(default=(float("-inf"), ("", False)))

    def step(self) -> float:
        """Take in what there is; how many seconds to wait before the next step."""
        try:
            self._mirror = self._mirror or Mirror(self.home, self.settings)
            count, self.trouble = self._mirror.step(), ""
            self._note(self._mirror)
        except (PlainError, OSError) as why:
            if str(why) != self.trouble:
                log.warning("nothing is mirrored: %s; it is tried again every %g s", why, AGAIN_S)
            self.trouble = str(why)
            self.close()
            return AGAIN_S
        return IDLE_S if self._mirror.trouble and not count else 0.0

    def close(self) -> None:
        if self._mirror is not None:
            self._note(self._mirror, at_once=True)
            self._mirror.close()
            self._mirror = None

    def _note(self, mirror: Mirror, at_once: bool = False) -> None:
        """Now and then, and where something changed. A disk that is full stops nobody."""
        now, shape = time.monotonic(), (mirror.source, bool(mirror.trouble))
        if shape == self._noted[1] and now - self._noted[0] < NOTE_S and not at_once:
            return
        try:
            note(self.home, "mirror", mirror.state | {"beat_wall_ms": wall_ms()})
        except OSError as why:
            log.warning("%s cannot be written: %s", self.home.kafka, why.strerror or why)
        self._noted = now, shape


if __name__ == "__main__":
    speak()
    run(Mirroring(Home.from_environment().open(), load()), asked_to_end().wait)
