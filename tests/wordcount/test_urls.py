"""Files at URLs: fsspec reads them, here and on the workers of a cluster."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import pytest

from perftricks.wordcount import CorpusError, OptionError, count_files, read_table
from perftricks.wordcount.cluster import engine as cluster_engine
from tests.conftest import PATIENCE

from .test_cluster import same

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
feather = pytest.importorskip("pyarrow.feather", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

TEXT = "我爱喝茶\n北京大学的水火\n" * 500


@pytest.fixture
def memory():
    """A folder in the memory of this process."""
    url = f"memory://{uuid.uuid4().hex}"
    system = fsspec.filesystem("memory")
    system.pipe(
        {
            f"{url}/a.txt": TEXT.encode(),
            f"{url}/deep/b.txt.gz": gzip.compress("茶\n".encode()),
            f"{url}/.hidden.txt": b"no",
            f"{url}/photo.png": b"no",
        }
    )
    return url


@pytest.fixture
def texts(tmp_path):
    """The same in files."""
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text(TEXT)
    (tmp_path / "texts" / "deep" / "b.txt.gz").write_bytes(gzip.compress("茶\n".encode()))
    return tmp_path / "texts"


def test_a_folder_in_memory(memory, texts):
    """A folder at a URL is searched as one of a disk is."""
    found = count_files(memory)
    assert same(found, count_files(texts))
    assert found.run.passed_over == 2
    assert found.run.files == 2
    assert same(count_files([f"{memory}/a.txt"], method="naive"), count_files(texts / "a.txt"))


def test_files_of_a_disk(texts, tmp_path):
    """file:// is the disk."""
    assert same(count_files(f"file://{texts}"), count_files(texts))
    state = tmp_path / "state"
    assert same(count_files(f"file://{texts}", checkpoint=state), count_files(texts))
    (texts / "a.txt").write_text(TEXT + "茶")
    with pytest.raises(OptionError, match="is of another run"):
        count_files(f"file://{texts}", checkpoint=state)


def test_what_is_wrong_with_a_url(memory):
    """Errors name the URL and what to do."""
    with pytest.raises(FileNotFoundError, match="does not exist"):
        count_files(f"{memory}/other.txt")
    with pytest.raises(OptionError, match="'nothing://a' cannot be used"):
        count_files("nothing://a")
    with pytest.raises(OptionError, match="is given twice"):
        count_files([memory, memory])
    fsspec.filesystem("memory").pipe({f"{memory}/bad.txt": b"\xff"})
    with pytest.raises(CorpusError, match=r"bad\.txt, byte 0: 0xff is not utf-8"):
        count_files(memory)
    fsspec.filesystem("memory").pipe({f"{memory}/a.parquet": b"no"})
    with pytest.raises(CorpusError, match=r"a\.parquet.*not parquet"):
        count_files(f"{memory}/a.parquet", field="text")


@pytest.mark.parametrize("extension", ["parquet", "arrow", "feather"])
def test_columns_of_arrow(memory, tmp_path, extension):
    """Columns are read from URLs as from files."""
    table = pa.table({"n": [1, 2, 3], "text": ["我爱喝茶", "北京大学\n的水", ""]})
    path = tmp_path / f"a.{extension}"
    if extension == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        feather.write_feather(table, path)
    url = f"{memory}/columns/{path.name}"
    fsspec.filesystem("memory").pipe({url: path.read_bytes()})
    for name in (url, url.rpartition("/")[0]):
        assert same(count_files(name, field="text"), count_files(path, field="text"))
    with pytest.raises(OptionError, match=r"field.*the columns are: 'n', 'text'"):
        count_files(url)


def test_a_dataset_at_a_url(memory):
    """Of a Hugging Face dataset the files that belong to it are read, and no others."""
    system = fsspec.filesystem("memory")
    for name in ("data", "cache"):
        with pa.ipc.new_stream(
            system.open(f"{memory}/set/{name}.arrow", "wb"), pa.schema({"text": pa.string()})
        ) as stream:
            stream.write_table(pa.table({"text": [f"{name} 茶"]}))
    state = json.dumps({"_data_files": [{"filename": "data.arrow"}]})
    system.pipe({f"{memory}/set/state.json": state.encode()})
    assert dict(count_files(f"{memory}/set", field="text")) == {" ": 1, "data": 1, "茶": 1}


@pytest.fixture(scope="module")
def s3():
    """A server of S3 on this machine; gives the options to reach it."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed: no S3 to test with")
    pytest.importorskip("s3fs", reason="s3fs is not installed: no S3 to test with")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    yield {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": endpoint}}
    server.kill()
    server.wait()


@pytest.mark.filterwarnings("ignore")  # botocore's, of its own time
def test_s3(cluster, s3, texts, tmp_path, monkeypatch):
    """Workers read ranges of objects in S3, and write the table there."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    monkeypatch.setattr(cluster_engine, "_LEAST", 3000)
    bucket = f"s3://b{uuid.uuid4().hex}"
    system = fsspec.filesystem("s3", **s3)
    system.mkdir(bucket)
    for path in ("a.txt", "deep/b.txt.gz"):
        system.pipe_file(f"{bucket}/in/{path}", (texts / path).read_bytes())
    expected = count_files(texts)
    assert same(count_files(f"{bucket}/in", storage_options=s3), expected)
    found = count_files(
        f"{bucket}/in", storage_options=s3, engine=cluster.client(), folder=f"{bucket}/out"
    )
    assert same(found, expected)
    assert same(read_table(f"{bucket}/out", storage_options=s3), expected)
    columns = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": TEXT.split("\n")}), columns, row_group_size=70)
    system.pipe_file(f"{bucket}/a.parquet", columns.read_bytes())
    monkeypatch.setattr(cluster_engine, "_LEAST", 500)
    options = {"field": "t", "storage_options": s3, "engine": cluster.client()}
    assert columns.stat().st_size > 2000
    assert same(count_files(f"{bucket}/a.parquet", **options), count_files(columns, field="t"))
    wrong = {**s3, "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    with pytest.raises(OSError, match=r"s3://"):
        count_files(f"{bucket}/in", storage_options=wrong)


def test_patterns(memory):
    """A pattern in a URL stands for the files that match it, in sorted order."""
    system = fsspec.filesystem("memory")
    system.pipe({f"{memory}/b.txt": "水\n".encode(), f"{memory}/[1].txt": "一\n".encode()})
    assert dict(count_files(f"{memory}/*/b.txt.gz")) == {"茶": 1}
    assert dict(count_files(f"{memory}/b*.txt")) == {"水": 1}
    assert dict(count_files(f"{memory}/[1].txt")) == {"一": 1}
    assert count_files(f"{memory}/**/*.txt*").run.files == 4
    with pytest.raises(FileNotFoundError, match="as a pattern matches nothing"):
        count_files(f"{memory}/*.jsonl")
