"""A table that outgrows its memory is on the disk, and is the same table."""

from __future__ import annotations

import collections
import gc
import gzip
import itertools
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perftricks.wordcount import (
    CorpusError,
    OptionError,
    SpillError,
    TableTooLargeError,
    TokenizerError,
    count_files,
    count_words,
    write_table,
)
from perftricks.wordcount.reading import pieces
from perftricks.wordcount.storage.cachefolder import cache_folder
from perftricks.wordcount.table import runs, spill
from perftricks.wordcount.table.limits import _available, default_limit, parse_limit
from perftricks.wordcount.table.runs import (
    blocks_of,
    check_run,
    merged,
    read_run,
    summed,
    write_run,
)
from perftricks.wordcount.table.spill import PREFIX, Spill
from tests.wordcount.conftest import in_chunks

ROOT = Path(__file__).parent.parent.parent
METHODS = ["naive", "batched", "parallel", "compiled"]
TINY = 2000


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary folder of its own, which must be empty in the end."""
    jieba.initialize()  # it keeps a file there as well
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()  # an error that a test has caught may refer to the table, and to itself
    assert os.listdir(folder) == []


def test_a_table_that_nobody_needs_leaves_the_disk(temporary, texts):
    """At once, also after a reader that has stopped in the middle."""
    gc.disable()
    try:
        spilled = count_words(texts, method="naive", memory_limit=TINY)
        rows = iter(spilled.rows())
        next(rows)
        del rows, spilled
        assert os.listdir(temporary) == []
    finally:
        gc.enable()


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces and chunks of about a kilobyte, between which a table may move."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 2000)
    monkeypatch.setattr(pieces, "read_bytes", in_chunks)
    monkeypatch.setattr("perftricks.wordcount.methods.compiled.PIECE_BYTES", 2000)
    for name in ("LARGEST_CHUNK", "SMALLEST_CHUNK"):
        monkeypatch.setattr(f"perftricks.wordcount.kernel.driver.{name}", 1000)


def written(counts, folder):
    """Return what the table looks like in every format."""
    contents = []
    for extension in ("tsv", "csv", "json"):
        path = folder / f"table.{extension}"
        write_table(path, counts)
        contents.append(path.read_bytes())
    return contents


def same(spilled, whole, folder):
    """Compare all there is to compare, without looking up a token."""
    assert written(spilled, folder) == written(whole, folder)
    assert list(spilled.rows()) == list(whole.rows())
    assert list(spilled) == list(whole)
    assert spilled.most_common(7) == whole.most_common(7)
    assert spilled.most_common(0) == []
    assert len(spilled) == len(whole)
    assert (spilled.tokens, spilled.documents) == (whole.tokens, whole.documents)
    assert spilled.has_document_frequency == whole.has_document_frequency


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ngrams", [1, 2, 3])
@pytest.mark.parametrize("frequency", [False, True])
def test_same_table(tmp_path, texts, small_pieces, method, ngrams, frequency):
    """Every method, spilling again and again, gives the table that fits in memory."""
    path = tmp_path / "a.jsonl"
    texts = [*texts, "a\ud800茶", "两\n行"] * 2
    path.write_text("".join(json.dumps({"t": text}) + "\n" for text in texts), encoding="ascii")
    options = {"field": "t", "method": method, "ngrams": ngrams, "document_frequency": frequency}
    if method != "compiled":
        options["batch_size"] = 20
    whole = count_files(path, **options)
    spilled = count_files(path, memory_limit=TINY, **options)
    assert whole.run.spilled == 0
    assert spilled.run.spilled > 5
    same(spilled, whole, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("document", ["line", "file"])
@pytest.mark.parametrize("more", [{}, {"mode": "all"}, {"document_frequency": True}])
def test_text_files(tmp_path, texts, small_pieces, workers, document, more):
    """So does text in UTF-8, which goes to the kernel as it is."""
    generator = random.Random(4)
    for name in ("a.txt", "b.txt"):
        words = ("".join(generator.choices("abcdefgh", k=7)) for _ in range(300))
        (tmp_path / name).write_text("\n".join([*texts, *words]), encoding="utf-8", newline="")
    options = {"workers": workers, "document": document, "method": "compiled", **more}
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    spilled = count_files(paths, memory_limit=TINY, **options)
    assert spilled.run.spilled > 2
    same(spilled, count_files(paths, **options), tmp_path)


def test_filters(texts):
    """Words are left out of a table on the disk, once and once more."""
    for more in ({}, {"ngrams": 2}, {"document_frequency": True}):
        options = {"stop_words": ["，", "的"], "min_count": 2, "min_length": 1, **more}
        spilled = count_words(texts, memory_limit=TINY, method="compiled", **options)
        whole = count_words(texts, method="compiled", **options)
        assert list(spilled.rows()) == list(whole.rows())
        assert spilled.tokens == whole.tokens
        fewer = spilled.filtered(min_count=9), whole.filtered(min_count=9)
        assert 0 < len(fewer[0]) < len(spilled)
        assert list(fewer[0].rows()) == list(fewer[1].rows())


def test_looking_up(texts, expected):
    """A token is looked up if the rows fit in the limit, else one error names it."""
    spilled = count_words(texts, method="naive", memory_limit=TINY, document_frequency=True)
    with pytest.raises(TableTooLargeError, match=r"has \d+ rows, .* the memory limit is 2,000 by"):
        spilled["，"]
    with pytest.raises(TableTooLargeError, match="raise memory_limit, leave rows out"):
        dict(spilled.document_frequency)
    few = spilled.filtered(min_count=sorted(expected.values())[-3])
    assert few == {token: count for token, count in expected.items() if count >= min(few.values())}
    ((most, count),) = few.most_common(1)
    assert 0 < few.document_frequency[most] <= few[most] == count
    assert most in few
    assert "no such token" not in few
    assert pickle.loads(pickle.dumps(few)) == few
    fits = count_words(texts, method="batched", batch_size=9, memory_limit=len(expected) * 300)
    assert fits.run.spilled > 1
    assert fits == expected


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.text(st.characters(), max_size=3), max_size=12), max_size=25),
    ngrams=st.integers(1, 3),
    frequency=st.booleans(),
    limit=st.integers(1, 4000),
    batch=st.integers(1, 5),
)
def test_any_table(documents, ngrams, frequency, limit, batch):
    """Any tokens, in any order, with any limit: the rows are those of a dict, sorted."""
    texts = list(map(str, range(len(documents))))
    options = {"tokenizer": lambda text: documents[int(text)], "method": "batched"}
    counts = count_words(
        texts,
        ngrams=ngrams,
        document_frequency=frequency,
        memory_limit=limit,
        batch_size=batch,
        **options,
    )
    keys = [
        list(zip(*(tokens[i:] for i in range(ngrams)), strict=False)) if ngrams > 1 else tokens
        for tokens in documents
    ]
    table = collections.Counter(itertools.chain.from_iterable(keys))
    found = collections.Counter(itertools.chain.from_iterable(map(set, keys)))
    rows = [(key, table[key], found[key] if frequency else None) for key in table]
    assert list(counts.rows()) == sorted(rows, key=lambda row: (-row[1], row[0]))
    assert counts.tokens == table.total()


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.dictionaries(st.text("abc", max_size=3), st.integers(1, 9)), max_size=9),
    size=st.integers(1, 5),
)
def test_merge(tmp_path_factory, parts, size):
    """Merged runs are the sorted sum, wherever their blocks end."""
    folder = tmp_path_factory.mktemp("runs")
    written = [
        write_run(folder / str(i), blocks_of([(k, n, 1) for k, n in sorted(part.items())], size))
        for i, part in enumerate(parts)
    ]
    rows = [row for block in summed(merged(map(read_run, written))) for row in block]
    total = sum((collections.Counter(part) for part in parts), collections.Counter())
    documents = collections.Counter(itertools.chain.from_iterable(parts))
    assert rows == [(key, total[key], documents[key]) for key in sorted(total)]


def test_many_runs(monkeypatch, texts, expected):
    """More parts than can be merged at once are merged in several passes."""
    monkeypatch.setattr(spill, "_FAN_IN", 3)
    monkeypatch.setattr(Spill, "rows_in_memory", 10)
    counts = count_words(texts, method="batched", batch_size=4, memory_limit=1)
    assert counts.run.spilled > 27
    rows = sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))
    assert [(token, count) for token, count, _ in counts.rows()] == rows
    assert counts.most_common(5) == rows[:5]


FEW_FILES = """
import os, resource, sys
from perftricks.wordcount import count_words, write_table
texts = ["".join(map(chr, range(0x4e00 + i, 0x4e00 + i + 40))) for i in range(400)]
options = {"tokenizer": "chars", "method": "batched", "batch_size": 5}
whole = count_words(texts, **options)
import csv, encodings.ascii, json, resource, tempfile, weakref
spilled = count_words(texts, memory_limit=100, **options)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
write_table(sys.argv[2], spilled)
assert list(spilled.rows()) == list(whole.rows())
print(spilled.run.spilled)
"""


@pytest.mark.parametrize("files", [9, 12, 20, 64])
def test_few_open_files(tmp_path, temporary, files):
    """Where few files may be open, fewer parts are merged at once, in more passes."""
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(files), str(tmp_path / "table.tsv")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 70


def test_files_last_as_long_as_the_table(temporary, texts):
    """The files are there while the table is, in one folder that is the user's alone."""
    counts = count_words(texts, method="compiled", memory_limit=TINY)
    (folder,) = temporary.iterdir()
    assert folder.name.startswith(PREFIX)
    assert folder.stat().st_mode & 0o077 == 0
    del counts
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_files_are_gone_after_an_error(temporary, texts, small_pieces, method, error):
    """Nothing is left when the run ends otherwise."""
    seen = []

    def documents():
        for i in itertools.count():
            yield from (f"{text}{i}" for text in texts)
            seen.extend(temporary.glob("*/run-*"))
            if seen:
                raise error

    options = {} if method == "compiled" else {"batch_size": 10}
    with pytest.raises(error):
        count_words(documents(), method=method, memory_limit=TINY, **options)
    assert seen
    assert list(temporary.iterdir()) == []


