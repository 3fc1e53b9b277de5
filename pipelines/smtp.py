"""Letters by SMTP (RFC 5321), with TLS and a login. One letter at a time, to all of its recipients at once.

What goes wrong before a letter begins, and a connection that breaks, is `Trouble`: it concerns every letter. What the
server says of a sender, a recipient or the content is the answer for those. Nothing is ever sent in clear where the
settings want TLS, nor to a server whose certificate is not trusted.
"""

import base64
import smtplib
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from conf.sections.mail import Smtp
from monitoring.letter import HIDDEN, hidden, one_line, shortened
from pipelines.carrier import Answer, Trouble

SAID = 300  # characters of what a server said that are kept
CLOSING = 421
NO_LOGIN = (530, 534, 535, 538)  # said of a sender, they are about the login: RFC 4954


@contextmanager
def smtp(conf: Smtp, name: str) -> Iterator["Link"]:
    """A connection, encrypted and logged in. name: of this machine's mail domain, for the greeting."""
    link = Link(conf, name)
    try:
        with link.in_time():
            link.open()
        yield link
        with suppress(smtplib.SMTPException, OSError), link.in_time():
            link.server.quit()
    finally:
        link.server.close()


class Link:
    """A conversation with a mail server."""

    def __init__(self, conf: Smtp, name: str) -> None:
        self.conf = conf
        self.password = _password(conf)
        self.context = _context(conf)
        self.server = _server(conf, name, self.context)
        self._used = False

    def open(self) -> None:
        """Connect, greet, encrypt, log in."""
        with self._phase("it cannot be reached"):
            code, said = self.server.connect(self.conf.host, self.conf.port)
        if code != 220:
            raise Trouble(f"{self._name} lets nobody in: {self._words(code, said)}")
        with self._phase("it refuses the greeting"):
            self.server.ehlo_or_helo_if_needed()
        if self.conf.tls == "starttls":
            with self._phase("it does not encrypt, so nothing is sent (setting mail.smtp.tls)"):
                self.server.starttls(context=self.context)
                self.server.ehlo_or_helo_if_needed()
        if self.conf.login:
            with self._phase("it refuses the login (settings mail.smtp.login and its password)"):
                self.server.login(self.conf.login, self.password)

    def carry(self, sender: str, recipients: Sequence[str], content: bytes) -> Iterator[dict[str, Answer]]:
        with self.in_time(), self._phase("it broke off"):
            if self._used:
                self.server.rset()
            self._used = True
            answers = self._transaction(sender, recipients, content)
        yield answers

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """What is said meanwhile ends in time, also where the server sends a character now and then."""
        timer = threading.Timer(self.conf.conversation_s, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _transaction(self, sender: str, recipients: Sequence[str], content: bytes) -> dict[str, Answer]:
        size = [f"size={len(content)}"] if self.server.has_extn("size") else []
        refused = self._answer(*self.server.mail(sender, size), about_login=True)
        if refused:
            return dict.fromkeys(recipients, refused)
        answers = {recipient: self._answer(*self.server.rcpt(recipient)) for recipient in recipients}
        accepted = [recipient for recipient, answer in answers.items() if answer is None]
        done: Answer | None = None
        if accepted:
            try:
                code, said = self.server.data(content)
            except smtplib.SMTPDataError as why:
                code, said = why.smtp_code, why.smtp_error  # type: ignore[assignment]
            done = self._answer(code, said) or Answer("sent", self._words(code, said))
        return {recipient: answer or done or Answer("later", "") for recipient, answer in answers.items()}

    def _answer(self, code: int, said: bytes | str, *, about_login: bool = False) -> Answer | None:
        """None where it agrees. 5xx is for good, anything else for now."""
        if code == CLOSING or (about_login and code in NO_LOGIN):
            raise Trouble(f"{self._name} takes nothing now: {self._words(code, said)}")
        if 200 <= code < 300:
            return None
        return Answer("refused" if 500 <= code < 600 else "later", self._words(code, said))

    @property
    def _name(self) -> str:
        return f"the mail server {self.conf.host}:{self.conf.port}"

    @contextmanager
    def _phase(self, what: str) -> Iterator[None]:
        try:
            yield
        except smtplib.SMTPResponseException as why:
            raise Trouble(f"{self._name}: {what}: {self._words(why.smtp_code, why.smtp_error)}") from None
        except ssl.SSLCertVerificationError as why:
            says = f"its certificate is not trusted ({why.verify_message}): mail.smtp.authority names who signed it"
            raise Trouble(f"{self._name}: {what}: {says}") from None
        except (smtplib.SMTPException, OSError, ValueError) as why:
            raise Trouble(f"{self._name}: {what}: {self._plain(_reason(why))}") from None

    def _words(self, code: int, said: bytes | str) -> str:
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return f"{code} {self._plain(text)}".strip()

    def _plain(self, text: str) -> str:
        """What a server said, in one line; it may repeat what it was told, the password included."""
        login = self.conf.login
        for told in (self.password, f"\0{login}\0{self.password}") if self.password else ():
            for form in (told, base64.b64encode(told.encode()).decode()):
                text = text.replace(form, HIDDEN)
        return shortened(hidden(one_line(text)), SAID)

    def _hang_up(self) -> None:
        with suppress(OSError, AttributeError):  # it ended just now
            self.server.sock.shutdown(2)  # type: ignore[union-attr]


def _reason(why: Exception) -> str:
    if isinstance(why, TimeoutError) or isinstance(why.__context__, TimeoutError):  # smtplib wraps it
        return "no answer in time"
    return str(getattr(why, "strerror", None) or why)


def _server(conf: Smtp, name: str, context: ssl.SSLContext | None) -> smtplib.SMTP:
    """Not connected yet."""
    server = smtplib.SMTP(local_hostname=name, timeout=conf.timeout_s)
    if conf.tls == "implicit":
        server = smtplib.SMTP_SSL(local_hostname=name, timeout=conf.timeout_s, context=context)
    server._host = conf.host  # type: ignore[attr-defined]  # smtplib's place for whose certificate it has to be
    return server


def _context(conf: Smtp) -> ssl.SSLContext | None:
    if conf.tls == "none":
        return None
    try:
        return ssl.create_default_context(cafile=conf.authority or None)
    except OSError as why:
        reason = why.strerror or why
        raise Trouble(
            f"setting mail.smtp.authority = {conf.authority!r} is no file of certificates: {reason}"
        ) from None


def _password(conf: Smtp) -> str:
    if not conf.password_file:
        return conf.password
    try:
        lines = Path(conf.password_file).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as why:
        reason = getattr(why, "strerror", None) or "it is not ASCII"
        raise Trouble(f"setting mail.smtp.password_file = {conf.password_file!r} cannot be read: {reason}") from None
    return lines[0] if lines else ""
