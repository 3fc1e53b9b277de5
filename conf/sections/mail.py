"""Who gets letters, and how they travel."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from conf.sections.section import Positive, Section, is_loopback

MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?=.{1,185}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


def mail_address(text: str) -> str:
    """A bare mail address, such as a mail server takes it: no name, no brackets, no line break."""
    if not MAILBOX.fullmatch(text) or text.startswith(".") or ".." in text or ".@" in text:
        raise ValueError("not a mail address such as lead@example.org (ASCII only; write a domain like xn--…)")
    return text


def addresses(value: object) -> object:
    """Several in one text are separated by commas; who is named twice gets one letter."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return parts
    first: dict[str, object] = {}
    for part in parts:
        first.setdefault(str(part).casefold(), part)
    return list(first.values())


def in_ascii(text: str) -> str:
    """What a login may hold: Python's SMTP sends nothing else."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("a login and its password are printable ASCII")
    return text


class Smtp(Section):
    """A mail server."""

    host: str = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 587  # 465 where tls is `implicit`
    tls: Literal["starttls", "implicit", "none"] = "starttls"  # none: on loopback only
    authority: str = ""  # PEM file of who signed the server's certificate; empty: whom the system trusts
    login: Annotated[str, AfterValidator(in_ascii)] = ""
    password: Annotated[str, AfterValidator(in_ascii), Field(repr=False)] = ""
    password_file: str = ""  # whose first line is the password, in its place
    timeout_s: Positive = 20  # to connect, and of each wait for an answer
    conversation_s: Positive = 120  # the longest that one connection may take, however busily the server talks

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.tls == "none" and self.host and not is_loopback(self.host):
            raise ValueError(f"tls none sends letter and password in clear to {self.host}: use starttls or implicit")
        if self.password and self.password_file:
            raise ValueError("set either password or password_file")
        if bool(self.login) != bool(self.password or self.password_file):
            raise ValueError("a login needs password or password_file, and these need a login")
        return self


class Ses(Section):
    """Amazon's mail service. Credentials come from the usual AWS places."""

    region: str = ""
    endpoint: str = ""  # of one that is not Amazon's
    timeout_s: Positive = 20  # to connect, and of each wait for bytes


Address = Annotated[str, AfterValidator(mail_address)]


class Mail(Section):
    """Letters to those who answer for the recommender."""

    via: Literal["outbox", "smtp", "ses"] = "outbox"  # outbox: a folder of .eml files, nothing is sent
    sender: Address = "greenlight@localhost"
    to: Annotated[tuple[Address, ...], Field(min_length=1, max_length=50), BeforeValidator(addresses)] = (
        "ml-lead@localhost",
    )
    smtp: Smtp = Smtp()
    ses: Ses = Ses()
    retry_s: Positive = 30  # until the second try; then twice as long each time
    retry_max_s: Positive = 3600
    give_up_days: Positive = 5  # of a mailbox that is full or busy; a server that is down is waited for without end

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.via == "smtp" and not self.smtp.host:
            raise ValueError("via smtp needs smtp.host, the mail server's name")
        abroad = self.via == "ses" or (self.via == "smtp" and not is_loopback(self.smtp.host))
        if abroad and any(address.endswith("@localhost") for address in (self.sender, *self.to)):
            raise ValueError(f"via {self.via} needs mail.sender and mail.to: an address @localhost is nobody elsewhere")
        return self
