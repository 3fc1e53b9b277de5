"""Who gets in: asked of every request before anything of its body is read.

A caller shows a key (`Authorization: Bearer gl_…` or `X-API-Key: gl_…`) or is anonymous. Anonymous callers come from
this machine or through a declared proxy, may do what `door.anonymous` says, and are limited by their address. Of
X-Forwarded-For only what declared proxies wrote is believed, read from the right. A key in an address is refused:
addresses end up in logs.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import unquote_plus

from conf.home import Home
from conf.sections.serving import Scope as Right
from conf.settings import Settings
from serving.keys import WRONG, Key, KeyStore, NoKey
from serving.limiter import Limiter, whole_seconds
from serving.reading import ONLY_K, Headers, Refused, Scope
from serving.scrub import SECRET

Seen = dict[bytes, bytes]  # the headers that matter here
SEEN = frozenset(
    {b"authorization", b"x-api-key", b"origin", b"x-forwarded-for", b"forwarded", b"content-length"}
    | {b"transfer-encoding", b"content-type", b"content-encoding", b"access-control-request-method"}
)
ASK = [(b"www-authenticate", b'Bearer realm="greenlight"')]
HOW = "send one as `Authorization: Bearer gl_...` or `X-API-Key: gl_...`"
EXPOSED = b"X-Request-Id, X-Rung, X-Arm, X-Release, X-State, X-Explored"  # headers that pages of others may read


class TurnedAway(Refused):
    """The door stays shut; `reason` is one of a few words, for the counters."""

    def __init__(self, status: int, reason: str, sentence: str, headers: Headers | None = None) -> None:
        super().__init__(status, sentence, headers)
        self.reason = reason


class Address(NamedTuple):
    """Where a request comes from. `who`: what is limited together, an IPv4 address or an IPv6 /64."""

    is_loopback: bool
    is_proxy: bool  # a declared one
    who: bytes


class Door:
    """`admit` for each request; one for each worker. Without a home there are no keys, and limits are the worker's."""

    def __init__(self, home: Home | None, settings: Settings) -> None:
        self.settings = settings.door
        self._keys = None if home is None else KeyStore(home, settings.door.environment)
        self._limiter = Limiter(None if home is None else home.limits)
        self._origins = frozenset(origin.encode() for origin in settings.door.cors_origins)
        self._proxies = settings.door.trusted_proxies
        self._address = lru_cache(4096)(self._look_up)

    def admit(self, scope: Scope, seen: Seen, needs: Right | None) -> None:
        """Let the caller in, or TurnedAway. `needs` None: open to all, but for keys in addresses."""
        query = scope["query_string"]
        if query and not ONLY_K.fullmatch(query) and SECRET.search(unquote_plus(unquote_plus(query.decode("latin-1")))):
            raise TurnedAway(400, "key-in-query", f"an API key does not belong into an address; {HOW}")
        if needs is None:
            return
        presented = _presented(seen)
        if presented is not None:
            self._with_key(presented, needs)
        else:
            self._without_key(scope, seen, needs)

    def cross_origin(self, scope: Scope, seen: Seen, methods: tuple[str, ...]) -> Headers:
        """Headers that let a page of a listed origin read the answer, or, in a preflight, use the methods."""
        origin = seen.get(b"origin")
        if not self._origins or origin is None:
            return []
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        allowed = [(b"vary", b"Origin"), (b"access-control-allow-origin", origin)]
        if scope["method"] != "OPTIONS":
            return [*allowed, (b"access-control-expose-headers", EXPOSED)]
        return [
            *allowed,
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", b"Authorization, X-API-Key, Content-Type, X-Deadline-Ms"),
            (b"access-control-max-age", b"600"),
        ]

    def is_near(self, scope: Scope, seen: Seen) -> bool:
        """The caller is a program on this machine, and speaks for nobody else."""
        address = self._address(_peer(scope))
        forwards = b"x-forwarded-for" in seen or b"forwarded" in seen
        return address is not None and address.is_loopback and not address.is_proxy and not forwards

    def _with_key(self, presented: str, needs: Right) -> None:
        key: Key | NoKey = self._keys.check(presented) if self._keys else WRONG
        if isinstance(key, NoKey):
            raise TurnedAway(key.status, key.reason, key.sentence, ASK if key.status == 401 else None)
        if not key.may(needs):
            raise TurnedAway(403, "scope", f"this API key lacks the scope `{needs}`; it has: {', '.join(key.scopes)}")
        if key.per_minute is not None:
            self._take(b"key " + key.id.encode(), key.per_minute, "this API key")

    def _without_key(self, scope: Scope, seen: Seen, needs: Right) -> None:
        if needs == "admin":
            if self.is_near(scope, seen):
                return
            raise TurnedAway(401, "no-key", f"this needs an API key with the scope `admin`; {HOW}", ASK)
        peer = self._address(_peer(scope))
        if peer is None or not (peer.is_loopback or peer.is_proxy):
            raise TurnedAway(401, "no-key", f"callers from other machines need an API key; {HOW}", ASK)
        foreign_page = needs != "read" and seen.get(b"origin", b"") not in (self._origins | {b""})
        if needs not in self.settings.anonymous or foreign_page:
            raise TurnedAway(401, "no-key", f"this needs an API key with the scope `{needs}`; {HOW}", ASK)
        who = self._forwarded(peer, seen.get(b"x-forwarded-for", b"")) if peer.is_proxy else peer.who
        self._take(who, self.settings.anonymous_per_minute, "without an API key, one address")

    def _take(self, who: bytes, limit: int, whose: str) -> None:
        seconds = self._limiter.take(who, limit)
        if seconds > 0:
            wait = whole_seconds(seconds)
            sentence = f"{whose} may send {limit} requests a minute; the next in {wait} s"
            raise TurnedAway(429, "limit", sentence, [(b"retry-after", b"%d" % wait)])

    def _forwarded(self, peer: Address, hops: bytes) -> bytes:
        """The first address from the right that is no declared proxy's: what it claims itself is not believed."""
        for hop in reversed(hops.decode("latin-1")[-2000:].split(",")):
            address = self._address(hop.strip())
            if address is None:
                break
            if not address.is_proxy:
                return address.who
            peer = address
        return peer.who

    def _look_up(self, host: str) -> Address | None:
        try:
            address: IPv4Address | IPv6Address = ip_address(host)
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        who = address.packed if address.version == 4 else address.packed[:8]
        return Address(address.is_loopback, any(address in network for network in self._proxies), who)


def seen(headers: Headers) -> Seen:
    """The headers that matter here; of one that comes more than once, all values, comma separated."""
    found: Seen = {}
    for name, value in headers:
        if name in SEEN:
            found[name] = found[name] + b"," + value if name in found else value
    return found


def has_body(seen: Seen) -> bool:
    return b"transfer-encoding" in seen or seen.get(b"content-length", b"0") != b"0"


def _presented(seen: Seen) -> str | None:
    if (key := seen.get(b"x-api-key")) is not None:
        return key.decode("latin-1").strip()
    if (header := seen.get(b"authorization")) is None:
        return None
    scheme, _, key = header.partition(b" ")
    if scheme.lower() != b"bearer":
        raise TurnedAway(401, "malformed", f"this way to log in is not known here; {HOW}", ASK)
    return key.decode("latin-1").strip()


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
