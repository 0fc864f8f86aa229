"""A TCP proxy on 127.0.0.1 that spoils what passes, by a seed: latency, bandwidth, slicer, reset, time-out.

Names and meaning follow Toxiproxy's toxics. Each toxic counts what it did in `hits`, so that a test can prove that its
fault was really injected. `deaf_port` is the one fault that needs no proxy: a port whose connects are never answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

DOWN, UP = "down", "up"
_CHUNK = 1 << 16
# Bytes on the way in one direction are bounded by so many chunks.
_QUEUE = 64
# A slow line passes bytes on in steps of this length, not in one lump.
_STEP_S = 0.05
# Closing a socket with this option sends a reset instead of an end.
_RESET = struct.pack("ii", 1, 0)
_WAIT_S = 10.0


def every(number: int) -> bool:
    """Accepts each connection; `Toxic.of` is asked with its number, counted from 1."""
    del number
    return True


@dataclass(kw_only=True)
class Toxic:
    """What is done to the bytes of one direction: `down` from the server to the client, or `up`."""

    direction: str = DOWN
    of: Callable[[int], bool] = every
    hits: int = 0

    async def spoil(self, pipe: _Pipe, pieces: list[bytes], read_at: float) -> list[bytes]:
        """Delay, cut or swallow what was read at `read_at` (monotonic); returns what is passed on, in order."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Latency(Toxic):
    """Bytes arrive `seconds` later, give or take up to `jitter`; their order stays."""

    seconds: float
    jitter: float = 0.0

    async def spoil(self, pipe: _Pipe, pieces: list[bytes], read_at: float) -> list[bytes]:
        """Wait until the bytes are due."""
        self.hits += 1
        due = read_at + self.seconds + pipe.chance.uniform(-self.jitter, self.jitter)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        return pieces


@dataclass(kw_only=True)
class Bandwidth(Toxic):
    """At most `rate` bytes a second."""

    rate: float

    async def spoil(self, pipe: _Pipe, pieces: list[bytes], read_at: float) -> list[bytes]:
        """Pass all on in steps, each after the time that it takes."""
        step = max(1, int(self.rate * _STEP_S))
        for piece in pieces:
            for at in range(0, len(piece), step):
                part = piece[at : at + step]
                self.hits += 1
                await asyncio.sleep(len(part) / self.rate)
                await pipe.pass_on(part)
        return []


@dataclass(kw_only=True)
class Slicer(Toxic):
    """Bytes arrive in pieces of 1 to `size` bytes with `pause` seconds between them."""

    size: int
    pause: float = 0.0

    async def spoil(self, pipe: _Pipe, pieces: list[bytes], read_at: float) -> list[bytes]:
        """Cut by the seed."""
        for piece in pieces:
            at = 0
            while at < len(piece):
                length = pipe.chance.randint(1, self.size)
                self.hits += 1
                await pipe.pass_on(piece[at : at + length])
                await asyncio.sleep(self.pause)
                at += length
        return []


@dataclass(kw_only=True)
class Reset(Toxic):
    """A connection is reset once `after` bytes have passed in this direction, amid an answer; `times` in all."""

    after: int
    times: int = 1 << 30

    async def spoil(self, pipe: _Pipe, pieces: list[bytes], read_at: float) -> list[bytes]:
        """Pass on what still fits, then reset both sides."""
        data = b"".join(pieces)
        seen = pipe.seen.get(id(self), 0)
        pipe.seen[id(self)] = seen + len(data)
        if seen + len(data) <= self.after or self.hits >= self.times:
            return pieces
        self.hits += 1
        await pipe.pass_on(data[: max(0, self.after - seen)])
        pipe.connection.reset()
        return []


@dataclass(kw_only=True)
class Timeout(Toxic):
    """A black hole: after `after` bytes nothing more of a connection passes in this direction, and it stays open."""

    after: int = 0

    async def spoil(self, pipe: _Pipe, pieces: list[bytes], read_at: float) -> list[bytes]:
        """Swallow."""
        data = b"".join(pieces)
        seen = pipe.seen.get(id(self), 0)
        pipe.seen[id(self)] = seen + len(data)
        if seen + len(data) <= self.after:
            return pieces
        self.hits += 1
        # What was swallowed is missing for ever: the connection must never come back to life.
        pipe.connection.torn = True
        return [data[: max(0, self.after - seen)]]


