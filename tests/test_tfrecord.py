"""The reader of TFRecord files, on bytes made by hand: checksums, packed and unpacked lists, gzip, all damage."""

import gzip
import struct

import numpy as np
import pytest

from bias_tutorial.datasets.tfrecord import crc32c, floats, records


def slow_crc32c(data):
    """Bit by bit, as the polynomial is defined."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(data):
    crc = slow_crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data):
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(packed=True, **features):
    """An Example; arrays become float lists, bytes lists of bytes, whole numbers lists of integers."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            kind = field(1, field(1, value))
        elif isinstance(value, int):
            kind = field(3, varint(1 << 3) + varint(value))
        else:
            numbers = np.asarray(value, dtype="<f4")
            kind = field(2, field(1, numbers.tobytes()) if packed else
                         b"".join(b"\x0d" + number.tobytes() for number in numbers))
        entries += field(1, field(1, name.encode()) + field(2, kind))
    return field(1, entries)


def write(path, *examples, packer=bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packer(b"".join(record(e) for e in examples)))
    return path


VALUES = np.arange(1376, dtype=np.float32) / 7 - 50


# ---------------------------------------------------------------------- checksums
@pytest.mark.parametrize(("data", "crc"), [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (b"\0" * 32, 0x8A9136AA),  # these four: RFC 3720, appendix B.4
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
])
def test_known_checksums(data, crc):
    assert crc32c(data) == crc == slow_crc32c(data)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 4095, 4096, 4097, 4099, 4100, 9000])
def test_checksums_of_every_length(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


# ---------------------------------------------------------------------- what is read
@pytest.mark.parametrize("packer", [bytes, gzip.compress])
@pytest.mark.parametrize("packed", [True, False])
def test_a_float_feature_is_read(tmp_path, packer, packed):
    more = {"image/id": b"x.dcm", "count": 300}
    path = write(tmp_path / "a.tfrecord", example(packed, embedding=VALUES, **more), packer=packer)
    (data,) = records(path)
    read = floats(data, "embedding")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, VALUES)


def test_records_keep_their_order_and_gzip_is_told_by_content(tmp_path):
    for packer in (bytes, gzip.compress):
        path = write(tmp_path / "a.tfrecord", *(example(embedding=[k, -k]) for k in range(5)), packer=packer)
        assert [floats(data, "embedding").tolist() for data in records(path)] == [[k, -k] for k in range(5)]


def test_the_bytes_of_an_example_are_those_of_the_format():
    """Written out once, since the writer above could share a mistake with the reader."""
    whole = bytes.fromhex("0a1b 0a19 0a09 656d62656464696e67 120c 120a 0a08 0000803f 000000c0")
    assert example(embedding=[1, -2]) == whole
    assert floats(whole, "embedding").tolist() == [1, -2]


# ---------------------------------------------------------------------- damage
def test_every_cut_is_found(tmp_path):
    whole = record(example(embedding=VALUES[:8])) * 2
    path = tmp_path / "a.tfrecord"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut == len(whole) // 2:  # a whole record
            assert len(list(records(path))) == 1
            continue
        with pytest.raises(ValueError, match=r"a.tfrecord'.*(truncated|holds no record)"):
            list(records(path))


def test_every_changed_byte_is_found(tmp_path):
    whole = record(example(embedding=VALUES[:8]))
    path = tmp_path / "a.tfrecord"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1:])
        with pytest.raises(ValueError, match=r"a.tfrecord': the checksum of the (length|data) of record 0"):
            list(records(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_damaged_gzip_is_named(tmp_path, share):
    path = write(tmp_path / "a.tfrecord.gz", example(embedding=VALUES), packer=gzip.compress)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match="a.tfrecord.gz': record 0 is damaged or truncated"):
        list(records(path))
    path.write_bytes(whole[:-8] + b"\0" * 8)
    with pytest.raises(ValueError, match="a.tfrecord.gz': record 1 is damaged or truncated .*CRC"):
        list(records(path))


def test_an_absurd_length_is_refused_before_it_is_read(tmp_path):
    length = struct.pack("<Q", 1 << 40)
    (tmp_path / "a.tfrecord").write_bytes(length + masked(length) + b"abc")
    with pytest.raises(ValueError, match="states a length of 1099511627776 bytes"):
        list(records(tmp_path / "a.tfrecord"))
    with pytest.raises(FileNotFoundError):
        list(records(tmp_path / "b.tfrecord"))


@pytest.mark.parametrize(("data", "said"), [
    (example(other=VALUES[:2], id=b"x"), "no float feature 'embedding'; the features are id, other"),
    (example(embedding=b"x"), "no float feature 'embedding'; the features are embedding"),
    (example(embedding=7), "no float feature 'embedding'"),
    (b"", "no float feature 'embedding'; the features are none"),
    (field(1, field(1, field(1, b"embedding"))), "a feature without name or value"),
    (example(embedding=[1, 2])[:-3], "field 1 ends after byte"),
    (b"\x0b", "wire type 3"),
    (b"\x0a" + b"\xff" * 11, "does not end"),
    (b"\xff", "does not end"),
    (field(1, field(1, field(1, b"embedding") + field(2, field(2, field(1, b"abcde"))))), "5 bytes, expected"),
])
def test_an_example_without_the_feature_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        floats(data, "embedding")


def test_random_bytes_never_pass():
    rng = np.random.default_rng(0)
    for _ in range(500):
        with pytest.raises(ValueError):
            floats(rng.bytes(int(rng.integers(0, 60))), "embedding")
