"""Documents in columns of Arrow are the same documents."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest
from pyarrow import feather
from pyarrow import parquet as pq

from perftricks.wordcount import CorpusError, OptionError, count_files, count_words
from perftricks.wordcount.reading import arrow_documents

_GENERATOR = random.Random(5)
TEXTS = [
    "".join(_GENERATOR.choices("我爱喝茶，水a1\n\r😀é ", k=_GENERATOR.randrange(20)))
    for _ in range(300)
]
METHODS = ["naive", "batched", "compiled"]


def stream(table, path):
    """Write a stream of Arrow, which is what Hugging Face's datasets write."""
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


WRITERS = {
    "a.parquet": lambda table, path: pq.write_table(table, path, row_group_size=70),
    "a.feather": lambda table, path: feather.write_feather(table, path, chunksize=70),
    "lz4.arrow": lambda table, path: feather.write_feather(table, path, compression="lz4"),
    "stream.arrow": stream,
}
KINDS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


@pytest.fixture(scope="module")
def expected():
    """The counts of the texts, by jieba itself."""
    return count_words(TEXTS, method="naive", document_frequency=True)


@pytest.fixture(params=[None, 2000], ids=["whole", "small parts"])
def parts(request, monkeypatch):
    """Read columns in parts of several sizes."""
    if request.param is not None:
        monkeypatch.setattr(arrow_documents, "_PART_BYTES", request.param)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WRITERS)
def test_files(tmp_path, expected, parts, name, method):
    """Every format gives the table of the texts, by every method."""
    WRITERS[name](pa.table({"id": range(300), "text": TEXTS}), tmp_path / name)
    counts = count_files(tmp_path / name, field="text", method=method, document_frequency=True)
    assert list(counts.rows()) == list(expected.rows())
    assert counts.documents == 300
    assert counts.run.text_bytes >= sum(len(text.encode()) for text in TEXTS)
    assert counts.run.stored_bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", WRITERS)
def test_kinds_of_strings(tmp_path, expected, name, kind):
    """Strings may be stored in any way; progress comes to its end."""
    WRITERS[name](pa.table({"text": pa.array(TEXTS).cast(kind)}), tmp_path / name)
    seen = []
    counts = count_files(
        tmp_path / name, field="1", method="compiled", progress=lambda *done: seen.append(done)
    )
    assert counts == expected
    size = (tmp_path / name).stat().st_size
    assert seen[-1] == (size, size)


@pytest.mark.parametrize("name", WRITERS)
def test_fields(tmp_path, expected, name):
    """A field may be inside another, a name may have a dot, and numbers count from 1."""
    inner = [{"body": text, "n": 1} for text in TEXTS]
    WRITERS[name](
        pa.table({"doc": inner, "a.b": TEXTS, "n": range(300)}),
        tmp_path / name,
    )
    for field in ("doc.body", "a.b", "2"):
        assert count_files(tmp_path / name, field=field) == expected
    for field, problem in {
        "x": "no column 'x'; the columns are: 'doc', 'a.b', 'n'",
        "doc.x": "no column 'doc.x'",
        "9": "no column '9'",
        "n": "column 'n' is int64; expected strings",
        "doc": "column 'doc' is struct",
    }.items():
        with pytest.raises(CorpusError, match=problem):
            count_files(tmp_path / name, field=field)


def test_verify_and_checkpoint(tmp_path, expected):
    """Documents are seen one by one where that is needed."""
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    path = tmp_path / "a.parquet"
    assert count_files(path, field="text", method="compiled", verify=40).run.verified == 40
    for resumed in ("", "complete"):
        counts = count_files(path, field="text", checkpoint=tmp_path / "state")
        assert counts == expected
        assert counts.run.resumed == resumed


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("method", METHODS)
def test_null(tmp_path, parts, name, method):
    """A value that is missing is named."""
    WRITERS[name](pa.table({"text": [*TEXTS[:170], None, "茶"]}), tmp_path / name)
    with pytest.raises(CorpusError, match="row 171: column 'text' is null; expected a string"):
        count_files(tmp_path / name, field="text", method=method)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("method", METHODS)
def test_not_utf8(tmp_path, parts, name, method):
    """A string that is not UTF-8 is named: its bytes must not divide a document."""
    values = [text.encode() for text in TEXTS]
    values[170] = b"bad \xff\xed\xa0\x80"
    column = pa.Array.from_buffers(pa.string(), 300, pa.array(values, pa.binary()).buffers())
    WRITERS[name](pa.table({"text": column}), tmp_path / name)
    for call in (
        lambda: count_files(tmp_path / name, field="text", method=method),
        lambda: count_words(column, method=method),
    ):
        with pytest.raises(CorpusError, match=r"row 171: column 'texts?' is not UTF-8"):
            call()
    (tmp_path / "good.txt").write_text("茶\n")
    counts = count_files(tmp_path, field="text", method=method, skip_bad=True)
    assert counts == {"茶": 1}


