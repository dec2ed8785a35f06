"""TFRecord files with ``tf.train.Example`` messages, read without TensorFlow.

A file is a row of records: length (8 bytes, little endian), its masked CRC32C (4 bytes), the data, their masked CRC32C
(tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details"). The data are a protocol buffer: nested
fields, each a number and a wire type (protobuf.dev/programming-guides/encoding, tensorflow/core/example/example.proto).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed (RFC 3720, appendix B.4)
_BLOCK = 4096
_LARGEST = 1 << 31  # bytes a protocol buffer may have
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def records(path: str | Path) -> Iterator[bytes]:
    """The records of a file, plain or gzip (told by its first bytes, not by its name), both checksums verified.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is empty, truncated or damaged; the message names it and the record.
    """
    path = Path(path)
    with open(path, "rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        handle = gzip.GzipFile(fileobj=plain) if packed else plain
        number = 0
        try:
            while head := handle.read(12):
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12:
                    raise ValueError(f"record {number} is truncated in its head")
                _check(head[:8], head[8:], f"length of record {number}")
                if length > _LARGEST:
                    raise ValueError(f"record {number} states a length of {length} bytes, more than a message may have")
                data = handle.read(length + 4)
                if len(data) < length + 4:
                    raise ValueError(f"record {number} is truncated: {len(data)} of {length + 4} bytes")
                _check(data[:length], data[length:], f"data of record {number}")
                yield data[:length]
                number += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"'{path}': record {number} is damaged or truncated ({error})") from error
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error
    if number == 0:
        raise ValueError(f"'{path}' holds no record")


def floats(example: bytes, name: str) -> np.ndarray:
    """A float feature of one ``tf.train.Example``.

    Parameters
    ----------
    example : bytes
        One record.
    name : str
        Of the feature, such as ``embedding``.

    Returns
    -------
    numpy.ndarray
        Shape ``(F,)``, float32.

    Raises
    ------
    ValueError
        When the bytes are no Example, or hold no float feature of that name; the message lists the features.
    """
    features = {}
    for group in _bytes_fields(example, 1):
        for entry in _bytes_fields(group, 1):
            keys, values = _bytes_fields(entry, 1), _bytes_fields(entry, 2)
            if not keys or not values:
                raise ValueError("a feature without name or value; this is no tf.train.Example")
            features[keys[-1].decode(errors="replace")] = values[-1]
    lists = _bytes_fields(features.get(name, b""), 2)  # 1 would be a list of bytes, 3 of integers
    if not lists:
        raise ValueError(f"no float feature '{name}'; the features are {', '.join(sorted(features)) or 'none'}")
    # A packed list is one field of all numbers, an unpacked one a field for each: joined they are the same bytes.
    numbers = b"".join(v for number, _, v in _fields(lists[-1]) if number == 1)
    if len(numbers) % 4:
        raise ValueError(f"feature '{name}' has {len(numbers)} bytes, expected a multiple of 4")
    return np.frombuffer(numbers, dtype="<f4").astype(np.float32)


def crc32c(data: bytes) -> int:
    """CRC32C of bytes (RFC 3720, appendix B.4); zlib has only another polynomial."""
    table = _table()
    state = 0xFFFFFFFF
    for start in range(0, len(data), _BLOCK):
        block = np.frombuffer(data, dtype=np.uint8, offset=start, count=min(_BLOCK, len(data) - start)).copy()
        used = min(4, len(block))
        block[:used] ^= np.frombuffer(state.to_bytes(4, "little"), dtype=np.uint8)[:used]
        # The CRC is linear: the xor of what each byte alone would leave, which depends on its distance to the end.
        alone = table[np.arange(len(block) - 1, -1, -1), block]
        state = (state >> 8 * used) ^ int(np.bitwise_xor.reduce(alone))
    return state ^ 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    """State left by a byte that is followed by so many zero bytes: shape (4096, 256), 4 MB."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = (row >> 1) ^ np.where(row & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    table = np.empty((_BLOCK, 256), dtype=np.uint32)
    table[0] = row
    for k in range(1, _BLOCK):
        table[k] = (table[k - 1] >> 8) ^ row[table[k - 1] & 255]
    return table


def _check(data: bytes, stored: bytes, what: str) -> None:
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if masked != int.from_bytes(stored, "little"):
        raise ValueError(f"the checksum of the {what} does not fit: damaged, or not a TFRecord file")


def _bytes_fields(message: bytes, wanted: int) -> list[bytes]:
    return [v for number, wire, v in _fields(message) if number == wanted and wire == _BYTES]


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, wire type and bytes of each field of a protocol buffer."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            start = place
            _, place = _varint(message, place)
        else:
            if wire == _BYTES:
                size, place = _varint(message, place)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire} at byte {place}; this is no tf.train.Example")
            start, place = place, place + size
        if place > len(message):
            raise ValueError(f"field {number} ends after byte {place}, the message after {len(message)}")
        yield number, wire, message[start:place]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError(f"a number at byte {place} does not end; this is no tf.train.Example")
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
