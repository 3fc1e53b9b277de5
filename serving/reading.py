"""Reading a request: viewer, k, deadline, body. What cannot be read is refused with one plain sentence."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote_to_bytes

import orjson

from conf.sections.serving import Serving
from serving.pool import CallerGone

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
USER_ID = re.compile(r"[^\s,\x00-\x1f\x7f]{1,256}")
WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
ONLY_K = re.compile(rb"k=([0-9]{1,9})")
MAX_BODY_BYTES = 16_384  # of POST /v1/recommend: a viewer and a number
BODY_TIMEOUT_S = 2.0  # for the whole body, so that a dripping caller holds nothing
LINGER_S, LINGER_BYTES = 2.0, 64 << 20  # what is read on, unkept, after a refusal


class Call(NamedTuple):
    """One request on its way through the edge. `begun` is on the clock of `time.monotonic`."""

    scope: Scope
    receive: Receive
    begun: float
    request_id: str


class Heard:
    """A `receive` that knows whether the whole body has come through it."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.whole = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.whole |= not message.get("more_body", False)
        return message


class Reply(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class Refused(Exception):
    """A request that cannot be answered: status and one plain sentence."""

    def __init__(self, status: int, sentence: str, headers: Headers | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers or []


def user_in_path(raw: bytes) -> str:
    """The viewer's id from the last part of the path, percent-decoded as UTF-8."""
    try:
        return user(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise Refused(400, "the viewer's id in the path is not UTF-8: percent-encode it as UTF-8") from None


def user(user_id: Any) -> str:
    """The id, if it can be one: it travels in comma-separated lines."""
    if isinstance(user_id, str) and USER_ID.fullmatch(user_id):
        return user_id
    rule = "it must be 1 to 256 characters without commas, white space or control characters"
    raise Refused(400, f"user_id is {_short(user_id)}; {rule}")


def k_in_query(query: bytes, serving: Serving) -> int:
    """`k` of the query string, or the default."""
    if plain := ONLY_K.fullmatch(query):  # nearly every request: spares a general parser
        return count(int(plain[1]), serving.max_k)
    given = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True).get("k")
    if given is None:
        return serving.default_k
    return count(int(given[-1]) if WHOLE_NUMBER.fullmatch(given[-1]) else given[-1], serving.max_k)


def count(k: Any, most: int) -> int:
    """How many movies, if so many can be asked for."""
    if isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= most:
        return k
    raise Refused(400, f"k is {_short(k)}; it must be a whole number from 1 to {most}")


def deadline_ms(headers: Headers, serving: Serving) -> float:
    """What the caller grants in `X-Deadline-Ms`, never more than the outer bound."""
    for name, value in headers:
        if name == b"x-deadline-ms":
            try:
                deadline = float(value)
            except ValueError:
                deadline = float("nan")
            if not deadline > 0:
                raise Refused(
                    400, f"X-Deadline-Ms is {_short(value.decode('latin-1'))}; it must be milliseconds above 0"
                )
            return min(deadline, serving.max_deadline_ms)
    return serving.deadline_ms


def wish(headers: Headers, body: bytes, serving: Serving) -> tuple[str, int]:
    """Viewer and k of a JSON body."""
    kind = next((value for name, value in headers if name == b"content-type"), JSON)
    if kind.split(b";")[0].strip().lower() != JSON:
        raise Refused(415, f"the content type is {_short(kind.decode('latin-1'))}; it must be application/json")
    try:
        wish = orjson.loads(body)
    except orjson.JSONDecodeError as why:
        raise Refused(400, f"the body is not JSON: {why}") from None
    if not isinstance(wish, dict) or "user_id" not in wish:
        raise Refused(400, 'the body must be a JSON object such as {"user_id": "42", "k": 20}')
    if unknown := sorted(set(wish) - {"user_id", "k"}):
        raise Refused(400, f"unknown field {_short(unknown[0])}; the fields are user_id and k")
    return user(wish["user_id"]), count(wish.get("k", serving.default_k), serving.max_k)


async def body(receive: Receive, most: int = MAX_BODY_BYTES, seconds: float = BODY_TIMEOUT_S) -> bytes:
    """The whole body, counted as it is read: a chunked one has no length to believe."""
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                content += message.get("body", b"")
                if len(content) > most:
                    raise Refused(413, f"the body is larger than {most} bytes")
                if not message.get("more_body", False):
                    return bytes(content)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {seconds:g} s") from None


async def rest(receive: Receive) -> None:
    """Read on after a refusal, keeping nothing: a connection that is closed on bytes unread loses the answer too."""
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0 and (message := await receive()).get("more_body", False):
                left -= len(message.get("body", b""))


def again(content: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving


def until_gone(receive: Receive) -> Callable[[], Awaitable[None]]:
    """A wait that ends when the caller closes the connection."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return gone


def _short(value: Any) -> str:
    """A value as it was given, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
