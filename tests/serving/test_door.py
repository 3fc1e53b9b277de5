"""Who gets in: keys, scopes, addresses, limits, origins; in process, with the addresses that a server reports."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from conf.home import Home
from serving.edge import Edge
from serving.keys import KeyStore

Sent = tuple[int, dict[str, str], bytes]


def ask(
    edge: Edge,
    path: str = "/recommend/u0",
    peer: str = "127.0.0.1",
    method: str = "GET",
    query: str = "",
    **headers: str,
) -> Sent:
    """One request as a web server hands it over; `x_api_key="…"` is a header."""

    async def run() -> Sent:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "client": (peer, 5)}
        await edge({**scope, "query_string": query.encode(), "headers": raw}, receive, send)
        told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])

    return asyncio.run(run())


def statuses(edge: Edge, times: int, **how: str) -> list[int]:
    return [ask(edge, **how)[0] for _ in range(times)]


@pytest.fixture
def store(home: Home) -> KeyStore:
    return KeyStore(home)


def test_a_caller_on_this_machine_may_read_without_a_key_and_no_other_caller(client: Callable, home: Home) -> None:
    edge = client(home=home).edge
    assert ask(edge, peer="127.0.0.1")[0] == 200
    assert ask(edge, peer="::1")[0] == 200
    for peer in ("192.0.2.7", "2001:db8::1", "10.0.0.1", "", "not-an-address"):
        status, headers, body = ask(edge, peer=peer)
        assert status == 401, peer
        assert headers["www-authenticate"].startswith("Bearer")
        assert b"API key" in body
        assert ask(edge, "/beneath", peer=peer)[0] == 401  # BentoML's own routes stand behind the same door
    assert ask(edge, "/beneath")[2] == b"from beneath"


def test_a_key_opens_from_everywhere_in_either_header(client: Callable, home: Home, store: KeyStore) -> None:
    text, _ = store.create("site")
    edge = client(home=home).edge
    for headers in ({"x_api_key": text}, {"authorization": f"Bearer {text}"}, {"authorization": f"bearer  {text}"}):
        assert ask(edge, peer="192.0.2.7", **headers)[0] == 200
    assert ask(edge, "/beneath", peer="192.0.2.7", x_api_key=text)[0] == 200


def test_what_is_no_key_is_refused_on_this_machine_too_and_never_repeated(
    client: Callable, home: Home, store: KeyStore
) -> None:
    right, made = store.create("gone")
    expired, _ = store.create("brief", days=1e-9)
    store.revoke(made.id)
    edge = client(home=home).edge
    wrong = {"": "looks like", "GL-TEST-123": "looks like", right[:-1] + "!": "looks like", "x" * 60_000: "looks like",
             right[:-1] + ("a" if right[-1] != "a" else "b"): "typing error", right: "revoked", expired: "expired",
             "gl_lo\xffcal_": "looks like"}  # fmt: skip
    for text, says in wrong.items():
        for headers in ({"x_api_key": text}, {"authorization": f"Bearer {text}"}):
            status, told, body = ask(edge, **headers)
            assert (status, says in body.decode()) == (401, True), (text[:50], body)
            assert len(body) < 200
            assert not text or text.encode("latin-1") not in body
            assert "www-authenticate" in told
    assert ask(edge, authorization="Basic YTpi")[0] == 401


def test_scopes(client: Callable, home: Home, store: KeyStore) -> None:
    poster, reader, lead = (store.create(scope, (scope,))[0] for scope in ("events", "read", "admin"))
    edge = client(home=home).edge
    status, _, body = ask(edge, x_api_key=poster)
    assert status == 403
    assert b"lacks the scope `read`; it has: events" in body
    assert ask(edge, "/metrics", peer="192.0.2.7", x_api_key=reader)[0] == 403
    assert ask(edge, "/metrics", peer="192.0.2.7", x_api_key=lead)[0] == 200
    assert ask(edge, x_api_key=lead)[0] == 200


def test_metrics_are_for_this_machine_and_not_for_those_whom_a_proxy_speaks_for(client: Callable, home: Home) -> None:
    edge = client(home=home).edge
    assert ask(edge, "/metrics")[0] == 200
    assert ask(edge, "/metrics", peer="192.0.2.7")[0] == 401
    assert ask(edge, "/metrics", x_forwarded_for="192.0.2.7")[0] == 401
    behind = client(home=home, door={"trusted_proxies": ["127.0.0.1"]}).edge
    assert ask(behind, "/metrics")[0] == 401


def test_health_is_open_to_all(client: Callable, home: Home) -> None:
    edge = client(home=home, door={"anonymous_per_minute": 1}).edge
    for path in ("/livez", "/readyz", "/healthz"):
        assert [ask(edge, path, peer="192.0.2.7")[0] for _ in range(3)] == [200] * 3


def test_sec_01_a_new_forwarded_address_in_each_request_changes_nothing(client: Callable, home: Home) -> None:
    edge = client(home=home, door={"anonymous_per_minute": 100}).edge
    got = [ask(edge, x_forwarded_for=f"203.0.113.{n}")[0] for n in range(200)]
    assert got == [200] * 100 + [429] * 100


def test_sec_01_of_a_declared_proxy_only_its_own_entry_is_believed(client: Callable, home: Home) -> None:
    door = {"anonymous_per_minute": 100, "trusted_proxies": ["10.0.0.0/8", "127.0.0.1"]}
    edge = client(home=home, door=door).edge
    chain = "203.0.113.{}, 198.51.100.9, 10.0.0.3"
    forged = [ask(edge, peer="10.0.0.2", x_forwarded_for=chain.format(n))[0] for n in range(200)]
    assert forged == [200] * 100 + [429] * 100
    assert ask(edge, peer="10.0.0.2", x_forwarded_for="198.51.100.10")[0] == 200  # another caller of the same proxy
    garbage = [ask(edge, peer="10.0.0.2", x_forwarded_for=f"198.51.100.77, x{n}")[0] for n in range(150)]
    assert garbage == [200] * 100 + [429] * 50  # counted as the proxy's own


def test_ipv6_callers_are_limited_by_their_64(client: Callable, home: Home) -> None:
    edge = client(home=home, door={"anonymous_per_minute": 10, "trusted_proxies": ["10.0.0.0/8"]}).edge

    def from_address(address: str) -> int:
        return ask(edge, peer="10.0.0.2", x_forwarded_for=address)[0]

    assert [from_address(f"2001:db8:0:1::{n:x}") for n in range(20)] == [200] * 10 + [429] * 10
    assert from_address("2001:db8:0:2::1") == 200
    assert [from_address(f"{form}198.51.100.1") for form in ("", "::ffff:") for _ in range(6)] == [200] * 10 + [429] * 2


def test_who_is_limited_is_told_when_to_come_again_and_keys_are_not_limited(
    client: Callable, home: Home, store: KeyStore
) -> None:
    edge = client(home=home, door={"anonymous_per_minute": 2}).edge
    assert statuses(edge, 2) == [200, 200]
    status, headers, body = ask(edge)
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 65
    assert b"2 requests a minute" in body
    assert statuses(edge, 20, x_api_key=store.create("site")[0]) == [200] * 20
    quota = store.create("small", per_minute=3)[0]
    assert statuses(edge, 5, x_api_key=quota) == [200] * 3 + [429] * 2


@pytest.mark.parametrize(
    "query", ["api_key={}", "k=5&X-API-Key={}", "q={}", "api%5Fkey={}", "%61pi_key={}", "q=%2567l_local_abcdefghij_x"]
)
def test_sec_03_a_key_in_the_address_is_refused(client: Callable, home: Home, store: KeyStore, query: str) -> None:
    text, _ = store.create("site")
    edge = client(home=home).edge
    for path in ("/recommend/u0", "/livez", "/beneath", "/v1/recommend"):
        method = "POST" if path.startswith("/v1") else "GET"
        status, _, body = ask(edge, path, query=query.format(text), method=method)
        assert status == 400, path
        assert b"does not belong into an address" in body
        assert text.encode() not in body


def test_cors_is_off_unless_an_origin_is_listed_exactly(client: Callable, home: Home) -> None:
    shop = "https://shop.example.org"
    off, on = client(home=home).edge, client(home=home, door={"cors_origins": [shop], "anonymous_per_minute": 8}).edge

    def allowed(edge: Edge, origin: str, method: str = "GET", **more: str) -> dict[str, str]:
        headers = ask(edge, method=method, origin=origin, **more)[1]
        return {name: value for name, value in headers.items() if name.startswith("access-control")}

    assert allowed(off, shop) == {}
    assert allowed(on, shop)["access-control-allow-origin"] == shop
    for other in ("https://shop.example.org.evil.test", "http://shop.example.org", "null", "https://shop.example.org/"):
        assert allowed(on, other) == {}
    ready = allowed(on, shop, "OPTIONS", access_control_request_method="GET")
    assert ready["access-control-allow-methods"] == "GET, HEAD"
    assert "X-API-Key" in ready["access-control-allow-headers"]
    assert allowed(off, shop, "OPTIONS", access_control_request_method="GET") == {}
    assert "origin" in ask(on, origin=shop)[1]["vary"].lower()
    refused = ask(on, origin=shop, x_api_key="wrong")
    assert (refused[0], refused[1]["access-control-allow-origin"]) == (401, shop)  # so that the page can read why


def test_no_websocket_gets_in(client: Callable) -> None:
    edge, sent = client().edge, []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(edge({"type": "websocket", "path": "/beneath", "headers": []}, send, send))
    assert sent == ["websocket.close"]


def test_without_a_home_a_key_opens_nothing_and_a_neighbour_may_read(client: Callable, store: KeyStore) -> None:
    edge = client().edge
    assert ask(edge)[0] == 200
    assert ask(edge, x_api_key=store.create("site")[0])[0] == 401


def test_refusals_are_counted_by_reason(client: Callable, home: Home) -> None:
    call = client(home=home)
    for key in ("a", "b"):
        ask(call.edge, x_api_key=key)
    ask(call.edge, peer="192.0.2.7")
    assert call.metric('greenlight_turned_away_total{reason="malformed"}') == 2
    assert call.metric('greenlight_turned_away_total{reason="no-key"}') == 1


def test_a_revoked_key_is_out_within_five_seconds(client: Callable, home: Home, store: KeyStore) -> None:
    text, made = store.create("site")
    edge = client(home=home).edge
    assert ask(edge, x_api_key=text)[0] == 200
    store.revoke(made.id)
    until = time.monotonic() + 5
    while ask(edge, x_api_key=text)[0] == 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert ask(edge, x_api_key=text)[0] == 401
