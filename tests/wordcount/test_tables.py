"""What holds of a table wherever it is kept; of sums of tables; and of tables in files."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import pytest

from perftricks.wordcount import WordCounts, count_words
from perftricks.wordcount.errors import TableTooLargeError
from perftricks.wordcount.table import counts as counts_module
from perftricks.wordcount.table.columnar import ColumnTable
from perftricks.wordcount.table.columns import Columns
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.rows import Filter
from perftricks.wordcount.table.spill import Spill
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.sums import added

_GENERATOR = random.Random(3)
COUNTS = {f"{_GENERATOR.choice('茶水火a😀')}{n}": _GENERATOR.randrange(1, 9) for n in range(400)}
FREQUENCY = {key: max(1, count - 1) for key, count in COUNTS.items()}
ORDER = sorted(COUNTS, key=lambda key: (-COUNTS[key], key))


def in_memory(counts, frequency):
    """Make a table of dicts."""
    return MemoryTable(counts, frequency)


def of_a_counter(counts, frequency):
    """Make a table of mappings that answer where a key is missing."""
    return MemoryTable(Counter(counts), frequency and Counter(frequency))


def columns(counts, frequency):
    """Make columns in no order."""
    rows = [(key, count, (frequency or {}).get(key, 0)) for key, count in counts.items()]
    return Columns.of_rows(rows, document_frequency=frequency is not None)


def columnar(counts, frequency):
    """Make a table of columns."""
    return ColumnTable.of(columns(counts, frequency))


def columnar_in_parts(counts, frequency):
    """Make a table that gives no more rows than it is asked for, in small parts."""

    def parts(n):
        return columns(counts, frequency).ordered()[: len(counts) if n is None else n].parts(7)

    return ColumnTable(
        len(counts), sum(counts.values()), frequency is not None, parts, lambda: dict(counts)
    )


def spilled(counts, frequency, limit=1 << 20):
    """Make a table in three parts on the disk, some keys in two of them."""
    spill = Spill(limit)
    parts = [{}, {}, {}]
    for number, (key, count) in enumerate(counts.items()):
        parts[number % 3][key] = count
        if count > 1 and not number % 5:
            parts[number % 3][key] = 1
            parts[(number + 1) % 3][key] = count - 1
    given = set()
    for part in parts:
        documents = {key: 0 if key in given else (frequency or {}).get(key, 0) for key in part}
        given |= part.keys()
        spill.add_table(MemoryTable(part, documents))
    return SpilledTable(spill, document_frequency=frequency is not None)


def summed(counts, frequency):
    """Make a table that is a sum."""
    keys = list(counts)
    some, others = keys[::2], keys[1::2]

    def part(keys):
        documents = None if frequency is None else {key: frequency[key] for key in keys}
        return MemoryTable({key: counts[key] for key in keys}, documents)

    return added([part(some), part(others)], 1 << 30)


@pytest.fixture(params=[in_memory, of_a_counter, columnar, columnar_in_parts, spilled, summed])
def make(request):
    """Make a table of each kind."""
    return request.param


@pytest.fixture(params=[FREQUENCY, None], ids=["documents", "counts"])
def frequency(request):
    """Documents, or none."""
    return request.param


@pytest.fixture
def table(make, frequency):
    """A table of each kind, with documents and without."""
    return make(COUNTS, frequency)


def rows(keys, frequency):
    """Return rows of keys."""
    return [(key, COUNTS[key], (frequency or {}).get(key, 0)) for key in keys]


def test_size(table, frequency):
    """It knows its size, its sum, and whether documents were counted."""
    assert (len(table), table.total) == (400, sum(COUNTS.values()))
    assert table.counts_documents is (frequency is not None)


@pytest.mark.parametrize("n", [0, 1, 7, 400, 999, -1])
def test_order(table, frequency, n):
    """The first rows are those of the order, before and after all of it was read."""
    expected = rows(ORDER, frequency)
    assert list(table.rows(n)) == expected[: max(n, 0)]
    assert list(table.rows()) == expected
    assert list(table.rows(n)) == expected[: max(n, 0)]


def test_blocks_by_key(table, frequency):
    """Blocks hold the rows by key."""
    blocks = list(table.blocks(64))
    assert len(blocks) > 1
    assert [row for block in blocks for row in block] == rows(sorted(COUNTS), frequency)


def test_columns(table, frequency):
    """Columns hold the rows in order, in parts that are not empty."""
    parts = list(table.columns())
    assert all(map(len, parts))
    assert [row for part in parts for row in part.rows()] == rows(ORDER, frequency)
    assert all((part.documents is None) is (frequency is None) for part in parts)


def test_ordered_counts(table):
    """Counts are a dict in the order of tables where that is asked for."""
    assert table.counts() == COUNTS
    assert list(table.counts(ordered=True)) == ORDER
    assert table.counts(ordered=True) == table.counts() == COUNTS


def test_looking_up(table, frequency):
    """It becomes dicts, which know nothing of keys that are missing."""
    assert table.counts() == COUNTS
    assert table.frequency() == (frequency or {})
    with pytest.raises(KeyError):
        table.counts()["牛"]


def test_filtered(table, frequency):
    """Rows are left out of both, and of the sum."""
    kept = table.filtered(Filter(4, 3, frozenset(key for key in COUNTS if key[0] == "茶")))
    keys = [key for key in ORDER if COUNTS[key] > 3 and len(key) > 2 and key[0] != "茶"]
    assert list(kept.rows()) == rows(keys, frequency)
    assert (len(kept), kept.total) == (len(keys), sum(COUNTS[key] for key in keys))
    again = kept.filtered(Filter(7))
    assert list(again.rows()) == rows([key for key in keys if COUNTS[key] > 6], frequency)
    assert list(table.rows(1)) == rows(ORDER[:1], frequency)


def test_missing_word_is_missing_whatever_counted():
    """A word that does not occur is a KeyError, as in any mapping, and not 0, for every method."""
    for method in ("naive", "batched", "parallel", "compiled"):
        counts = count_words(["喝茶"], method=method, workers=1)
        assert counts.get("牛") is None, method
        with pytest.raises(KeyError):
            counts["牛"]


@pytest.mark.parametrize("limit", [1 << 30, 1 << 16], ids=["memory", "disk"])
def test_sum(make, frequency, monkeypatch, limit):
    """The sum of tables is the table of all, where memory holds it and where not."""
    monkeypatch.setattr(counts_module, "default_limit", lambda: limit)
    one = WordCounts.of(make(COUNTS, frequency), documents=3)
    more = {"茶": 5, ORDER[0]: 1}
    two = WordCounts(more, documents=4, document_frequency=None if frequency is None else more)
    total = one + two
    expected = Counter(COUNTS)
    expected.update(more)
    assert dict(total.most_common()) == expected
    assert (total.documents, total.tokens) == (7, sum(expected.values()))
    if frequency is not None:
        documents = Counter(FREQUENCY)
        documents.update(more)
        assert {key: n for key, _, n in total.rows()} == documents
    else:
        assert not total.has_document_frequency
    assert sum([two, one]).most_common() == total.most_common()


def test_a_sum_equals_one_run(texts):
    """Two runs add up to one."""
    for options in ({}, {"document_frequency": True}, {"ngrams": 2}):
        whole = count_words(texts, **options)
        total = sum(count_words(some, **options) for some in (texts[:50], [], texts[50:]))
        assert list(total.rows()) == list(whole.rows())
        assert (total.documents, total.tokens) == (whole.documents, whole.tokens)


def test_sums_that_are_not_exact_are_refused():
    """What cannot be added exactly is refused, and says why."""
    one = WordCounts({"茶": 2, "水": 1}, documents=1)
    with pytest.raises(ValueError, match="fewer than 2 times"):
        one + one.filtered(min_count=2)
    with pytest.raises(ValueError, match="document frequencies"):
        one + WordCounts({"茶": 1}, documents=1, document_frequency={"茶": 1})
    with pytest.raises(ValueError, match="n-grams of different lengths"):
        one + WordCounts({("茶", "水"): 1}, documents=1)
    with pytest.raises(TypeError):
        one + {"茶": 1}
    assert one + WordCounts({}, documents=0, document_frequency={}) == one
    kept = one.filtered(stop_words=["水"])
    assert kept + kept == {"茶": 4}


@pytest.mark.parametrize("limit", [1 << 30, 1 << 16], ids=["memory", "disk"])
def test_saved(make, frequency, tmp_path, monkeypatch, limit):
    """A table is loaded as it was saved, and does not need its file afterwards."""
    monkeypatch.setattr(counts_module, "default_limit", lambda: limit)
    path = tmp_path / "part.table"
    counts = WordCounts.of(make(COUNTS, frequency), documents=3, tokens=9999)
    counts.filtered(min_count=2).save(path)
    loaded = WordCounts.load(path)
    path.unlink()
    assert list(loaded.rows()) == list(counts.filtered(min_count=2).rows())
    assert (loaded.documents, loaded.tokens) == (3, 9999)
    with pytest.raises(ValueError, match="fewer than 2 times"):
        loaded + counts


@pytest.mark.parametrize("counts", [{}, {("茶", "水"): 2, ("a", "b"): 1}, {"\ud800": 1}])
def test_saved_keys(tmp_path, counts):
    """Tables without rows, of n-grams and with surrogates are saved too."""
    path = tmp_path / "part.table"
    WordCounts(counts, documents=1).save(path)
    assert WordCounts.load(path) == counts


def test_saved_table_that_is_damaged(tmp_path):
    """A file that is cut off, changed, or something else is refused wherever that is."""
    path = tmp_path / "part.table"
    WordCounts(COUNTS, documents=1).save(path)
    whole = path.read_bytes()
    for damaged in (
        *(whole[:end] for end in (0, 20, 32, 60, 80, 300, len(whole) // 2, len(whole) - 1)),
        whole[:-40],  # without the frame that ends it
        whole + b"\0",
        whole + whole[-40:],
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 97)),
        b"token\tcount\n",
    ):
        path.write_bytes(damaged)
        with pytest.raises(OSError, match="is damaged"):
            WordCounts.load(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="it is a link"):
        WordCounts.load(link)


def test_pickle(make, frequency):
    """A table survives a pickle, wherever it is."""
    counts = WordCounts.of(make(COUNTS, frequency), documents=3)
    copy = pickle.loads(pickle.dumps(counts))
    assert list(copy.rows()) == list(counts.rows())


def test_too_large_to_look_up():
    """A table on the disk that the limit does not allow in memory is read in order, only."""
    table = spilled(COUNTS, None, limit=400 * 300 - 1)
    assert list(table.rows()) == rows(ORDER, None)
    for look in (table.counts, table.frequency):
        with pytest.raises(TableTooLargeError, match="400 rows"):
            look()
