"""Counting on a dask cluster gives the table of one process, whoever dies; the rest is refused."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal

import pytest

from perftricks.parallel import ClusterError
from perftricks.wordcount import (
    CorpusError,
    OptionError,
    TableTooLargeError,
    count_files,
    read_table,
)
from perftricks.wordcount.cluster import engine as cluster_engine
from perftricks.wordcount.cluster.driver import Driver
from tests.conftest import PATIENCE

pytest.importorskip("distributed", reason="distributed is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    """A small corpus has many partitions."""
    monkeypatch.setattr(cluster_engine, "_LEAST", 2000)
    monkeypatch.setattr(cluster_engine, "_MOST", 3000)
    monkeypatch.setattr(cluster_engine, "_MOST_NGRAMS", 3000)


@pytest.fixture(scope="module")
def client(cluster):
    """A client of a cluster whose workers can count."""
    return cluster.client()


@pytest.fixture
def many(tmp_path):
    """A folder of text, JSON lines, compressed text and columns: some sixty partitions."""
    generator = random.Random(3)
    words = ["喝茶", "水火", "北京大学", "的", "我们", "tea", "3.14", "研究生命", "\t", "𠮷野家"]
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.jsonl", "d.txt.gz"):
        lines = ["".join(generator.choices(words, k=generator.randrange(30))) for _ in range(800)]
        if name.endswith("jsonl"):
            lines = [json.dumps({"t": line}) for line in lines]
        data = ("\n".join(lines) + "\n").encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    texts = ["".join(generator.choices(words, k=generator.randrange(30))) for _ in range(1600)]
    write_columns(folder / "e.parquet", texts[:800])
    write_columns(folder / "f.arrow", texts[800:])
    return folder


def write_columns(path, texts, rows=70, **more):
    """Write texts in row groups, or record batches, of so many rows, and an empty one."""
    table = pa.table({"t": pa.array(texts, pa.string()), "o": [{"t": text} for text in texts]})
    make = pq.ParquetWriter if path.suffix == ".parquet" else pa.ipc.new_file
    with make(path, table.schema, **more) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write(batch)
            if batch.column(0)[0].as_py() == texts[rows]:
                writer.write(batch.slice(0, 0))


def same(one, other):
    """Whether two counts are equal in all that a caller sees."""
    assert list(one.rows()) == list(other.rows())
    assert (one.documents, one.tokens) == (other.documents, other.tokens)
    return True


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"document_frequency": True, "ngrams": 2, "min_count": 2},
        {"mode": "search", "hmm": False, "stop_words": ["的"], "min_length": 2},
        {"tokenizer": "whitespace"},
        {"tokenizer": lambda text: text.split("茶")},
        {"user_dict": ["茶水 100", "喝茶水火 500"], "mode": "all"},
        {"skip_bad": True, "encoding": "auto"},
        {"document": "line", "errors": "replace"},
        {"pos": True},
        {"pos": "n,v*", "user_dict": ["茶水 100 n", "喝茶水火 500 mine"], "min_count": 2},
        {"pos": "n", "document_frequency": True},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_equal_to_one_process(client, many, options):
    """With whatever options, the table is that of one process."""
    local = count_files(many, field="t", **options)
    found = count_files(many, field="t", engine=client, **options)
    assert same(found, local)
    assert found.are_tagged == local.are_tagged == ("pos" in options)
    assert found.run.files == local.run.files
    assert found.run.text_bytes == local.run.text_bytes
    assert found.run.encodings == local.run.encodings


def test_few_texts(client, tmp_path):
    """An empty file, and one without a line end, are counted."""
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("喝茶")
    assert same(count_files(tmp_path, engine=client), count_files(tmp_path))
    assert len(count_files(tmp_path / "a.txt", engine=client)) == 0


def test_progress_and_address(client, many):
    """Progress goes up to all bytes; an address does for a client."""
    seen = []
    found = count_files(
        many / "a.txt",
        engine=client.scheduler.address,
        progress=lambda done, total: seen.append((done, total)),
    )
    size = (many / "a.txt").stat().st_size
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert found.run.method == "dask"
    assert client.status == "running"


@pytest.mark.parametrize("name", ["e.parquet", "f.arrow"])
@pytest.mark.parametrize("field", ["t", "o.t", "1"])
def test_row_groups(client, many, monkeypatch, name, field):
    """One file is counted by many tasks, whatever its field; progress goes up to all its bytes."""
    from perftricks.wordcount.cluster.driver import Driver

    begun, seen = [], []
    begin = Driver._begin_partition

    def watched(self, source):
        begun.append(source)
        begin(self, source)

    monkeypatch.setattr(Driver, "_begin_partition", watched)
    found = count_files(
        f"file://{many / name}",
        engine=client,
        field=field,
        progress=lambda done, total: seen.append((done, total)),
    )
    local = count_files(many / name, field=field)
    assert same(found, local)
    assert found.documents == 800
    assert found.run.text_bytes == local.run.text_bytes
    size = (many / name).stat().st_size
    assert found.run.stored_bytes == size
    assert len(begun) > 5
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_columns_without_rows(client, tmp_path):
    """Files of columns without any row are counted, and so are columns of one row."""
    pq.write_table(pa.table({"t": pa.array([], pa.string())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"t": ["喝茶"]}), tmp_path / "b.parquet")
    found = count_files(tmp_path, engine=client, field="t")
    assert same(found, count_files(tmp_path, field="t"))
    assert found.documents == 1


@pytest.mark.parametrize("name", ["e.parquet", "f.arrow"])
def test_rows_are_named_by_their_number_in_the_file(client, tmp_path, name):
    """What is wrong with a row group is said as by one process, the row by its number."""
    texts = ["喝茶水火" * 9] * 2000
    texts[1234] = texts[1900] = None
    write_columns(tmp_path / name, texts)
    for field, problem in (
        ("t", r"row 1,235: column 't' is null; expected a string"),
        ("x", r"no column 'x'; the columns are: 't', 'o'"),
    ):
        with pytest.raises(CorpusError, match=problem) as expected:
            count_files(tmp_path / name, field=field)
        with pytest.raises(CorpusError) as found:
            count_files(tmp_path / name, field=field, engine=client)
        assert str(found.value) == str(expected.value)


def test_a_damaged_row_group(client, many):
    """A damaged file is named as by one process, or left out with all that is in it."""
    path = many / "e.parquet"
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(5).column(0).data_page_offset
    data[place : place + 30] = b"\xff" * 30
    for broken in (data, data[:-9]):
        path.write_bytes(broken)
        with pytest.raises(CorpusError, match=r"e\.parquet.*: not parquet: ") as expected:
            count_files(path, field="t")
        with pytest.raises(CorpusError) as found:
            count_files(path, field="t", engine=client)
        assert str(found.value) == str(expected.value)
        local = count_files(many, field="t", skip_bad=True)
        found = count_files(many, field="t", skip_bad=True, engine=client)
        assert same(found, local)
        assert [bad.path for bad in found.run.bad] == [str(path)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "naive"}, "method 'naive' is for one machine"),
        ({"verify": 3}, "verify"),
        ({"start_method": "spawn"}, "start_method"),
        ({"workers": 2}, "leave workers out"),
        ({"engine": "spark"}, "engine must be None, 'dask', a client"),
        ({"engine": 3}, "engine must be None, 'dask', a client"),
        ({"folder": "docs"}, "is there and not empty"),
        ({"folder": "new", "checkpoint": "state"}, "leave one of them out"),
        ({"engine": None, "folder": "new"}, "folder is for workers"),
        ({"storage_options": {"anon": True}}, "storage_options are for URLs"),
    ],
)
def test_refused_by_name(client, options, message):
    """What a cluster cannot do is refused before anything is counted."""
    with pytest.raises(OptionError, match=message):
        count_files("docs/samples", **{"engine": client, **options})


def test_standard_input_is_refused(client):
    """The standard input is nowhere else."""
    with pytest.raises(OptionError, match="'<stdin>' is no file"):
        count_files("-", engine=client)


def test_the_first_error_is_raised(client, tmp_path):
    """Of several bad places the first is named, as by one process."""
    data = b"good\n" * 1000 + b"bad \xff\n" + b"good\n" * 3000 + b"\xfe\n"
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(CorpusError, match="byte 5004: 0xff is not utf-8"):
        count_files(tmp_path / "a.txt", engine=client)


@pytest.mark.parametrize("good", [0, 100, 5000])
def test_the_error_of_the_last_partition_is_raised(client, tmp_path, good):
    """What is wrong is said also of what is counted last, or alone."""
    (tmp_path / "a.txt").write_bytes(b"good\n" * good + b"bad \xff\n")
    with pytest.raises(CorpusError, match=f"byte {5 * good + 4:d}: 0xff is not utf-8"):
        count_files(tmp_path / "a.txt", engine=client)


def test_another_dictionary_is_noticed(client, monkeypatch):
    """A client whose jieba knows other words than the workers' is told before counting."""
    import perftricks.wordcount.cluster.engine as engine

    monkeypatch.setattr(
        engine,
        "tokenizing",
        lambda spec, real=engine.tokenizing: (
            found := real(spec),
            found._replace(identity={**found.identity, "jieba's dictionary": "another"}),
        )[1],
    )
    with pytest.raises(ClusterError, match=r"the worker tcp://.* has another jieba's dictionary"):
        count_files("docs/samples", engine=client)


