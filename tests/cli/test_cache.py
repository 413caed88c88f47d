"""Showing and emptying the cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from perftricks.wordcount.storage import cachefolder
from perftricks.wordcount.storage.cachefiles import LIMIT_ENVIRONMENT
from perftricks.wordcount.storage.cachefolder import ENVIRONMENT, cache_folder
from tests.cli.conftest import ROOT, command, environment

KEY = "0123456789abcdef" * 2
FILES = {
    f"kernel-{KEY}.o": 1000,
    f"kernel-{KEY}.o.lock": 0,
    f"lexicon-{KEY}": 500,
    f"lexicon-{KEY}.lock": 0,
    f"default-{KEY}": 65,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of one kernel and one dictionary."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for name, size in FILES.items():
        (folder / name).write_bytes(bytes(size))
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    return folder


def test_show(call, folder):
    """What is there is shown by kind, with sizes; looking changes nothing."""
    result = call("cache")
    assert (result.status, result.err) == (0, "")
    assert str(folder) in result.out
    rows = {line.split()[0]: line.split()[-3:] for line in result.out.splitlines() if line}
    assert rows["kernels"] == ["1", "1.0", "kB"]
    assert rows["all"] == ["5", "1.6", "kB"]
    assert call("cache", "show").out == result.out
    record = call("cache", "--json", "-").json
    assert record["files"] == {"aliases": 1, "tables": 1, "kernels": 1, "locks": 2, "leftovers": 0}
    assert (record["total_files"], record["total_bytes"]) == (5, sum(FILES.values()))
    assert sorted(os.listdir(folder)) == sorted(FILES)


def test_clear(call, folder):
    """Clearing says what and how much was removed, and leaves the folder for others to write to."""
    result = call("cache", "clear")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"removed 5 files, 1.6 kB, from {folder}\n")
    assert os.listdir(folder) == []
    again = call("cache", "clear")
    assert (again.status, again.out) == (0, f"nothing to remove in {folder}\n")
    assert "empty: it is filled when" in call("cache").out


def test_clear_for_machines(call, folder):
    """--json has the same."""
    record = call("cache", "clear", "--json", "-").json
    assert record["bytes"]["tables"] == 500
    assert record["total_files"] == 5


def test_what_is_not_ours_stays(call, folder):
    """Only files that the cache writes are removed; others are named."""
    (folder / "thesis.doc").write_text("years of work")
    (folder / f"lexicon-{KEY}.backup").write_text("by hand")
    (folder / f"kernel-{KEY[::-1]}.o").mkdir()
    result = call("cache", "clear")
    assert result.status == 0
    assert len(os.listdir(folder)) == 3
    assert "left alone: 'kernel-" in result.out
    assert "'thesis.doc'" in result.out


def test_what_is_being_built_stays(call, folder):
    """A kernel that a process is building at this moment is left to it, with its lock."""
    with open(folder / f"kernel-{KEY}.o.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = call("cache", "clear")
    assert result.status == 0
    assert sorted(os.listdir(folder)) == [f"kernel-{KEY}.o", f"kernel-{KEY}.o.lock"]
    assert result.out.startswith("removed 3 files")
    assert f"left kernel-{KEY}.o: it is being built at this moment" in result.out


def test_leftovers(call, folder):
    """An unfinished file is removed once nobody is writing it any more."""
    old, new = (folder / f".perftricks-{key}.tmp" for key in (KEY[:16], KEY[1:17]))
    for path in (old, new):
        path.write_bytes(b"half")
    with open(new, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = call("cache", "clear")
    assert result.status == 0
    assert f"left {new.name}" in result.out
    assert os.listdir(folder) == [new.name]


def test_what_cannot_be_removed(call, folder, monkeypatch):
    """A file that cannot be removed is an error, and does not keep the others."""
    unlink = os.unlink

    def guarded(path, *given, **options):
        if str(path).startswith("lexicon"):
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, *given, **options)

    monkeypatch.setattr(cachefolder.os, "unlink", guarded)
    result = call("cache", "clear")
    assert result.status == 1
    assert result.err == (
        f"perftricks cache: 'lexicon-{KEY}' and 1 more could not be removed: permission denied; "
        f"check who owns {str(folder)!r}\n"
    )
    assert sorted(os.listdir(folder)) == [f"lexicon-{KEY}", f"lexicon-{KEY}.lock"]


def test_limit(call, folder, monkeypatch):
    """The limit is shown; one that is no size is wrong usage, in one line."""
    assert "limit   256.0 MB" in call("cache").out
    monkeypatch.setenv(LIMIT_ENVIRONMENT, "2GB")
    assert call("cache", "--json", "-").json["limit"] == 2 * 10**9
    monkeypatch.setenv(LIMIT_ENVIRONMENT, "much")
    for action in ("cache", "info"):
        result = call(action)
        assert result.status == 2
        assert f"{LIMIT_ENVIRONMENT} is 'much'; expected a size such as" in result.err
        assert result.err.count("\n") == 1


def test_folder_that_is_passed_over(call, folder, monkeypatch):
    """It is said which folder comes first and why it is not used, and nothing of it is obeyed."""
    bold = folder.parent / "a\x1b[1m[red]b\n"
    folder.rename(bold)
    monkeypatch.setenv(ENVIRONMENT, str(bold))
    assert "a\\x1b[1m[red]b\\n" in call("cache").out
    bold.chmod(0o722)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    result = call("cache")
    assert f"not used: {str(bold)!r}: others may write to it\n" in result.out
    assert f"folder  {folder.parent / 'perftricks'}\n" in result.out
    assert "\x1b" not in call("cache", "clear").out


def test_looking_makes_no_folder(tmp_path):
    """A cache that is not there yet is empty, and is not made by looking or clearing."""
    folder = tmp_path / "not" / "yet"
    for action in ("show", "clear"):
        done = command("cache", action, variables={ENVIRONMENT: str(folder)})
        assert done.returncode == 0, done.stderr
        assert str(folder) in done.stdout
        assert not folder.parent.exists()


def test_wrong_action(call):
    """An unknown action is wrong usage, and the right ones are named."""
    result = call("cache", "purge")
    assert result.status == 2
    assert "'purge' is not one of 'show', 'clear'" in result.err
    assert result.err.count("\n") == 1


LOAD = """
from perftricks.wordcount.kernel import TextCounter
from perftricks.wordcount.storage.cachefolder import open_cache
from perftricks.wordcount.kernel.cache import load_kernel, load_lexicon
folder = open_cache()
kernel = load_kernel(folder)
print("ready", flush=True)
for _ in range(2):
    counter = TextCounter(kernel, load_lexicon(folder, kernel))
    counter.feed("我来到北京清华大学".encode())
    assert sorted(counter.table().to_dict()) == ["北京", "我", "来到", "清华大学"]
"""


def test_clearing_while_others_count(tmp_path, call, monkeypatch):
    """A process that loads and builds tables meanwhile is not disturbed, and fills it again."""
    folder = tmp_path / "cache"
    command(
        "wordcount", ROOT / "docs" / "samples", "--method", "compiled", "--json", "-", check=True
    )
    shutil.copytree(cache_folder(), folder)
    folder.chmod(0o700)
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", LOAD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout.readline() == "ready\n"
        removed = 0
        while process.poll() is None:
            result = call("cache", "clear", "--json", "-")
            assert result.status == 0
            removed += result.json["files"]["tables"]
        assert process.returncode == 0, process.stderr.read()
    assert removed >= 1