@pytest.fixture
def full(monkeypatch):
    """Let the disk be full from the moment that this is called."""

    def fail(*given, **options):
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr(runs, "encoded_block", fail)


FULL = (
    r"the table has outgrown the memory limit of 2,000 bytes, and keeping it in '.*' failed: "
    "no space left on device; set TMPDIR to a folder with more room, or raise the limit"
)


def test_full_disk_while_counting(temporary, full, texts):
    """A disk that is full is one error, which says what to do, and nothing is left on it."""
    full()
    with pytest.raises(SpillError, match=FULL):
        count_words(texts, method="compiled", memory_limit=TINY)
    assert list(temporary.iterdir()) == []


def test_full_disk_while_merging(tmp_path, full, texts):
    """So is one that is full when the table is written, and the old table stays."""
    path = tmp_path / "table.tsv"
    path.write_text("old")
    counts = count_words(texts, method="compiled", memory_limit=TINY)
    full()
    with pytest.raises(SpillError, match=FULL):
        write_table(path, counts)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["table.tsv", "temporary"]


ROWS = [
    [("a", 1, 0), ("b\n", 2**40, 3)],
    [("茶", 1, 0), ("\ud800", 1, 1), ("😀", 7, 2)],
    [],
]


@pytest.mark.parametrize(
    "blocks",
    [
        ROWS,
        [[((key, ""), count, documents) for key, count, documents in block] for block in ROWS],
        [[(-count, key, documents) for key, count, documents in block] for block in ROWS],
        [[(-count, (key, "x", key), 0) for key, count, _ in block] for block in ROWS],
        [],
    ],
)
def test_rows_come_back(tmp_path, blocks):
    """Rows are what they were: any text, n-grams, large numbers, both orders."""
    run = write_run(tmp_path / "run-1", blocks)
    assert list(read_run(run)) == blocks
    check_run(run)


