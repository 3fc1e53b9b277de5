"""A real mail server (aiosmtpd) on loopback, with TLS and a login, that fails on request in each phase of SMTP."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

LOGIN, PASSWORD = "greenlight", "Correct Horse"


@dataclass(frozen=True)
class Mailed:
    """A letter that the server took."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class Faults:
    """What to answer instead, by phase: banner, EHLO, STARTTLS, AUTH, MAIL, RCPT, `RCPT <address>`, go, body, DATA.

    A reply, such as `550 no`; `hang`: nothing is said; `drip`: a line now and then without end; `cut`: the connection
    is reset. go: instead of the 354; body: in the middle of the content; DATA: after the final dot.
    """

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self.mails: list[Mailed] = []
        self.seen: list[str] = []  # phases, in order

    async def at(self, phase: str, server: SMTP) -> str | None:
        """The reply to give; None where nothing is wrong."""
        self.seen.append(phase)
        match self.of.get(phase):
            case "hang":
                await asyncio.sleep(3600)
            case "drip":
                while True:
                    await server.push("250-still here")
                    await asyncio.sleep(0.05)
            case "cut":
                server.transport.abort()
                return "250 nobody hears this"
            case reply:
                return reply
        return None

    # aiosmtpd calls these by their names ------------------------------------------------------------------------------

    async def handle_EHLO(self, server: SMTP, session: Session, e: Envelope, name: str, says: list[str]) -> list[str]:
        session.host_name = name
        fault = await self.at("EHLO", server)
        return [fault] if fault else says

    async def handle_HELO(self, server: SMTP, session: Session, envelope: Envelope, name: str) -> str:
        session.host_name = name
        return self.of.get("EHLO") or "250 hello"

    async def handle_MAIL(self, server: SMTP, s: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        if fault := await self.at("MAIL", server):
            return fault
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: SMTP, s: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        fault = await self.at(f"RCPT {address}", server) or await self.at("RCPT", server)
        if fault:
            return fault
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        mailed = Mailed(str(envelope.mail_from), tuple(envelope.rcpt_tos), bytes(envelope.content or b""))
        fault = await self.at("DATA", server)
        if fault and not fault.startswith("250"):
            return fault
        self.mails.append(mailed)
        return fault or "250 taken"

    def login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        self.seen.append("AUTH")
        right = isinstance(data, LoginPassword) and data == LoginPassword(LOGIN.encode(), PASSWORD.encode())
        if fault := self.of.get("AUTH"):
            return AuthResult(success=False, handled=False, message=fault)
        return AuthResult(success=right, handled=False)


class Server(SMTP):
    """aiosmtpd's own, with the phases that it has no hook for."""

    async def push(self, status: str | bytes) -> None:
        faults: Faults = self.event_handler
        if self.session and not self.session.host_name and str(status).startswith("220 "):
            status = await faults.at("banner", self) or status
        await super().push(status)

    async def smtp_STARTTLS(self, arg: str) -> None:
        if fault := await self.event_handler.at("STARTTLS", self):
            await self.push(fault)
            return
        await super().smtp_STARTTLS(arg)

    async def smtp_DATA(self, arg: str) -> None:
        if fault := self.event_handler.of.get("go"):
            await self.push(fault)
            return
        if "body" in self.event_handler.of:
            await self.push("354 go on")
            await self._reader.read(10)
            self.transport.abort()
            return
        await super().smtp_DATA(arg)


@contextmanager
def mail_server(
    certificate: Path | None, *, implicit: bool = False, login: bool = True
) -> Iterator[tuple[Faults, int]]:
    """A running one, and its port. certificate: key and certificate in one PEM file; None: it offers no TLS."""
    faults, context = Faults(), None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    options: dict[str, Any] = {"hostname": "localhost", "tls_context": None if implicit else context}
    if login and context:
        options |= {"authenticator": faults.login, "auth_required": True, "auth_require_tls": not implicit}
    loop = asyncio.new_event_loop()
    serving = loop.create_server(
        lambda: Server(faults, loop=loop, **options), "127.0.0.1", 0, ssl=context if implicit else None
    )
    listening = loop.run_until_complete(serving)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield faults, listening.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
