from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perftricks.wordcount import CorpusError, OptionError, count_files
from perftricks.wordcount.reading import streams
from perftricks.wordcount.reading.sources import find_sources
from perftricks.wordcount.reading.streams import Meter, check_encoding, read_text

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}
TEXT = "".join(f"第{i}行，喝茶。\n" for i in range(3000))


def read(path, encoding="utf-8", errors="strict", meter=None):
    (source,) = find_sources(path).sources
    return "".join(read_text(source, encoding, errors, meter or Meter()))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks so small that every boundary is met."""
    monkeypatch.setattr(streams, "CHUNK_BYTES", 5)
    monkeypatch.setattr(streams._MeteredFile.read, "__defaults__", (5,))


def test_plain(tmp_path):
    """A plain file is its text, and the meter counts its bytes."""
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode())
    meter = Meter()
    assert read(path, meter=meter) == TEXT
    assert meter.stored == meter.text == len(TEXT.encode())


@pytest.mark.parametrize("extension", COMPRESSORS)
def test_compressed(tmp_path, extension):
    """A compressed file is its text; the meter counts both sizes."""
    path = tmp_path / f"a.txt.{extension}"
    path.write_bytes(COMPRESSORS[extension](TEXT.encode()))
    meter = Meter()
    assert read(path, meter=meter) == TEXT
    assert meter.text == len(TEXT.encode())
    assert meter.stored == path.stat().st_size


@pytest.mark.parametrize("extension", ["bz2", "xz"])
@pytest.mark.parametrize("size", [5, 1 << 20])
def test_a_later_member_that_is_damaged(tmp_path, monkeypatch, extension, size):
    """What follows the first stream is read or refused, never left out."""
    monkeypatch.setattr(streams._MeteredFile.read, "__defaults__", (size,))
    path = tmp_path / f"a.{extension}"
    whole = COMPRESSORS[extension](TEXT.encode())
    path.write_bytes(whole + bytes(4) + whole + bytes(8))
    assert read(path) == TEXT * 2
    for rest in (b"X" + whole[1:], b"rubbish", whole[:-1], bytes(4) + b"X"):
        path.write_bytes(whole + rest)
        with pytest.raises(CorpusError, match=f"the .{extension} data (is broken|ends too early)"):
            read(path)


@pytest.mark.parametrize("extension", COMPRESSORS)
def test_several_members(tmp_path, extension):
    """Files that were compressed apart and put together are read to the end."""
    path = tmp_path / f"a.{extension}"
    middle = len(TEXT) // 2
    halves = TEXT[:middle].encode(), b"", TEXT[middle:].encode()
    path.write_bytes(b"".join(map(COMPRESSORS[extension], halves)))
    assert read(path) == TEXT


@pytest.mark.parametrize("extension", COMPRESSORS)
@pytest.mark.parametrize("kept", [0, 3, 1000])
def test_truncated(tmp_path, extension, kept):
    """A compressed file that was cut short is an error, also if nothing is left of it."""
    path = tmp_path / f"a.{extension}"
    whole = COMPRESSORS[extension](TEXT.encode())
    assert len(whole) > 1000
    path.write_bytes(whole[:kept])
    with pytest.raises(CorpusError, match=rf"a\.{extension}, byte {kept}: .*truncated") as caught:
        read(path)
    assert caught.value.offset == kept


@pytest.mark.parametrize("extension", COMPRESSORS)
@pytest.mark.parametrize("place", [0, 1500])
def test_broken(tmp_path, extension, place):
    """A compressed file with wrong bytes is an error that names the file and about where."""
    path = tmp_path / f"a.{extension}"
    data = bytearray(COMPRESSORS[extension](TEXT.encode()))
    assert len(data) > 1510
    data[place : place + 8] = b"\xff\x00\xff\x00\xff\x00\xff\x00"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"a\.{extension}, byte \d+: the \.{extension} data is"):
        read(path)


@pytest.mark.parametrize("extension", COMPRESSORS)
def test_not_compressed_at_all(tmp_path, extension):
    """Plain text under the name of a compressed file is an error."""
    path = tmp_path / f"a.{extension}"
    path.write_bytes(TEXT.encode())
    with pytest.raises(CorpusError, match=f"the .{extension} data is broken"):
        read(path)


def test_bom_is_dropped(tmp_path, small_chunks):
    """A byte order mark counts at the very start of a file only."""
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF8 + "茶\ufeff水".encode())
    assert read(path) == "茶\ufeff水"
    path.write_bytes(codecs.BOM_UTF8)
    assert read(path) == ""
    path.write_bytes(codecs.BOM_UTF8 * 2)
    assert read(path) == "\ufeff"
    path.write_bytes("\ufeff茶".encode("utf-16-le"))
    assert read(path, "utf-16-le") == "茶"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "big5", "utf-16", "utf-32"]
)
def test_encodings(tmp_path, encoding, small_chunks):
    """Characters that are cut by the end of a chunk are put together again."""
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT[:400].replace("，", "").encode(encoding))
    assert read(path, encoding) == TEXT[:400].replace("，", "")


@pytest.mark.parametrize(
    ("data", "encoding", "offset"),
    [
        (b"ok\xff", "utf-8", 2),
        ("茶茶茶".encode() + b"\xe8\x8c", "utf-8", 9),
        ("茶茶茶".encode() + b"\xe8\x8cab", "utf-8", 9),
        (codecs.BOM_UTF8 + b"abcdefg\x80h", "utf-8-sig", 10),
        (b"\xff", "utf-8-sig", 0),
        ("茶茶".encode("gbk") + b"a\xff\xffb", "gbk", 5),
        ("茶茶茶".encode("gb18030") + b"\x81", "gb18030", 6),
        (b"a\0b\0c", "utf-16-le", 4),
        (b"a\0b\0\0\xd8b\0", "utf-16-le", 4),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1 << 20])
def test_position_of_a_bad_byte(tmp_path, monkeypatch, data, encoding, offset, chunk):
    """The position of the first bad byte is that in the file, wherever chunks end."""
    monkeypatch.setattr(streams._MeteredFile.read, "__defaults__", (chunk,))
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=f"is not {encoding}; name the encoding") as caught:
        read(path, encoding)
    assert caught.value.offset == offset


def test_position_in_compressed_data(tmp_path):
    """The position counts decompressed bytes, and the error says so."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"a" * 5000 + b"\xff"))
    with pytest.raises(CorpusError, match=r"byte 5000: 0xff \(counted after decompression\)"):
        read(path)