def test_damaged_file(tmp_path):
    """A file that is not what was written is noticed before a damaged row is used."""
    run = write_run(tmp_path / "run-1", [[("a", 1, 0)], [("b", 1, 0)]])
    content = run.path.read_bytes()
    block = (len(content) - 32) // 2
    blocks = content[32 : 32 + block], content[32 + block :]
    changed = [
        content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        for place in range(len(content))
        for bit in (0, 7)
    ]
    other = write_run(tmp_path / "run-2", [[("a", 1, 0)], [("b", 1, 0)]]).path.read_bytes()
    for damaged in (
        *changed,
        *(content[:size] for size in range(len(content))),
        content + bytes(9),
        content[:32] + blocks[1] + blocks[0],
        content[:32] + blocks[0],
        content + blocks[1],
        other,
    ):
        run.path.write_bytes(damaged)
        seen = []
        with pytest.raises(OSError, match=r"'.*run-1' is damaged: it is not what was written"):
            seen.extend(read_run(run))
        assert seen in ([], [[("a", 1, 0)]], [[("a", 1, 0)], [("b", 1, 0)]])
        with pytest.raises(OSError, match="is damaged"):
            check_run(run)
    run.path.write_bytes(content)
    for wrong in (run._replace(rows=3), run._replace(digest="0" * 64)):
        with pytest.raises(OSError, match="is damaged"):
            list(read_run(wrong))
    run.path.unlink()
    run.path.symlink_to(tmp_path / "run-2")
    with pytest.raises(OSError, match="it is a link"):
        list(read_run(run))


