"""Letters to those who answer for the recommender, kept on disk until they are delivered.

    outbox/<id>.eml                delivered; where settings.mail.via is `outbox`, this folder is all there is to it
    outbox/waiting/<id>.eml        posted, to be sent

A letter is whole and on disk when `post` returns, whatever the mail server does.
"""

from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from events.disk import sync, write_whole
from monitoring.mail import Letter, compose, mail_id


def post(home: Home, settings: Settings, letter: Letter) -> str:
    """Keep a letter, durably; its id. Nothing is sent here. OSError where the disk is full or may not be written."""
    message = compose(letter, settings.mail)
    place = home.outbox if settings.mail.via == "outbox" else home.outbox / "waiting"
    _make(place)
    write_whole(place / f"{mail_id(message)}.eml", message.as_bytes())
    return mail_id(message)


def _make(folder: Path) -> None:
    """A folder whose name is on disk too."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)
        sync(folder.parent.parent)
