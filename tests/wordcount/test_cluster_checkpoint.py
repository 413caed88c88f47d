"""Snapshots of a count on a cluster: either engine goes on where the other one was."""

from __future__ import annotations

import contextlib
import os
import random
import signal

import pytest

from perftricks.parallel import ClusterError
from perftricks.wordcount import OptionError, count_files, count_words
from perftricks.wordcount.checkpoint import Checkpoint
from perftricks.wordcount.cluster import engine as cluster_engine
from tests.clusters import Cluster

from .test_cluster import same

pytest.importorskip("distributed", reason="distributed is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


class Stopped(Exception):
    """Ends a run in its midst."""


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    """A small corpus has many partitions, and a piece of one machine is small as well."""
    for name in ("_LEAST", "_MOST", "_MOST_NGRAMS"):
        monkeypatch.setattr(cluster_engine, name, 300_000)
    monkeypatch.setattr("perftricks.wordcount.reading.pieces.PIECE_BYTES", 200_000)
    monkeypatch.setattr("perftricks.wordcount.methods.compiled._MOST_DOCUMENTS", 777)
    monkeypatch.setattr("perftricks.wordcount.reading.arrow_documents._PART_ROWS", 500)


@pytest.fixture
def folder(tmp_path):
    """Two files of text, one of them with a byte order mark."""
    generator = random.Random(3)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        lines = (
            "".join(generator.choices(["喝茶", "水火", "的", "é"], k=20)) for _ in range(30_000)
        )
        (folder / name).write_text(("\ufeff" if name == "b.txt" else "") + "\n".join(lines))
    return folder


@pytest.fixture
def columns(folder, tmp_path):
    """The same texts in two files of columns, in row groups that no run of one machine ends at."""
    columns = tmp_path / "columns"
    columns.mkdir()
    for path in sorted(folder.iterdir()):
        table = pa.table({"t": path.read_text().split("\n")})
        pq.write_table(table, columns / f"{path.stem}.parquet", row_group_size=1000)
    return columns


def stop_at(share):
    """Return a progress function that ends the run when so much is done."""

    def progress(done, total):
        if done >= share * total:
            raise Stopped

    return progress


@pytest.mark.parametrize("kind", ["folder", "columns"])
@pytest.mark.parametrize("engines", ["dask-dask", "dask-local", "local-dask", "local-dask-local"])
@pytest.mark.parametrize("options", [{}, {"ngrams": 2, "document_frequency": True}], ids=str)
def test_either_engine_goes_on(cluster, request, tmp_path, kind, engines, options):
    """A run that is stopped goes on with the same engine or the other, and counts all once."""
    folder = request.getfixturevalue(kind)
    size = sum(path.stat().st_size for path in folder.iterdir())
    options = {**options, "field": "t"} if kind == "columns" else options
    seen = []
    options = {**options, "checkpoint": tmp_path / "state", "checkpoint_seconds": 0}
    names = engines.split("-")
    for place, name in enumerate(names):
        engine = cluster.client() if name == "dask" else None
        if place < len(names) - 1:
            share = (place + 1.3) / (len(names) + 1)  # in the midst of a file
            with pytest.raises(Stopped):
                count_files(folder, engine=engine, progress=stop_at(share), **options)
        else:
            found = count_files(
                folder, engine=engine, progress=lambda *done: seen.append(done), **options
            )
            assert found.run.resumed == "resumed"
            assert found.run.stored_bytes == size
            assert seen[-1] == (size, size)
            again = count_files(folder, engine=engine, **options)
            assert again.run.resumed == "complete"
    without = {k: v for k, v in options.items() if not k.startswith("checkpoint")}
    assert same(found, count_files(folder, **without))
    assert same(again, found)


@pytest.mark.parametrize("row", [0, 1, 999, 1000, 29_999, 30_000])
def test_any_row_is_a_place(cluster, columns, tmp_path, row):
    """A cluster goes on at any row of a .parquet, in the midst of a row group or between two."""
    options = {"field": "t", "checkpoint": tmp_path / "state"}

    def from_row(self, identity, real=Checkpoint.opened):
        with real(self, identity) as state:
            state.offset = row
            yield state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "opened", contextlib.contextmanager(from_row))
        counts = count_files(columns / "a.parquet", engine=cluster.client(), **options)
    texts = pq.read_table(columns / "a.parquet").column("t").to_pylist()[row:]
    assert same(counts, count_words(texts, method="compiled"))


def test_record_batches(cluster, columns, tmp_path):
    """A snapshot waits for the end of an .arrow file, in which rows have no numbers."""
    for path in sorted(columns.iterdir()):
        with pa.ipc.new_file(path.with_suffix(".arrow"), pa.schema({"t": pa.string()})) as writer:
            writer.write_table(pq.read_table(path), max_chunksize=1000)
        path.unlink()
    options = {"field": "t", "checkpoint": tmp_path / "state", "checkpoint_seconds": 0}
    with pytest.raises(Stopped):
        count_files(columns, engine=cluster.client(), progress=stop_at(0.7), **options)
    found = count_files(columns, **options)
    assert found.run.resumed == "resumed"
    assert same(found, count_files(columns, field="t"))
    options["checkpoint"] = tmp_path / "other"
    with pytest.raises(Stopped):
        count_files(columns, progress=stop_at(0.3), **options)
    with pytest.raises(OptionError, match=r"in the midst of '.*a\.arrow'"):
        count_files(columns, engine=cluster.client(), **options)


def test_a_complete_one_of_the_other_engine(cluster, folder, tmp_path):
    """What one engine has finished the other reads."""
    state = tmp_path / "state"
    expected = count_files(folder, engine=cluster.client(), checkpoint=state)
    assert expected.run.resumed == ""
    assert same(count_files(folder, checkpoint=state), expected)
    assert same(count_files(folder), expected)


@pytest.mark.cluster_faults
def test_the_scheduler_is_lost(folder, tmp_path):
    """The error says so, and the checkpoint holds what was counted until the last snapshot."""
    state = tmp_path / "state"
    cluster = Cluster(1)
    try:
        client = cluster.client()

        def kill(done, total):
            if done > 0.5 * total:
                os.killpg(cluster.pid, signal.SIGKILL)

        with pytest.raises(ClusterError, match="is lost, or its client was closed"):
            count_files(
                folder, engine=client, checkpoint=state, checkpoint_seconds=0, progress=kill
            )
    finally:
        cluster.close()
    found = count_files(folder, checkpoint=state)
    assert found.run.resumed == "resumed"
    assert same(found, count_files(folder))


def test_places_that_only_one_machine_knows(cluster, folder, tmp_path):
    """In the midst of JSON lines the engine of one machine counts documents, and says so."""
    path = folder / "c.jsonl"
    path.write_text('{"t": "喝茶水火"}\n' * 300_000)
    options = {"field": "t", "checkpoint": tmp_path / "state", "checkpoint_seconds": 0}
    with pytest.raises(Stopped):
        count_files(path, progress=stop_at(0.4), **options)
    with pytest.raises(OptionError, match=r"in the midst of '.*c\.jsonl'"):
        count_files(path, engine=cluster.client(), **options)