KILLED = """
import os, signal, sys
from perftricks.wordcount import count_words
def documents():
    for i in range(10**6):
        yield "".join(map(chr, range(0x4e00 + i, 0x4e00 + i + 50)))
        if any(os.scandir(sys.argv[1])):
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))
count_words(documents(), tokenizer="chars", method="batched", batch_size=5, memory_limit=100)
"""


def _killed(temporary, how):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", KILLED, str(temporary), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -getattr(signal, how), done.stderr


def test_killed(temporary, texts):
    """Ctrl-C leaves nothing; what SIGKILL leaves the next run that spills deletes, no other's."""
    _killed(temporary, "SIGINT")
    assert list(temporary.iterdir()) == []
    _killed(temporary, "SIGKILL")
    (abandoned,) = temporary.iterdir()
    other = count_words(texts, method="batched", memory_limit=TINY)
    assert not abandoned.exists()
    (folder,) = temporary.iterdir()
    count_words(texts, method="batched", memory_limit=TINY)
    assert folder.exists()
    assert len(list(other.rows())) == len(other)


def test_checkpoint(tmp_path, texts, small_pieces):
    """A run with parts on the disk goes on where it was, with whatever limit."""
    path, folder = tmp_path / "a.txt", tmp_path / "state"
    path.write_text("\n".join(texts) * 3, encoding="utf-8", newline="")

    class Stop(Exception):
        pass

    def progress(done, total):
        calls.append(done)
        if len(calls) == 6:
            raise Stop

    options = {"ngrams": 2, "document_frequency": True}
    checkpoint = {"checkpoint": folder, "checkpoint_seconds": 0}
    whole = count_files(path, method="compiled", **options)
    for limit in (TINY, None, 2 * TINY):
        calls = []
        with pytest.raises(Stop):
            count_files(path, memory_limit=limit, progress=progress, **options, **checkpoint)
        assert list(folder.glob("run-*"))
    for how, limit in (("resumed", TINY), ("complete", None), ("complete", TINY)):
        counts = count_files(path, memory_limit=limit, **options, **checkpoint)
        assert counts.run.resumed == how
        same(counts, whole, tmp_path)
    min(folder.glob("run-*")).unlink()
    with pytest.raises(OptionError, match=r"'run-\d+': no such file .*; delete the folder to"):
        count_files(path, **options, **checkpoint)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("500MB", 500_000_000),
        ("2GiB", 2 << 30),
        (" 1.5 kb ", 1500),
        ("3k", 3000),
        ("7", 7),
        (12, 12),
        (1e6, 10**6),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(limit, expected):
    """A limit is a number or a size with a unit."""
    assert parse_limit(limit) == expected


@pytest.mark.parametrize(
    "limit", ["", "MB", "-1", "1 PB", "1e6", 0, -5, True, [1], "0.1", float("nan"), float("inf")]
)
def test_bad_sizes(limit):
    """Anything else is an error before a document is read."""
    with pytest.raises(OptionError, match="a memory limit is a number of bytes or a size such as"):
        count_words(iter("a"), memory_limit=limit)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1000),
        ({"memory.max": "max\n"}, 1000),
        ({"a/memory.max": "300\n", "a/b/memory.max": "max\n"}, 300),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1000),
        ({"memory/memory.limit_in_bytes": "400"}, 400),
        ({"memory/c/memory.limit_in_bytes": "200"}, 200),
    ],
)
def test_memory_of_the_control_group(tmp_path, files, expected):
    """Both versions are read, and the tightest limit on the way up counts."""
    for name, content in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    membership = tmp_path / "membership"
    membership.write_text("5:memory:/c\n0::/a/b\n")
    assert _available(tmp_path / "fs", membership, 1000) == expected
    assert _available(tmp_path / "no", tmp_path / "no", None) == 4 << 30
    assert default_limit() > 1 << 20


