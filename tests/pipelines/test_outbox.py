"""Letters are kept until they are delivered, and delivered once."""

from email import message_from_bytes, policy

from conf.home import Home
from conf.settings import Mail, Settings, Smtp
from monitoring.mail import Letter
from pipelines.outbox import post

LETTER = Letter("moved: retrain now", "Viewers rate lower.")


def test_without_a_mail_server_the_folder_is_the_outbox(home: Home) -> None:
    name = post(home, Settings(), LETTER)
    (file,) = home.outbox.rglob("*")
    assert file == home.outbox / f"{name}.eml"
    message = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert (message["Subject"], name in message["Message-ID"]) == ("moved: retrain now", True)


def test_a_letter_waits_though_there_is_no_mail_server(home: Home) -> None:
    conf = Settings(mail=Mail(via="smtp", smtp=Smtp(host="nowhere.invalid")))
    names = {post(home, conf, LETTER) for _ in range(3)}
    assert {file.stem for file in (home.outbox / "waiting").iterdir()} == names