@dataclass
class _Pipe:
    """One direction of a connection."""

    proxy: Proxy
    connection: _Connection
    direction: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    chance: random.Random
    seen: dict[int, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Pass bytes on until this direction ends."""
        queue: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue(_QUEUE)
        reading = asyncio.create_task(self._read(queue))
        try:
            while not self.connection.closed:
                data, read_at = await queue.get()
                if not data:
                    self.writer.write_eof()
                    break
                await self._spoil(data, read_at)
        except OSError:
            self.connection.reset()
        finally:
            reading.cancel()

    async def pass_on(self, data: bytes) -> None:
        """Write to the other side."""
        if data and not self.connection.closed:
            self.proxy.passed[self.direction] += len(data)
            self.writer.write(data)
            await self.writer.drain()

    async def _read(self, queue: asyncio.Queue[tuple[bytes, float]]) -> None:
        while True:
            try:
                data = await self.reader.read(_CHUNK)
            except OSError:
                self.connection.reset()
                return
            await queue.put((data, time.monotonic()))
            if not data:
                return

    async def _spoil(self, data: bytes, read_at: float) -> None:
        pieces = [data]
        if self.connection.torn and not self.proxy.toxics:
            self.connection.reset()
            return
        for toxic in self.proxy.toxics:
            if toxic.direction == self.direction and toxic.of(self.connection.number):
                pieces = await toxic.spoil(self, pieces, read_at)
        for piece in pieces:
            await self.pass_on(piece)


class _Connection:
    """A client's connection and the one behind it."""

    def __init__(self, proxy: Proxy, number: int, client: asyncio.StreamWriter) -> None:
        self.proxy, self.number, self.torn, self.closed = proxy, number, False, False
        self._writers, self._pipes = [client], list[asyncio.Task[None]]()

    async def run(self, reader: asyncio.StreamReader) -> None:
        try:
            upstream, writer = await asyncio.open_connection("127.0.0.1", self.proxy.upstream)
        except OSError:
            # What is behind refuses: the client must see that, not an orderly end.
            self.reset()
            return
        client = self._writers[0]
        self._writers.append(writer)
        ways = ((UP, reader, writer), (DOWN, upstream, client))
        for way, source, sink in ways:
            chance = random.Random(f"{self.proxy.seed}/{self.number}/{way}")
            pipe = _Pipe(self.proxy, self, way, source, sink, chance)
            self._pipes.append(asyncio.create_task(pipe.run()))
        try:
            await asyncio.wait(self._pipes, return_when=asyncio.ALL_COMPLETED)
        finally:
            self.reset()

    def reset(self) -> None:
        """Reset both sides; what waits to be written is dropped."""
        self.closed = True
        for writer in self._writers:
            if not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
        for pipe in self._pipes:
            if pipe is not asyncio.current_task():
                pipe.cancel()


class Proxy:
    """Passes 127.0.0.1:`port` on to 127.0.0.1:`upstream` in a thread of its own; a context manager.

    toxics       in force for every connection, also for those that stand; replace it as a whole
    connections  how many were accepted so far
    passed       bytes that were passed on, by direction

    Decisions by chance are a function of the seed, the connection's number and the direction.
    """

    def __init__(self, upstream: int, *, port: int = 0, seed: int = 0) -> None:
        self.upstream, self.port, self.seed = upstream, port, seed
        self.toxics: tuple[Toxic, ...] = ()
        self.connections = 0
        self.passed = {DOWN: 0, UP: 0}
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="toxics", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.refuse()
        self._ask(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()

    def refuse(self) -> None:
        """Refuse connections from now on, and reset those that stand."""
        self._ask(self._close())

    def accept(self) -> None:
        """Accept connections, on the port from before."""
        self._ask(self._listen())

    def reset(self) -> None:
        """Reset every connection that stands."""
        self._ask(self._reset())

    def heal(self) -> None:
        """Take all toxics away, reset connections that have lost bytes, and accept."""
        self.toxics = ()
        self._ask(self._reset(only_torn=True))
        self.accept()

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_CHUNK)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self, *, only_torn: bool = False) -> None:
        for connection in list(self._open):
            if connection.torn or not only_torn:
                connection.reset()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = _Connection(self, self.connections, writer)
        self._open.add(connection)
        try:
            await connection.run(reader)
        finally:
            self._open.discard(connection)


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port at which a connect is neither accepted nor refused: its queue is full and nobody takes from it."""
    with socket.socket() as server, contextlib.ExitStack() as fillers:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(2):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]