# Not ru_maxrss, in which the parent of a process counts: it was this one until the program began.
PEAK = """
import json, re, sys
from perftricks.wordcount import count_files, write_table
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
corpus, table, limit = sys.argv[1:]
options = {"method": "compiled", "ngrams": 3, "workers": 2}
count_files("docs/samples", **options)
before = peak()
counts = count_files(corpus, memory_limit=limit, **options)
write_table(table, counts)
print(json.dumps([peak() - before, counts.run.spilled, len(counts), counts.tokens]))
"""

ON_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak is read from /proc"
)


@ON_LINUX
def test_memory(tmp_path, temporary):
    """A table of many times the limit is counted and written within it and what a piece takes."""
    generator = random.Random(8)
    corpus, table, limit = tmp_path / "corpus.txt", tmp_path / "table.tsv", 20_000_000
    with open(corpus, "w", encoding="utf-8") as file:
        for _ in range(6000):
            document = (chr(generator.randrange(0x4E00, 0x9FA5)) for _ in range(100))
            file.write("".join(document) + "\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": tempfile.gettempdir(),
        "PERFTRICKS_CACHE": str(cache_folder()),
        "MALLOC_ARENA_MAX": "1",  # what the C library keeps for each thread is not the table's
    }
    command = [sys.executable, "-c", PEAK, corpus, table, str(limit)]
    output = subprocess.check_output(command, env=environment, cwd=ROOT, text=True)
    peak, spilled, rows, tokens = json.loads(output)
    assert peak < limit + 50_000_000
    assert spilled > 5
    assert 5 * limit < rows * 300
    with open(table, encoding="utf-8") as file:
        next(file)
        counts = [int(line.rsplit("\t", 1)[1]) for line in file]
    assert len(counts) == rows
    assert sum(counts) == tokens
    (temporary / "jieba.cache").unlink(missing_ok=True)


BOMB = """
import re, sys
from perftricks.wordcount import CorpusError, TokenizerError, count_files
try:
    print(count_files("bomb.txt.gz", memory_limit="100MB", **eval(sys.argv[1])).most_common(1))
except (CorpusError, TokenizerError) as error:
    print(error)
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


@ON_LINUX
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "compiled"}, r"bomb\.txt\.gz, byte 0: a document, or a stretch of one, of"),
        ({"method": "compiled", "ngrams": 2}, r"byte 0: a document, or a stretch of one, of more"),
        ({"method": "naive"}, r"bomb\.txt\.gz: a document of more than [\d,]+ characters needs"),
        ({"method": "batched", "document": "file"}, r"gz: a document of more than [\d,]+ char"),
        ({"method": "parallel", "encoding": "latin-1"}, r"gz: a document of more than [\d,]+ ch"),
        ({"method": "naive", "tokenizer": "whitespace"}, r"gz: a document of more than [\d,]+ "),
    ],
)
def test_bomb(tmp_path, temporary, options, problem):
    """Gigabytes of one token in a small file are one clear error, before they are in memory."""
    megabyte = gzip.compress(b"a" * 2**20)
    (tmp_path / "bomb.txt.gz").write_bytes(megabyte * 4096)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, repr(options)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    message, peak = done.stdout.splitlines()
    assert re.search(problem, message)
    assert message.endswith("or look whether this is text, with line ends where they should be")
    assert int(peak) < 400_000_000
    (temporary / "jieba.cache").unlink(missing_ok=True)


@pytest.mark.parametrize("more", [{}, {"encoding": "latin-1"}])
def test_stretch_that_is_too_long(tmp_path, more):
    """A stretch that cannot be cut is an error where the memory for that is not there."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"tea " * 100 + b"a" * 1_000_000)
    problem = r"a\.txt: a stretch of more than [\d,]+ characters that jieba cuts as one needs "
    with pytest.raises(CorpusError, match=problem):
        count_files(path, method="compiled", memory_limit="1MB", **more)
    counts = count_files(path, method="compiled", memory_limit="1GB", **more)
    assert counts == {"tea": 100, " ": 100, "a" * 1_000_000: 1}
    path.write_bytes(b"tea " * 100_000 + b"a" * 70_000)
    for method in ("naive", "parallel"):
        with pytest.raises(TokenizerError, match="a stretch of 70,000 characters that jieba cuts"):
            count_files(path, method=method, memory_limit="10MB", **more)
