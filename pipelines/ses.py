"""Letters by Amazon's SES (API v2). Credentials come from the usual AWS places.

SES answers for a request as a whole, so each recipient has one, which names nobody else: SES reads the recipients from
the letter, too. botocore repeats nothing: an answer that got lost would send twice at once; the outbox tries again
later. SES gives each letter a Message-ID of its own, so one that it sent twice is known by its date and text only.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from conf.sections.mail import Ses
from monitoring.letter import hidden, one_line, shortened
from pipelines.carrier import Answer, Trouble

SAID = 300  # characters of what SES said that are kept
REFUSED = ("MessageRejected", "BadRequestException", "MailFromDomainNotVerifiedException")  # of this letter, for good
TO = re.compile(rb"^To:[^\r\n]*(\r\n[ \t][^\r\n]*)*", re.MULTILINE | re.IGNORECASE)
NO_CREDENTIALS = "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role"


@contextmanager
def ses(conf: Ses) -> Iterator["Link"]:
    """A client; nothing is asked before the first letter."""
    link = Link(conf)
    try:
        yield link
    finally:
        link.client.close()


class Link:
    def __init__(self, conf: Ses) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        times = {"connect_timeout": conf.timeout_s, "read_timeout": conf.timeout_s}
        config = Config(**times, retries={"mode": "standard", "total_max_attempts": 1})
        where = {"region_name": conf.region or None, "endpoint_url": conf.endpoint or None}
        try:
            self.client: Any = boto3.session.Session().client("sesv2", config=config, **where)
        except (BotoCoreError, ValueError) as why:
            raise Trouble(f"SES cannot be used (settings mail.ses): {_plain(why)}") from None

    def carry(self, sender: str, recipients: Sequence[str], content: bytes) -> Iterator[dict[str, Answer]]:
        for recipient in recipients:
            yield {recipient: self._send(sender, recipient, content)}

    def _send(self, sender: str, recipient: str, content: bytes) -> Answer:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            addressed = TO.sub(f"To: {recipient}".encode(), content, count=1)
            answer = self.client.send_email(FromEmailAddress=sender, Content={"Raw": {"Data": addressed}})
        except ClientError as why:
            code = why.response.get("Error", {}).get("Code", "")
            if code in REFUSED:
                return Answer("refused", f"{code}: {_plain(why.response['Error'].get('Message', ''))}")
            raise Trouble(f"SES takes nothing now: {_plain(why)}") from None
        except NoCredentialsError:
            raise Trouble(f"SES cannot be used: {NO_CREDENTIALS}") from None
        except BotoCoreError as why:
            raise Trouble(f"SES cannot be reached, or broke off: {_plain(why)}") from None
        return Answer("sent", str(answer["MessageId"]))


def _plain(said: object) -> str:
    return shortened(hidden(one_line(str(said))), SAID)
