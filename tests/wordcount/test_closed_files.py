"""Whoever keeps an error keeps no file open: each is closed by the time the error is seen."""

import contextlib
import gzip
import json
import os

import pytest

from perftricks.wordcount import CorpusError, TokenizerError, count_files

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="open files are looked up in /proc"
)

# More than is read at once, so that a file is not at its end when it fails: the megabytes of a
# chunk, and of a piece of the compiled method.
ROWS = 4_000
LINES = 26_000


def _open_files(folder):
    """Return the files of a folder that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{number}")
            if path.startswith(str(folder)):
                found.append(path)
    return found


def _line(text):
    return json.dumps({"text": text}, ensure_ascii=False)


def _write(path, good):
    """Write a corpus whose second document is bad unless ``good``; return the field to read."""
    text = "研究生命起源" * 20
    kind = path.name.partition(".")[2]
    if kind.startswith("txt"):
        lines = [text, text if good else "\udcff"] + [text] * LINES
        data = "\n".join(lines).encode("utf-8", "surrogateescape")
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
        return None
    if kind == "csv":
        rows = ["text", text, text if good else '"x"y', *[text] * ROWS]
        path.write_text("\n".join(rows), encoding="utf-8")
    elif kind == "jsonl":
        rows = [_line(text), _line(text if good else 1), *[_line(text)] * ROWS]
        path.write_text("\n".join(rows), encoding="utf-8")
    elif kind == "json":
        rows = [_line(text), _line(text if good else 1), *[_line(text)] * ROWS]
        path.write_text("[" + ",".join(rows) + "]", encoding="utf-8")
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        texts = [text, text if good else None] + [text] * ROWS
        pq.write_table(pa.table({"text": texts}), path, row_group_size=1000)
    return "text"


class _BrokenError(Exception):
    """Raised by a tokenizer."""


class _Broken:
    """A tokenizer that fails."""

    def __call__(self, text):
        raise _BrokenError


FILES = ["a.txt", "a.txt.gz", "a.csv", "a.jsonl", "a.json", "a.parquet"]
METHODS = ["naive", "parallel", "batched", "compiled"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FILES)
def test_bad_document(tmp_path, name, method):
    """An error in a file leaves it closed, though the error is kept."""
    path = tmp_path / name
    field = _write(path, good=False)
    with pytest.raises(CorpusError) as caught:
        count_files([path], field=field, method=method)
    assert caught.value.__traceback__ is not None  # which holds what was running
    assert _open_files(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "naive") for name in FILES), ("a.txt.gz", "parallel")]
)
def test_bad_tokenizer(tmp_path, name, method):
    """A tokenizer that fails leaves the file closed, though the error is kept."""
    path = tmp_path / name
    field = _write(path, good=True)
    with pytest.raises(TokenizerError, match="_BrokenError") as caught:
        count_files([path], field=field, method=method, tokenizer=_Broken())
    assert caught.value.__traceback__ is not None
    assert _open_files(tmp_path) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FILES)
def test_stopped_from_progress(tmp_path, name, method):
    """A progress function that raises, as a notebook's stop button may, leaves the file closed."""
    path = tmp_path / name
    field = _write(path, good=True)

    def progress(done, total):
        raise _BrokenError

    with pytest.raises(_BrokenError) as caught:
        count_files([path], field=field, method=method, progress=progress)
    assert caught.value.__traceback__ is not None
    assert _open_files(tmp_path) == []
