"""A small TCP proxy that stands before a server and spoils its connections, with Toxiproxy's names for its toxics.

    down         nobody listens; what was connected is cut off
    timeout      connections are accepted and nothing comes through; what was held flows on when it is over, late, as
                 after a network that was gone
    reset_peer   each connection is reset after so many bytes to the server: in the middle of a request
    latency      every byte to the client takes so many seconds more
    bandwidth    so many bytes a second, each way and connection
    slow_close   the end of a connection is passed on so many seconds late

A server that tells clients where to connect (Kafka's `advertised.listeners`) has to name the proxy, else they go past
it: the address is known before the server runs, and the server is first needed when somebody connects.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

Name = Literal["down", "timeout", "reset_peer", "latency", "bandwidth", "slow_close"]
CHUNK = 65_536
LIMIT = 256  # chunks of one direction: what a slow network holds
LOOK_S = 0.02  # how often a held connection looks whether it may go on


UnderWay = asyncio.Queue[tuple[float, bytes]]  # when it came, and what; no bytes are the end


class Toxic(NamedTuple):
    """amount: bytes of reset_peer, bytes a second of bandwidth, seconds of latency and slow_close."""

    name: Name
    amount: float = 0.0


class Proxy:
    """Listens on a free port of loopback, in a thread of its own. upstream: `host:port` of the server."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.accepted = upstream, 0  # accepted: connections so far
        self.toxic: Toxic | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connections: set[_Connection] = set()
        self._port = 0
        self._run(self._listen())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def add(self, name: Name, amount: float = 0.0) -> None:
        """Spoil connections, those that are open too, in this way alone."""
        self.remove()
        self.toxic = Toxic(name, amount)
        if name == "down":
            self._run(self._down())

    def remove(self) -> None:
        """Let everything through."""
        was, self.toxic = self.toxic, None
        if was and was.name == "down":
            self._run(self._listen())

    def close(self) -> None:
        self._run(self._down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, doing: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        self._server.close()
        tasks = [connection.task for connection in self._connections]
        for connection in list(self._connections):
            connection.reset()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


class _Connection:
    """One client, and its connection to the server."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy, self.client, self.sent = proxy, (reader, writer), 0
        self.writers = [writer]
        task = asyncio.current_task()
        assert task is not None
        self.task = task

    async def run(self) -> None:
        host, _, port = self.proxy.upstream.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:  # the server is gone: so is the connection
            return self.reset()
        self.writers.append(writer)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._flow(self.client[0], writer, up=True), self._flow(reader, self.client[1]))
        self.reset()

    def reset(self) -> None:
        """Both sides see a reset, which is no end: what is under way is lost."""
        for writer in self.writers:
            with suppress(OSError):
                made: socket.socket = writer.get_extra_info("socket")
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _flow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool = False) -> None:
        under_way: UnderWay = asyncio.Queue(LIMIT)
        passing = asyncio.create_task(self._pass_on(under_way, writer, up))
        try:
            while data := await reader.read(CHUNK):
                await under_way.put((asyncio.get_running_loop().time(), data))
            await under_way.put((asyncio.get_running_loop().time(), b""))
            await passing
        finally:
            passing.cancel()

    async def _pass_on(self, under_way: UnderWay, writer: asyncio.StreamWriter, up: bool) -> None:
        while True:
            came, data = await under_way.get()
            await self._wait(came, len(data), up)
            toxic = self.proxy.toxic
            if toxic and toxic.name == "reset_peer" and up and self.sent + len(data) > toxic.amount:
                writer.write(data[: max(0, int(toxic.amount) - self.sent)])
                await writer.drain()
                return self.reset()
            if not data:
                return await self._end(writer)
            self.sent += len(data) if up else 0
            writer.write(data)
            await writer.drain()

    async def _wait(self, came: float, size: int, up: bool) -> None:
        """As long as today's toxic makes bytes wait that came at a time of the loop's clock."""
        while (toxic := self.proxy.toxic) and toxic.name == "timeout":
            await asyncio.sleep(LOOK_S)
        if toxic and toxic.name == "latency" and not up:
            await asyncio.sleep(came + toxic.amount - asyncio.get_running_loop().time())
        elif toxic and toxic.name == "bandwidth":
            await asyncio.sleep(size / toxic.amount)

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        if (toxic := self.proxy.toxic) and toxic.name == "slow_close":
            await asyncio.sleep(toxic.amount)
        with suppress(OSError):
            writer.write_eof()
