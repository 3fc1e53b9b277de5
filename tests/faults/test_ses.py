"""Letters by SES (moto stands for Amazon's): each recipient once, whatever the service does."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest

from conf.home import Home
from conf.sections.mail import Mail, Ses
from conf.settings import Settings
from models.shelf import load_file
from monitoring.mail import Letter
from pipelines.outbox import deliver, letters, post, reopen

TO = ("ann@example.org", "bob@example.org")
PATIENCE_S = 60.0
LETTER = Letter("moved: retrain now – at once", "Viewers rate lower.")
s3 = load_file(Path(__file__).parent / "s3.py")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", "AKIAFORTESTS"), ("SECRET_ACCESS_KEY", "hush-hush")):
        monkeypatch.setenv(f"AWS_{name}", value)


def reaching(url: str, sender: str) -> Settings:
    return Settings(mail=Mail(via="ses", sender=sender, to=TO, ses=Ses(region="us-east-1", endpoint=url, timeout_s=20)))


@pytest.fixture
def sender(s3_url: str, request: pytest.FixtureRequest) -> str:
    """An address that SES lets send, of this test alone."""
    name = f"{abs(hash(request.node.name))}@example.org"
    boto3.client("sesv2", endpoint_url=s3_url, region_name="us-east-1").create_email_identity(EmailIdentity=name)
    return name


def taken(url: str, sender: str) -> list[str]:
    """To whom SES took a letter of this sender, in order."""
    told: dict[str, Any] = json.loads(urllib.request.urlopen(f"{url}/moto-api/data.json").read())
    mine = [raw for raw in told["ses"]["RawMessage"] if raw["source"] == sender]
    assert all("Subject: moved: retrain now =?utf-8?" in raw["raw_data"] for raw in mine)
    return [name for raw in mine for name in raw["destinations"]]


def test_each_recipient_gets_a_letter_of_its_own_once(home: Home, s3_url: str, sender: str) -> None:
    settings = reaching(s3_url, sender)
    name = post(home, settings, LETTER)
    assert deliver(home, settings).sent == tuple((name, to) for to in TO)
    assert deliver(home, settings, at_once=True).sent == ()
    assert taken(s3_url, sender) == list(TO)


def test_a_sender_that_ses_does_not_know_is_said_and_can_be_mended(home: Home, s3_url: str) -> None:
    settings = reaching(s3_url, "stranger@example.net")
    post(home, settings, LETTER)
    done = deliver(home, settings)
    assert [(lost.recipient, "stranger@example.net" in lost.reason) for lost in done.refused] == [
        (to, True) for to in TO
    ]
    assert [len(list(letters(home, place))) for place in ("waiting", "failed")] == [0, 1]
    boto3.client("sesv2", endpoint_url=s3_url, region_name="us-east-1").create_email_identity(
        EmailIdentity="stranger@example.net"
    )
    assert reopen(home) == 1
    assert len(deliver(home, settings).sent) == 2
    assert taken(s3_url, "stranger@example.net") == list(TO)


@pytest.mark.parametrize(
    "fault", ["429 TooManyRequestsException", "503 ServiceUnavailable", "403 AccessDenied", "cut-up"]
)
def test_throttled_or_broken_after_the_first_the_second_waits(home: Home, s3_url: str, sender: str, fault: str) -> None:
    with s3.Proxy(s3_url) as proxy:
        settings = reaching(proxy.url, sender)
        proxy.fault = lambda number, method, path: "" if number == 1 else fault
        post(home, settings, LETTER)
        done = deliver(home, settings)
        assert [to for _, to in done.sent] == ["ann@example.org"]
        assert (done.waiting, done.refused) == (1, ())
        assert "SES" in done.trouble
        assert proxy.calls("POST") == 2  # and nothing was repeated behind our back
        proxy.fault = lambda number, method, path: ""
        assert [to for _, to in deliver(home, settings, at_once=True).sent] == ["bob@example.org"]
    assert taken(s3_url, sender) == list(TO)


def test_killed_between_two_recipients_the_first_gets_no_second_one(home: Home, s3_url: str, sender: str) -> None:
    with s3.Proxy(s3_url) as proxy:
        settings = reaching(proxy.url, sender)
        proxy.fault = lambda number, method, path: "hole" if number == 2 else ""
        post(home, settings, LETTER)
        command = [sys.executable, "-m", "pipelines.mailing"]
        with subprocess.Popen(command, env=home.environment_of(settings)) as process:
            until = time.monotonic() + PATIENCE_S
            while proxy.calls("POST") < 2 and time.monotonic() < until:
                time.sleep(0.01)
            process.kill()
        assert [to for _, to in deliver(home, settings).sent] == ["bob@example.org"]
    assert taken(s3_url, sender) == list(TO)


def test_down_or_without_credentials_everything_waits(
    home: Home, s3_url: str, sender: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    down = reaching("http://127.0.0.1:9", sender)
    post(home, down, LETTER)
    assert "cannot be reached" in deliver(home, down).trouble
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in (("EC2_METADATA_DISABLED", "true"), ("SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))):
        monkeypatch.setenv(f"AWS_{name}", value)
    assert "no AWS credentials" in deliver(home, reaching(s3_url, sender), at_once=True).trouble
    nowhere = Settings(mail=Mail(via="ses", sender=sender, to=TO, ses=Ses(endpoint="not an address")))
    assert "mail.ses" in deliver(home, nowhere, at_once=True).trouble
    assert [len(list(letters(home, place))) for place in ("waiting", "failed")] == [1, 0]
