"""The loop that passes the spool on to Kafka: `python -m pipelines.relaying`. `greenlight up` runs it where Kafka is
configured. `kafka.json` in the home says how it is."""

import logging
import sys
import time
from dataclasses import dataclass

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, load
from events.clock import wall_ms
from events.local_log import LocalLog
from events.relay import Relay, RelayError
from pipelines.kafka_state import note
from pipelines.loop import asked_to_end, run, speak

log = logging.getLogger("greenlight.relaying")

IDLE_S = 0.1  # until the next look, where nothing came
AGAIN_S = 2.0  # after the spool could not be used
NOTE_S, REST = 2.0, 10.0  # between two notes, or times what one took


@dataclass
class Relaying:
    """`step` raises nothing but RelayError, where another relay runs."""

    home: Home
    settings: Settings
    trouble: str = ""  # of the spool; Kafka's is the relay's own
    _relay: Relay | None = None
    _noted: tuple[float, str] = (float("-inf"), "")  # when to note again, and what the breaker was

    def step(self) -> float:
        """Pass on what there is; how many seconds to wait before the next step."""
        try:
            self._relay = self._relay or Relay(LocalLog(self.home.log), self.settings.kafka, self.home.cluster)
            count, self.trouble = self._relay.step(), ""
            self._note(self._relay)
        except RelayError:
            raise
        except (PlainError, OSError) as why:
            if str(why) != self.trouble:
                log.warning("nothing goes to Kafka: %s; it is tried again every %g s", why, AGAIN_S)
            self.trouble = str(why)
            self.close()
            return AGAIN_S
        return 0.0 if count else IDLE_S

    def close(self) -> None:
        if self._relay is not None:
            self._relay.close()
            self._relay.spool.close()
            self._relay = None

    def _note(self, relay: Relay) -> None:
        """Now and then, and where the breaker changed. A disk that is full stops nobody."""
        begun = time.monotonic()
        if relay.state == self._noted[1] and begun < self._noted[0]:
            return
        told = {name: getattr(relay, name) for name in ("state", "since_wall_ms", "reason", "lag", "delivered", "dead")}
        try:
            note(self.home, "relay", told | {"beat_wall_ms": wall_ms()})
        except OSError as why:
            log.warning("%s cannot be written: %s", self.home.kafka, why.strerror or why)
        took_s = time.monotonic() - begun  # counting a long backlog
        self._noted = begun + max(NOTE_S, REST * took_s), relay.state


if __name__ == "__main__":
    speak()
    try:
        run(Relaying(Home.from_environment().open(), load()), asked_to_end().wait)
    except RelayError as why:
        log.error("%s", why)
        sys.exit(2)