@pytest.mark.parametrize("name", WRITERS)
def test_damaged(tmp_path, name):
    """A damaged file is named, or left out if that is asked for, with all that is in it."""
    path = tmp_path / name
    WRITERS[name](pa.table({"text": TEXTS}), path)
    whole = path.read_bytes()
    (tmp_path / "good.txt").write_text("茶\n")
    for data in (whole[:-7], whole[: len(whole) // 2], b"PAR1" + bytes(50) + b"PAR1"):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=f"{name}.*: not (parquet|arrow): "):
            count_files(path, field="text")
        counts = count_files([path, tmp_path / "good.txt"], field="text", skip_bad=True)
        assert counts == {"茶": 1}
        assert [bad.path for bad in counts.run.bad] == [str(path)]


def test_too_long(tmp_path):
    """A document that memory does not hold is an error."""
    pq.write_table(pa.table({"text": ["短", "茶" * (1 << 21)]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="a document of 2,097,152 characters"):
        count_files(tmp_path / "a.parquet", field="text", memory_limit="1MB")


def test_what_cannot_be_read(tmp_path, monkeypatch):
    """What is no file, is compressed once more, or lacks a field is refused before the work."""
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    for path, options, problem in (
        ("-", {"format": "parquet", "field": "text"}, "read from files only"),
        (tmp_path / "a.parquet.gz", {"field": "text"}, "is compressed inside"),
        (tmp_path / "a.parquet", {}, "which field holds the text .--field.; the columns are: 't"),
        (tmp_path / "a.parquet", {"field": "text", "document": "file"}, "a document is a record"),
    ):
        with pytest.raises(OptionError, match=problem):
            count_files(path, **options)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OptionError, match="cannot be read: it needs pyarrow: pip install"):
        count_files(tmp_path / "a.parquet", field="text")


def test_datasets_of_hugging_face(tmp_path, expected):
    """Of a dataset on the disk its own files are read; an index of rows is refused."""
    half = len(TEXTS) // 2
    for split, texts in (("train", TEXTS[:half]), ("test", TEXTS[half:])):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        name = "data-00000-of-00001.arrow"
        stream(pa.table({"text": texts}), folder / name)
        stream(pa.table({"text": texts}), folder / "cache-0123456789abcdef.arrow")
        state = {"_data_files": [{"filename": name}], "_fingerprint": "0"}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "data" / "dataset_dict.json").write_text("{}")
    counts = count_files(tmp_path / "data", field="text")
    assert counts == expected
    assert counts.run.files == 2
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(OptionError, match="call flatten_indices"):
        count_files(tmp_path / "data", field="text")


@pytest.mark.parametrize("method", METHODS)
def test_columns_in_memory(expected, parts, method):
    """A column of Arrow is counted as the strings in it are."""
    polars = pytest.importorskip("polars")
    columns = [pa.array(TEXTS), pa.chunked_array([TEXTS[:9], TEXTS[9:]]), polars.Series(TEXTS)]
    columns += [pa.array(TEXTS).cast(kind) for kind in KINDS]
    for column in columns:
        counts = count_words(column, method=method, document_frequency=True)
        assert list(counts.rows()) == list(expected.rows())
        assert counts.documents == 300
    assert not count_words(pa.array([], pa.string()), method=method)


def test_columns_of_pandas():
    """A column of pandas holds strings, or any Python objects; it is counted as a list is."""
    pandas = pytest.importorskip("pandas")
    for column in (pandas.Series(TEXTS), pandas.Series(TEXTS, dtype=object)):
        assert count_words(column) == count_words(TEXTS)
    surrogate = ["茶", "a\ud800"]
    assert count_words(pandas.Series(surrogate, dtype=object)) == count_words(surrogate)
    assert not count_words(pandas.Series([], dtype=object))
    with pytest.raises(TypeError, match="document 1 is of type int, not str"):
        count_words(pandas.Series(["茶", 3], dtype=object))


def test_columns_of_something_else():
    """A table, numbers, and a missing value are refused."""
    for column, problem in (
        (pa.table({"text": TEXTS}), "texts is a table; expected one of its columns"),
        (pa.array([1, 2]), "texts is a column of int64; expected strings"),
        (pa.array(["茶", None]), "document 1 is null, not a string"),
    ):
        with pytest.raises(TypeError, match=problem):
            count_words(column)