def test_words_that_a_program_added_are_noticed(client, restored_jieba):
    """Words that were added to jieba here, and not on the workers, are no silent difference."""
    import jieba

    jieba.add_word("喝茶水火")
    with pytest.raises(ClusterError, match="another jieba's dictionary"):
        count_files("docs/samples", engine=client)


@pytest.mark.parametrize(
    ("name", "message"),
    [("perftricks", "another perftricks "), ("perftricks' sources", "another perftricks' sources")],
)
def test_another_version_is_noticed(client, monkeypatch, name, message):
    """Another version, or other sources, of this package is told before counting."""
    real = cluster_engine.tokenizing

    def other(spec):
        found = real(spec)
        return found._replace(identity={**found.identity, name: "other"})

    monkeypatch.setattr(cluster_engine, "tokenizing", other)
    with pytest.raises(ClusterError, match=message):
        count_files("docs/samples", engine=client)


@pytest.mark.cluster_faults
def test_workers_are_killed(cluster, many):
    """Whatever workers die, each document is counted once."""
    client = cluster.client()
    expected = count_files(many, field="t", ngrams=2)
    generator, killed = random.Random(1), []
    pids = list(client.run(os.getpid).values())

    def kill(done, total):
        if done and not killed:
            killed.extend(pids)
            for pid in pids:  # with the tables that they hold
                os.kill(pid, signal.SIGKILL)
        elif generator.random() < 0.1:
            there = list(client.run(os.getpid, on_error="ignore").values())
            killed.extend(there[:1])
            for pid in there[:1]:
                os.kill(pid, signal.SIGKILL)

    assert same(count_files(many, field="t", ngrams=2, engine=client, progress=kill), expected)
    assert len(killed) >= 3


