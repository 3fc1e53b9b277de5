"""The loop that sends what waits in the outbox: `python -m pipelines.mailing`. `greenlight up` runs it.

It also watches over the scheduler, since what has to be told must not depend on who has to be told of.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, load
from events.turns import step_aside
from pipelines.loop import asked_to_end, speak
from pipelines.outbox import deliver
from pipelines.watch import Watch

log = logging.getLogger("greenlight.mailing")


@dataclass
class Mailing:
    """`step` never raises: what could not be sent waits for the next one. A trouble is said once."""

    home: Home
    settings: Settings
    trouble: str = ""

    def step(self) -> None:
        try:
            done = deliver(self.home, self.settings)
        except (PlainError, OSError) as why:
            return self._tell(str(why))
        for name, recipient in done.sent:
            log.info("letter %s was sent to %s", name, recipient)
        for lost in done.refused:
            log.warning("letter %s was refused to %s: %s", lost.id, lost.recipient, lost.reason)
        return self._tell(done.trouble)

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("letters wait: %s", trouble)
        if self.trouble and not trouble:
            log.info("letters are sent again after: %s", self.trouble)
        self.trouble = trouble


def run(mailing: Mailing, watch: Watch, wait: Callable[[float], bool]) -> None:
    """Step until `wait` (for some seconds) says that it is time to end."""
    while True:
        watch.step()
        mailing.step()
        if wait(mailing.settings.workers.mail_every_s):
            return


if __name__ == "__main__":
    speak()
    step_aside()
    _home, _settings = Home.from_environment().open(), load()
    run(Mailing(_home, _settings), Watch(_home, _settings), asked_to_end().wait)