def test_utf16_needs_its_mark(tmp_path):
    """UTF-16 without a byte order mark is an error, whichever error Python has for it."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"abcd")
    with pytest.raises(CorpusError, match=r"a\.txt, byte 0: .*not utf-16"):
        read(path, "utf-16")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_one_mark_is_dropped(tmp_path, encoding):
    """Of two byte order marks the second is text, also where the codec takes the first."""
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff茶".encode(encoding))
    assert read(path, encoding) == "\ufeff茶"


MANY = "".join(f"line {i}\n" for i in range(20)) + "第一行，喝茶。\n" * 50


@pytest.mark.parametrize("chunk", [1, 3, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (MANY.encode(), "utf-8"),
        (codecs.BOM_UTF8 + MANY.encode(), "utf-8"),
        (MANY.encode("gb18030"), "gb18030"),
        (MANY.encode("gbk"), "gb18030"),
        (MANY.encode("utf-16"), "utf-16-le"),
        (MANY.encode("utf-32"), "utf-32-le"),
        (codecs.BOM_UTF16_BE + MANY.encode("utf-16-be"), "utf-16-be"),
        (codecs.BOM_UTF32_BE + MANY.encode("utf-32-be"), "utf-32-be"),
    ],
)
def test_encoding_is_found_out(tmp_path, monkeypatch, data, encoding, chunk):
    """A mark says the encoding, else it is UTF-8 if it can be, else GB18030."""
    monkeypatch.setattr(streams._MeteredFile.read, "__defaults__", (chunk,))
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    meter = Meter()
    assert read(path, "auto", meter=meter) == MANY
    assert meter.encodings == {encoding: 1}
    pieces = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    assert streams.find_encoding(pieces) == encoding


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", "utf-8"),
        (b"ok", "utf-8"),
        ("联通".encode("gbk"), "gb18030"),
        ("茶".encode("gbk"), "gb18030"),
        ("茶".encode(), "utf-8"),
    ],
)
def test_short_texts(data, encoding):
    """Texts of a few bytes are told apart, too."""
    assert streams.find_encoding([data]) == encoding


@pytest.mark.parametrize(
    "data",
    [
        ("喝茶" * 900).encode() + b"\xff" + ("喝茶" * 900).encode(),
        ("a" * 99 + "喝茶" * 9000).encode() + b"\xb2\xe8\n",
        "喝茶 tea".encode("utf-16-le"),
    ],
)
def test_no_gibberish(tmp_path, data):
    """What is nearly UTF-8, or UTF-16 without a mark, is an error and not read as GB18030."""
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="is not utf-8, which it seemed to be; name the enc"):
        read(path, "auto")
    with pytest.raises(CorpusError, match="is not utf-8, which it seemed to be; name the enc"):
        count_files(path, encoding="auto", method="compiled")


def test_replace_and_ignore(tmp_path):
    """Bad bytes can be replaced or left out instead, as bytes.decode does."""
    data = b"a\xffb\xe8\x8c"
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    for errors in ("replace", "ignore"):
        assert read(path, errors=errors) == data.decode(errors=errors)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 7))
def test_replacing_does_not_depend_on_chunks(data, chunk):
    """Decoding in pieces gives what decoding at once gives."""
    raw = io.BytesIO(data)
    stored = streams._MeteredFile(raw, "x", Meter())
    pieces = iter(lambda: stored.read(chunk), b"")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = "".join(decoder.decode(p, not p) for p in streams._and_empty_last(pieces))
    assert text == data.decode(errors="replace")


@pytest.mark.parametrize("name", ["utf-9", "hex", "rot13", "", "a\0b", "undefined"])
def test_unknown_encoding(name):
    """What is no text encoding is turned away before anything is read."""
    with pytest.raises(OptionError, match="is not the name of a text encoding"):
        check_encoding(name, "strict")


def test_unknown_error_handler():
    """So is what is no error handler."""
    with pytest.raises(OptionError, match="errors must be strict, replace or ignore, not 'maybe'"):
        check_encoding("utf-8", "maybe")


def test_file_vanishes(tmp_path):
    """A file that is gone when its turn comes is bad data, named."""
    path = tmp_path / "a.txt"
    path.write_text("x")
    (source,) = find_sources(path).sources
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.txt: cannot be opened any more: no such file"):
        list(read_text(source, "utf-8", "strict", Meter()))


def test_reading_fails(tmp_path, monkeypatch):
    """An error of the disk names the file and the place."""

    class FailingDisk(io.RawIOBase):
        def __init__(self):
            self.data = [b"abc"]

        def read(self, size=-1):
            if self.data:
                return self.data.pop()
            raise OSError(5, "Input/output error")

    path = tmp_path / "a.txt"
    path.write_text("x")
    (source,) = find_sources(path).sources
    monkeypatch.setattr(streams, "_open", lambda source, opened: FailingDisk())
    with pytest.raises(CorpusError, match=r"byte 3: reading failed: input/output error"):
        list(read_text(source, "utf-8", "strict", Meter()))


def test_standard_input(monkeypatch):
    """The standard input is read as bytes; a closed one is an error."""
    (source,) = find_sources("-").sources
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO("茶".encode("gbk"))))
    assert "".join(read_text(source, "gbk", "strict", Meter())) == "茶"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CorpusError, match="<stdin>: the standard input is closed"):
        list(read_text(source, "utf-8", "strict", Meter()))


def test_missing_zstd(monkeypatch):
    """Without a zstd module the error says what to install."""
    name = "compression" if sys.version_info >= (3, 14) else "backports"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match=r"pip install backports\.zstd"):
        streams.check_compression("zst")