def _size_of(path):
    """Fail until there is such a file."""
    return os.path.getsize(path)


def test_what_was_let_go_is_run_again(client, tmp_path):
    """A task is tried again, though what failed is something that nobody holds any more."""
    driver = Driver.__new__(Driver)
    driver._client = client
    path = tmp_path / "file"
    needed = client.submit(_size_of, str(path), pure=False)
    wanted = client.submit(abs, client.submit(int, needed, pure=False), pure=False)
    del needed
    assert isinstance(wanted.exception(timeout=PATIENCE), FileNotFoundError)
    path.write_text("abc")
    client.sync(driver._run_again, wanted)
    assert wanted.result(timeout=PATIENCE) == 3


def test_a_folder_of_parts(client, many, tmp_path):
    """Workers write the table; it is read in order, within a limit, and equals the other one."""
    folder = tmp_path / "parts"
    expected = count_files(many, field="t", document_frequency=True, min_count=2)
    options = {"field": "t", "document_frequency": True, "min_count": 2, "memory_limit": "20kB"}
    found = count_files(many, engine=client, folder=folder, **options)
    assert same(found, expected)
    assert found.most_common(3) == expected.most_common(3)
    assert len(found) == len(expected)
    for table in (read_table(folder), read_table(f"file://{folder}")):
        assert same(table, expected)
    kept = found.filtered(min_count=5, min_length=2)
    assert same(kept, expected.filtered(min_count=5, min_length=2))
    assert len(list(folder.iterdir())) >= 1
    with pytest.raises(ValueError, match="fewer than 2 times cannot be added"):
        found + found
    with pytest.raises(OptionError, match="not empty"):
        count_files(many, engine=client, folder=folder, **options)


def test_tags_in_a_folder_of_parts(client, many, tmp_path):
    """Workers write tokens with their tags."""
    expected = count_files(many, field="t", pos=True)
    found = count_files(many, engine=client, folder=tmp_path / "parts", field="t", pos=True)
    assert same(found, expected)
    read = read_table(tmp_path / "parts")
    assert same(read, expected)
    assert read.are_tagged
    assert same(read.filtered(min_count=2), expected.filtered(min_count=2))


def test_a_table_larger_than_memory(client, many, tmp_path, monkeypatch):
    """A table is divided into many parts; what needs all of it says so, the rest goes on."""
    from perftricks.wordcount.cluster.driver import Driver

    small = Driver.__init__

    def init(self, *args):
        small(self, *args)
        self.large = 20_000

    monkeypatch.setattr(Driver, "__init__", init)
    monkeypatch.setattr(cluster_engine, "_MOST_NGRAMS", 30_000)
    expected = count_files(many, field="t", ngrams=3)
    folder = tmp_path / "parts"
    found = count_files(
        many, field="t", ngrams=3, engine=client, folder=folder, memory_limit="50kB"
    )
    assert len(list(folder.iterdir())) > 4
    assert found.most_common(10) == expected.most_common(10)
    assert list(found.rows()) == list(expected.rows())
    with pytest.raises(TableTooLargeError, match="memory limit is 50,000 bytes"):
        found[("的", "的", "的")]
    assert same(count_files(many, field="t", ngrams=3, engine=client), expected)
    next(iter(folder.iterdir())).unlink()
    with pytest.raises(CorpusError, match="not a whole table"):
        read_table(folder)
