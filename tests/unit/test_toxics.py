"""The proxy that spoils connections does what it says, counts it, and is a function of its seed."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.toxics import DOWN, UP, Bandwidth, Latency, Proxy, Reset, Slicer, Timeout, Toxic, deaf_port

PAYLOAD = random.Random(1).randbytes(300_000)


class Server:
    """Answers each connection: reads 4 bytes, a length, sends that much of PAYLOAD, and so on."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while asked := connection.recv(4, socket.MSG_WAITALL):
                    connection.sendall(PAYLOAD[: int.from_bytes(asked)])
            except OSError:
                return


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.socket.shutdown(socket.SHUT_RDWR)
    made.socket.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port, seed=7) as made:
        yield made


@contextmanager
def connected(proxy: Proxy, timeout: float = 20.0) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout) as connection:
        yield connection


def ask(connection: socket.socket, length: int) -> tuple[bytes, list[int]]:
    """What comes back, and in which pieces."""
    connection.sendall(length.to_bytes(4))
    data, pieces = b"", []
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            break
        data += piece
        pieces.append(len(piece))
    return data, pieces


def read_all(connection: socket.socket, data: bytearray) -> None:
    while piece := connection.recv(65536):
        data += piece


def test_without_toxics_all_passes(proxy: Proxy) -> None:
    """Bytes come through unchanged in both directions, on several connections, and are counted."""
    for _ in range(2):
        with connected(proxy) as connection:
            assert ask(connection, len(PAYLOAD))[0] == PAYLOAD
            assert ask(connection, 10)[0] == PAYLOAD[:10]
    assert proxy.connections == 2
    assert proxy.passed == {DOWN: 2 * (len(PAYLOAD) + 10), UP: 16}


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_latency_delays(proxy: Proxy, direction: str) -> None:
    """An answer takes at least the latency, whichever direction has it; it applies to a connection that stands."""
    with connected(proxy) as connection:
        ask(connection, 1)
        latency = Latency(seconds=0.3, direction=direction)
        proxy.toxics = (latency,)
        began = time.monotonic()
        assert ask(connection, 1000)[0] == PAYLOAD[:1000]
        assert time.monotonic() - began >= 0.3
    assert latency.hits > 0


def test_bandwidth_bounds_the_rate(proxy: Proxy) -> None:
    """300 kB at 600 kB a second take at least half a second less one step."""
    bandwidth = Bandwidth(rate=600_000)
    proxy.toxics = (bandwidth,)
    with connected(proxy) as connection:
        began = time.monotonic()
        assert ask(connection, len(PAYLOAD))[0] == PAYLOAD
        assert time.monotonic() - began >= 0.45
    assert bandwidth.hits >= 10


def test_slices_are_a_function_of_the_seed(server: Server) -> None:
    """The slicer cuts an answer into small pieces, equally for equal seeds, otherwise for another seed."""
    cuts = []
    for seed in (3, 3, 5):
        slicer = Slicer(size=100)
        with Proxy(server.port, seed=seed) as proxy, connected(proxy) as connection:
            proxy.toxics = (slicer,)
            assert ask(connection, 5000)[0] == PAYLOAD[:5000]
        assert slicer.hits >= 50
        cuts.append(slicer.hits)
    assert cuts[0] == cuts[1] != cuts[2]


@pytest.mark.parametrize("after", [0, 1, 70_000])
def test_reset_tears_an_answer(proxy: Proxy, after: int) -> None:
    """So many bytes of the answer arrive at most, then the connection is reset, not ended; the next one is whole."""
    reset = Reset(after=after, times=1)
    proxy.toxics = (reset,)
    with connected(proxy) as connection:
        connection.sendall(len(PAYLOAD).to_bytes(4))
        data = bytearray()
        with pytest.raises(ConnectionResetError):
            read_all(connection, data)
        # The client's own system drops what it had not handed over when the reset arrived.
        assert PAYLOAD[:after].startswith(data)
    with connected(proxy) as connection:
        assert ask(connection, len(PAYLOAD))[0] == PAYLOAD
    assert (reset.hits, proxy.passed[DOWN]) == (1, after + len(PAYLOAD))


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_a_black_hole_swallows_until_it_is_healed(proxy: Proxy, direction: str) -> None:
    """Nothing comes, nothing ends; healing resets what has lost bytes, and new connections work."""
    hole = Timeout(direction=direction)
    with connected(proxy, timeout=0.3) as connection:
        ask(connection, 1)
        proxy.toxics = (hole,)
        with pytest.raises(TimeoutError):
            ask(connection, 10)
        assert hole.hits > 0
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connected(proxy) as connection:
        assert ask(connection, 10)[0] == PAYLOAD[:10]


def test_a_toxic_of_some_connections_leaves_the_others(proxy: Proxy) -> None:
    """`of` chooses by the connection's number."""
    reset = Reset(after=0, of=lambda number: number % 2 == 1)
    proxy.toxics = (reset,)
    outcomes = []
    for _ in range(4):
        with connected(proxy) as connection:
            try:
                outcomes.append(len(ask(connection, 10)[0]))
            except ConnectionResetError:
                outcomes.append(-1)
    assert outcomes == [-1, 10, -1, 10]


def test_refused_and_accepted_again(proxy: Proxy) -> None:
    """A proxy that refuses has nobody listening and resets what stands; later it is back on its port."""
    with connected(proxy) as connection:
        ask(connection, 1)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError), connected(proxy):
        pass
    proxy.accept()
    with connected(proxy) as connection:
        assert ask(connection, 10)[0] == PAYLOAD[:10]


def test_nobody_behind_is_a_reset() -> None:
    """Where nothing listens behind the proxy, a client is cut off at once."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    # The proxy may be so quick that the connect itself already sees the reset.
    with Proxy(port) as proxy, pytest.raises(ConnectionResetError), connected(proxy) as connection:
        connection.recv(1)


def test_a_deaf_port_answers_no_connect() -> None:
    """A connect to it neither succeeds nor fails."""
    with deaf_port() as port, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), timeout=0.5)


def test_toxics_add_up(proxy: Proxy) -> None:
    """Several toxics at once all take part, and the bytes stay right."""
    toxics: tuple[Toxic, ...] = (
        Latency(seconds=0.05, jitter=0.02),
        Slicer(size=20_000),
        Latency(seconds=0, direction=UP),
    )
    proxy.toxics = toxics
    with connected(proxy) as connection:
        assert ask(connection, len(PAYLOAD))[0] == PAYLOAD
    assert all(toxic.hits for toxic in toxics)
