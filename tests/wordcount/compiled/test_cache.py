"""The cache: built once, whole or not at all, found again without numba and jieba."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import jieba
import pytest

from perftricks.wordcount import cachefolder
from perftricks.wordcount.compiled import TextCounter, cache

COUNT = """
import sys
sys.path.insert(0, {root!r})
from perftricks.wordcount import compiled
counter = compiled.TextCounter(*compiled.load())
counter.feed("我来到北京清华大学".encode())
table = counter.table().to_dict()
print(*sorted(table), "numba" in sys.modules, "jieba" in sys.modules)
"""
ROOT = str(Path(__file__).parent.parent)
TOKENS = " ".join(sorted(["我", "来到", "北京", "清华大学"]))


def start(folder, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", COUNT.format(root=ROOT)],
        env={**os.environ, cachefolder.ENVIRONMENT: str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that two processes filled at the same time."""
    folder = tmp_path_factory.mktemp("cache")
    both = [start(folder), start(folder)]
    for process in both:
        out, err = process.communicate()
        assert out.startswith(TOKENS), err
    return folder


def test_two_processes_build_one_cache(filled):
    """Two processes that start at once leave one cache."""
    names = sorted(
        path.name.partition("-")[0] for path in filled.iterdir() if path.suffix != ".lock"
    )
    assert names == ["default", "kernel", "lexicon"]


def test_warm_start_imports_neither_numba_nor_jieba(filled):
    """A start with a filled cache imports neither numba nor jieba."""
    jieba.initialize()  # so that jieba's own cache file exists
    start(filled).communicate()
    out, _ = start(filled).communicate()
    assert out.split()[-2:] == ["False", "False"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" + b[1:]])
@pytest.mark.parametrize("kind", ["kernel", "lexicon"])
def test_damaged_files_are_built_anew(filled, tmp_path, kind, damage):
    """A damaged file of the cache is not used."""
    if kind == "kernel":
        (path,) = filled.glob("kernel-*.o")
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(damage(content))
        assert cache._read_code(tmp_path / path.name) is None
    else:
        (path,) = (p for p in filled.glob("lexicon-*") if p.suffix != ".lock")
        (tmp_path / path.name).write_bytes(damage(path.read_bytes()))
        assert cache._read_lexicon(tmp_path / path.name) is None


def test_read_only_home(tmp_path, monkeypatch):
    """Where the home cannot be written to, a private temporary folder serves."""
    monkeypatch.delenv(cachefolder.ENVIRONMENT, raising=False)
    monkeypatch.setattr(cachefolder.tempfile, "gettempdir", lambda: str(tmp_path))
    file = tmp_path / "not-a-folder"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # nothing can be created below a file
    folder = cachefolder.cache_folder()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_folder_of_another_user_is_not_trusted(tmp_path):
    """A folder that others may write to is not used."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert not cachefolder._is_private_folder(tmp_path / "open")


def test_every_change_of_the_dictionary_is_noticed(tmp_path):
    """Each change of a dictionary changes its key, and the table follows."""
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    keys = [cache.content_key(tokenizer)]
    for change in (
        lambda: tokenizer.add_word("甲乙丙丁戊", 7),
        lambda: tokenizer.add_word("甲乙丙丁戊", 9),
        lambda: tokenizer.FREQ.__setitem__("中国", 1),
        lambda: tokenizer.FREQ.__setitem__("中国", 2),
    ):
        change()
        keys.append(cache.content_key(tokenizer))
    assert len(set(keys)) == len(keys)
    kernel = cache.load_kernel(cachefolder.cache_folder())
    engine = kernel, cache.load_lexicon(tmp_path, kernel, tokenizer)
    counter = TextCounter(*engine)
    counter.feed("甲乙丙丁戊".encode())
    assert counter.table().to_dict() == {"甲乙丙丁戊": 1}
