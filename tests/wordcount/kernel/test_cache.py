"""The cache: built once, whole or not at all, found again without numba and jieba."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import jieba
import pytest

from perftricks.wordcount import kernel
from perftricks.wordcount.kernel import TextCounter, cache
from perftricks.wordcount.storage import cachefiles, cachefolder
from tests.conftest import made_once

COUNT = """
import sys
sys.path.insert(0, {root!r})
from perftricks.wordcount import kernel
counter = kernel.TextCounter(*kernel.load())
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


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A cache whose machine code was damaged, and that two processes filled at the same time."""

    def fill(path):
        with cachefolder.open_cache(path) as folder:
            folder.write(cache._CODE, cache._kernel_name(), b"x" * 100_000)
            damaged = path / cache._kernel_name()
            damaged.write_bytes(_damaged(damaged.read_bytes(), "a page"))
        both = [start(path), start(path)]
        for process in both:
            out, err = process.communicate()
            assert out.startswith(TOKENS), err

    return made_once(tmp_path_factory, "filled-cache", fill)


def test_two_processes_mend_one_cache(filled):
    """Two processes that start at once leave one cache, and no damaged file in it."""
    names = sorted(
        path.name.partition("-")[0] for path in filled.iterdir() if path.suffix != ".lock"
    )
    assert names == ["default", "kernel", "lexicon"]
    with cachefolder.open_cache(filled) as folder:
        assert folder.read(cache._CODE, cache._kernel_name())[:4] == b"\x7fELF"


def test_warm_start_imports_neither_numba_nor_jieba(filled):
    """A start with a filled cache imports neither numba nor jieba."""
    jieba.initialize()  # so that jieba's own cache file exists
    start(filled).communicate()
    out, _ = start(filled).communicate()
    assert out.split()[-2:] == ["False", "False"]


def _damaged(content, how):
    """Return the content of a file with some damage."""
    middle = len(content) // 2
    return {
        "nothing": b"",
        "cut off": content[:-1],
        "longer": content + b"\0",
        "a bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "a page": content[: middle - 2048] + bytes(4096) + content[middle + 2048 :],
        "header": b"x" + content[1:],
        "digest": content[:40] + bytes([content[40] ^ 1]) + content[41:],
        "no digest": content[64:],
    }[how]


DAMAGE = ["nothing", "cut off", "longer", "a bit", "a page", "header", "digest", "no digest"]


@pytest.mark.parametrize("kind", ["kernel-*.o", "lexicon-*", "default-*"])
def test_damaged_files_are_not_used(filled, tmp_path, kind):
    """No damage of any file of the cache goes unnoticed."""
    (path,) = (path for path in filled.glob(kind) if path.suffix != ".lock")
    content = path.read_bytes()
    form = content[:32].decode().partition(" ")[2].strip()
    with cachefolder.open_cache(tmp_path) as folder:
        (tmp_path / path.name).write_bytes(content)
        (tmp_path / path.name).chmod(0o600)
        assert folder.read(form, path.name) == content[64:]
        for how in DAMAGE:
            (tmp_path / path.name).write_bytes(_damaged(content, how))
            assert folder.read(form, path.name) is None, how
        other = path.name.replace("a", "b").replace("0", "1")
        shutil.copy(path, tmp_path / other)
        assert folder.read(form, other) is None


@pytest.mark.parametrize("kind", ["lexicon-*", "default-*"])  # machine code: see filled
def test_damaged_files_are_built_anew(filled, tmp_path, kind):
    """A file with a page of zeros is mended by the next run, and the table is the right one."""
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    folder.chmod(0o700)
    (path,) = (path for path in folder.glob(kind) if path.suffix != ".lock")
    content = path.read_bytes()
    path.write_bytes(_damaged(content, "a page"))
    for _ in range(2):
        out, err = start(folder).communicate()
        assert out.startswith(TOKENS), err
        assert path.read_bytes() == content
    assert out.split()[-2:] == ["False", "False"]


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


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder that can be used: a file is in the way of each."""
    (tmp_path / "file").write_text("")
    for name in (cachefolder.ENVIRONMENT, "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr(cachefolder.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    monkeypatch.setattr(cachefolder, "_memory", {})
    monkeypatch.setattr(cache, "_kernels", {})


def test_no_folder_at_all(filled, nowhere, tmp_path, monkeypatch):
    """Without any folder memory serves: built once a process, and nothing is left anywhere."""
    (path,) = filled.glob("kernel-*.o")
    code, built = path.read_bytes()[64:], []
    monkeypatch.setattr(cache, "compile_kernel", lambda: built.append(code) or code)
    for _ in range(2):
        counter = TextCounter(*kernel.load())
        counter.feed("我来到北京清华大学".encode())
        assert sorted(counter.table().to_dict()) == TOKENS.split()
    assert built == [code]
    assert cachefolder.cache_folder() is None
    assert os.listdir(tmp_path) == ["file"]
    with cachefolder.open_cache() as folder:
        for number in range(9):
            folder.write("note 1", str(number), b"tea")
        assert folder.read("note 1", "8") == b"tea"
        assert len(cachefolder._memory) == cachefolder._MOST_IN_MEMORY


def test_folder_of_others_is_not_trusted(tmp_path, monkeypatch):
    """A folder that others may write to, that is another's, or that is a link is not used."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(cachefolder.ENVIRONMENT, str(folder))
    assert cachefolder.cache_folder() == folder
    folder.chmod(0o777)
    assert cachefolder.cache_folder() == tmp_path / "home" / "perftricks"
    folder.chmod(0o700)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv(cachefolder.ENVIRONMENT, str(tmp_path / "link"))
    assert cachefolder.cache_folder() == tmp_path / "home" / "perftricks"
    (tmp_path / "link").unlink()
    monkeypatch.setenv(cachefolder.ENVIRONMENT, str(folder))
    other = os.stat_result([*os.stat(folder)[:4], os.geteuid() + 1, *os.stat(folder)[5:]])
    monkeypatch.setattr(cachefolder.os, "fstat", lambda descriptor: other)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cachefolder._opened(folder)


def test_files_of_others_are_not_trusted(tmp_path):
    """Neither is a file that others may write to, a link, a pipe or a folder, and nothing waits."""
    with cachefolder.open_cache(tmp_path / "cache") as folder:
        path = folder.path / "a"
        assert folder.write("note 1", "a", b"tea")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert folder.read("note 1", "a") == b"tea"
        path.chmod(0o620)
        assert folder.read("note 1", "a") is None
        path.chmod(0o600)
        path.rename(tmp_path / "b")
        path.symlink_to(tmp_path / "b")
        assert folder.read("note 1", "a") is None
        assert folder.write("note 1", "a", b"water")  # in place of the link
        assert (tmp_path / "b").read_bytes().endswith(b"tea")
        assert folder.read("note 1", "a") == b"water"
        path.unlink()
        os.mkfifo(path)
        assert folder.read("note 1", "a") is None
        path.unlink()
        path.mkdir()
        assert folder.read("note 1", "a") is None
        assert not folder.write("note 1", "a", b"tea")


def test_folder_is_opened_once(tmp_path):
    """A folder that is put in the place of an open one is not looked at."""
    path = tmp_path / "cache"
    with cachefolder.open_cache(path) as folder:
        folder.write("note 1", "a", b"tea")
        path.rename(tmp_path / "moved")
        path.mkdir()
        assert folder.read("note 1", "a") == b"tea"
        folder.write("note 1", "b", b"tea")
    assert os.listdir(path) == []
    assert sorted(os.listdir(tmp_path / "moved")) == ["a", "b"]


def test_read_only_folder(tmp_path, monkeypatch):
    """A folder that cannot be written to is read if it holds machine code, and else passed over."""
    folder, home = tmp_path / "cache", tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setenv(cachefolder.ENVIRONMENT, str(folder))

    def access(path, mode, *, dir_fd=None, **options):
        return os.fstat(dir_fd).st_ino != folder.stat().st_ino

    monkeypatch.setattr(cachefolder.os, "access", access)
    assert cachefolder.cache_folder() == home / "perftricks"
    (folder / ("kernel-" + "0" * 32 + ".o")).write_bytes(b"")
    assert cachefolder.cache_folder() == folder


FULL = """
import resource, signal, sys
sys.path.insert(0, {root!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # what is written fails, as on a full disk
from perftricks.wordcount import kernel
counter = kernel.TextCounter(*kernel.load())
counter.feed("我来到北京清华大学".encode())
print(*sorted(counter.table().to_dict()))
"""


def test_full_disk(filled, tmp_path):
    """Where nothing can be written any more, what is missing is built and the run goes on."""
    jieba.initialize()
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    folder.chmod(0o700)
    for path in folder.glob("default-*"):
        path.unlink()
    for path in folder.glob("lexicon-*"):
        path.unlink()
    before = sorted(os.listdir(folder))
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(root=ROOT)],
        env={**os.environ, cachefolder.ENVIRONMENT: str(folder)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, TOKENS), done.stderr
    left = [name for name in os.listdir(folder) if not name.endswith(".lock")]
    assert sorted(left) == [name for name in before if not name.endswith(".lock")]


@pytest.fixture
def held(tmp_path):
    """A cache where another process builds the file "a", and goes on for ever."""
    with cachefolder.open_cache(tmp_path / "cache") as folder:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(folder.path / "a.lock")], stdout=subprocess.PIPE
        )
        assert holder.stdout.readline() == b"held\n"
        yield folder, holder
        holder.kill()
        holder.communicate()


HOLDS = """
import fcntl, signal, sys
file = open(sys.argv[1], "wb")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""


def test_lock_that_is_held_for_ever(held, monkeypatch, caplog):
    """Another process that builds is waited for with a message, and not longer than the limit."""
    folder, _ = held
    monkeypatch.setattr(cachefolder, "LONGEST_WAIT", 0.3)
    monkeypatch.setattr(cachefolder, "_SAY_AFTER", 0.1)
    with folder.building("a"):
        pass
    waiting, enough = caplog.messages
    assert waiting.startswith("waiting for another process that builds 'a' in the cache")
    assert enough.startswith("'a' in the cache is still being built by another process after")


def test_lock_that_is_released(held, monkeypatch):
    """Whoever waits goes on as soon as the other process has ended, however it did."""
    folder, holder = held
    monkeypatch.setattr(cachefolder, "LONGEST_WAIT", float("inf"))
    threading.Timer(0.2, holder.kill).start()
    with folder.building("a"):
        assert holder.wait() == -signal.SIGKILL


def test_cache_is_bounded(tmp_path, monkeypatch):
    """Beyond the limit what was not used for longest goes, with its lock and what names it."""
    monkeypatch.setenv(cachefiles.LIMIT_ENVIRONMENT, "3500")
    keys = [f"{number:032x}" for number in range(9)]
    with cachefolder.open_cache(tmp_path / "cache") as folder:
        for age, key in enumerate(keys):
            folder.write("lexicon 1", f"lexicon-{key}", bytes(936))
            folder.write(cachefiles.ALIAS, f"default-{key}", f"{key} x".encode())
            with folder.building(f"lexicon-{key}"):
                pass
            used = time.time() - 10**6 + 1000 * age
            os.utime(folder.path / f"lexicon-{key}", (used, used))
        folder.read("lexicon 1", f"lexicon-{keys[2]}")  # a use counts
        (folder.path / "thesis.doc").write_bytes(bytes(5000))
        cachefiles.keep_within_limit(folder)
        names = {entry.name for entry in folder.entries()}
    kept = {keys[2], keys[8]}
    assert names == {"thesis.doc"} | {
        name for key in kept for name in (f"lexicon-{key}", f"default-{key}", f"lexicon-{key}.lock")
    }


def test_kernels_stay_longest(tmp_path, monkeypatch):
    """The two kernels used last outlive tables that were used later; older ones do not."""
    monkeypatch.setenv(cachefiles.LIMIT_ENVIRONMENT, "3500")
    keys = [f"{number:032x}" for number in range(7)]
    names = [f"kernel-{key}.o" for key in keys[:3]] + [f"lexicon-{key}" for key in keys[3:]]
    with cachefolder.open_cache(tmp_path / "cache") as folder:
        for age, name in enumerate(names):
            folder.write("kernel 1", name, bytes(936))
            used = time.time() - 10**6 + 1000 * age
            os.utime(folder.path / name, (used, used))
        cachefiles.keep_within_limit(folder)
        assert {entry.name for entry in folder.entries()} == {*names[1:3], names[-1]}


def test_many_dictionaries(tmp_path, kernel, monkeypatch):
    """A program that changes its dictionary again and again does not fill the disk."""
    monkeypatch.setenv(cachefiles.LIMIT_ENVIRONMENT, "40MB")
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    with cachefolder.open_cache(tmp_path / "cache") as folder:
        for number in range(4):
            tokenizer.add_word(f"石墨烯{number}")
            cache.load_lexicon(folder, kernel, tokenizer)
            last = f"lexicon-{cache.content_key(tokenizer)}"
            assert sum(entry.size for entry in folder.entries()) <= 40_000_000
            assert folder.holds(last)
        assert sum(entry.name.startswith("lexicon-") for entry in folder.entries()) == 4


def test_every_change_of_the_dictionary_is_noticed(tmp_path, kernel):
    """Each change of a dictionary changes its key, and the table follows."""
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    keys = [cache.content_key(tokenizer)]
    for change in (
        lambda: tokenizer.add_word("甲乙丙丁戊", 7),
        lambda: tokenizer.add_word("甲乙丙丁戊", 9),
        lambda: tokenizer.FREQ.__setitem__("中国", 1),
        lambda: tokenizer.FREQ.__setitem__("中国", 2),
        lambda: tokenizer.FREQ.__setitem__("中国", 1.0),
        lambda: tokenizer.FREQ.__setitem__("中国", True),
    ):
        change()
        keys.append(cache.content_key(tokenizer))
    assert len(set(keys)) == len(keys)
    with cachefolder.open_cache(tmp_path) as folder:
        counter = TextCounter(kernel, cache.load_lexicon(folder, kernel, tokenizer))
    counter.feed("甲乙丙丁戊".encode())
    assert counter.table().to_dict() == {"甲乙丙丁戊": 1}


def test_without_sources(monkeypatch, tmp_path):
    """Where the package came without its sources, what was made of them stands for them."""
    key_of = cache._sources.__wrapped__
    modules = cache.KERNEL_SOURCES
    usual = key_of(modules)
    monkeypatch.setattr(cache.resources, "files", lambda package: tmp_path)
    key = key_of(modules)
    assert key == key_of(modules)
    assert key not in (usual, key_of(modules[1:]), key_of(cache.TABLE_SOURCES))
