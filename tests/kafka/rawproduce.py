"""Producing with any timestamp: the client's library takes 0 and -1 for "now", the protocol does not."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

# Castagnoli's polynomial, reversed: record batches are summed with CRC-32C (RFC 3720, appendix B.4).
_POLYNOMIAL = 0x82F63B78
_PRODUCE, _VERSION = 0, 7


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _varint(value: int) -> bytes:
    """Zigzag, then seven bits a byte, least first."""
    left = (value << 1) ^ (value >> 63)
    made = bytearray()
    while left > 0x7F:
        made.append(left & 0x7F | 0x80)
        left >>= 7
    made.append(left)
    return bytes(made)


def _batch(value: bytes, timestamp: int) -> bytes:
    """A record batch (magic 2) of one record without key and headers."""
    body = b"\x00" + _varint(0) + _varint(0) + _varint(-1) + _varint(len(value)) + value + _varint(0)
    record = _varint(len(body)) + body
    # attributes, last offset delta, first and greatest timestamp, producer id, epoch, sequence, records
    summed = struct.pack(">hiqqqhii", 0, 0, timestamp, timestamp, -1, -1, -1, 1) + record
    # base offset, then the length of what follows it: leader epoch, magic, sum, and what is summed
    return struct.pack(">qiibI", 0, 9 + len(summed), -1, 2, crc32c(summed)) + summed


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def produce_at(servers: str, topic: str, records: Sequence[tuple[bytes, int]]) -> list[int]:
    """Write (value, timestamp) to partition 0, each a batch of its own; the offsets, with acks from all."""
    host, port = servers.rsplit(":", 1)
    offsets = []
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for value, timestamp in records:
            batch = _batch(value, timestamp)
            body = struct.pack(">hhi", -1, -1, 10_000) + struct.pack(">i", 1) + _text(topic)
            body += struct.pack(">iii", 1, 0, len(batch)) + batch
            request = struct.pack(">hhi", _PRODUCE, _VERSION, 1) + _text("tests") + body
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = _exactly(connection, struct.unpack(">i", _exactly(connection, 4))[0])
            # correlation id, one topic with its name, one partition: index, error, offset
            at = 4 + 4 + 2 + len(topic) + 4
            _, error, offset = struct.unpack_from(">ihq", answer, at)
            assert error == 0, f"Kafka refused a record dated {timestamp}: error {error}"
            offsets.append(offset)
    return offsets


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, "the broker hung up"
        data += part
    return data
