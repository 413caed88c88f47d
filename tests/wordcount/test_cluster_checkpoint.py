"""Snapshots of a count on a cluster: either engine goes on where the other one was."""

from __future__ import annotations

import os
import random
import signal

import pytest

from perftricks.parallel import ClusterError
from perftricks.wordcount import OptionError, count_files
from perftricks.wordcount.cluster import engine as cluster_engine
from tests.clusters import Cluster

from .test_cluster import same

pytest.importorskip("distributed", reason="distributed is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")


class Stopped(Exception):
    """Ends a run in its midst."""


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    """A small corpus has many partitions, and a piece of one machine is small as well."""
    for name in ("_LEAST", "_MOST", "_MOST_NGRAMS"):
        monkeypatch.setattr(cluster_engine, name, 300_000)
    monkeypatch.setattr("perftricks.wordcount.reading.pieces.PIECE_BYTES", 200_000)


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


def stop_at(share):
    """Return a progress function that ends the run when so much is done."""

    def progress(done, total):
        if done >= share * total:
            raise Stopped

    return progress


@pytest.mark.parametrize("engines", ["dask-dask", "dask-local", "local-dask", "local-dask-local"])
@pytest.mark.parametrize("options", [{}, {"ngrams": 2, "document_frequency": True}], ids=str)
def test_either_engine_goes_on(cluster, folder, tmp_path, engines, options):
    """A run that is stopped goes on with the same engine or the other, and counts all once."""
    options = {**options, "checkpoint": tmp_path / "state", "checkpoint_seconds": 0}
    names = engines.split("-")
    for place, name in enumerate(names):
        engine = cluster.client() if name == "dask" else None
        if place < len(names) - 1:
            share = (place + 1.5) / (len(names) + 1)
            with pytest.raises(Stopped):
                count_files(folder, engine=engine, progress=stop_at(share), **options)
        else:
            found = count_files(folder, engine=engine, **options)
            assert found.run.resumed == "resumed"
            again = count_files(folder, engine=engine, **options)
            assert again.run.resumed == "complete"
    without = {k: v for k, v in options.items() if not k.startswith("checkpoint")}
    assert same(found, count_files(folder, **without))
    assert same(again, found)


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
