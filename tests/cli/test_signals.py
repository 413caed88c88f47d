"""SIGTERM and SIGHUP: nothing is left behind, and the exit status says which it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from perftricks import signals
from perftricks.files import replacing
from perftricks.wordcount import count_files
from tests.cli.conftest import LINES, command, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def temporary(tmp_path):
    """A temporary folder for the commands, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield folder
    assert os.listdir(folder) == []


@contextlib.contextmanager
def started(temporary, *arguments, **options):
    """Run the command, with a standard input that does not end; kill it if it outlives the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "perftricks", "wordcount", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(TMPDIR=str(temporary)),
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition, process):
    """Wait until something is so, while the process lives."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def descendants(process):
    """Return the processes that a process has started, and those have."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    return []


def is_gone(pid):
    """Whether a process has ended, be it that nobody has taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", SIGNALS)
def test_parts_on_the_disk(tmp_path, temporary, number):
    """The parts of a table that outgrew its memory are gone, and there is no half table."""
    options = ["--tokenizer", "chars", "--method", "batched", "--batch-size", 1]
    table = tmp_path / "table.tsv"
    with started(temporary, "-", *options, "--memory-limit", "1kB", "-o", table) as process:
        process.stdin.write("".join(map(chr, range(0x4E00, 0x6000))).encode() + b"\n" * 9)
        process.stdin.flush()
        wait_for(lambda: any(temporary.glob("*/run-*")), process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        name = signal.Signals(number).name
        assert process.stderr.read().decode() == f"perftricks wordcount: ended by {name}\n"
    assert os.listdir(tmp_path) == ["temporary"]


@pytest.mark.parametrize("number", SIGNALS)
def test_workers(tmp_path, temporary, number):
    """Worker processes end with the command."""
    options = ["--tokenizer", "chars", "--method", "parallel", "--workers", 2, "--batch-size", 1]
    with started(temporary, "-", *options) as process:
        process.stdin.write("喝茶\n".encode() * 8_000)  # what a pipe holds
        process.stdin.flush()
        wait_for(lambda: len(descendants(process)) >= 3, process)  # workers, and who forks them
        workers = descendants(process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    deadline = time.monotonic() + 60
    while not all(map(is_gone, workers)):
        assert time.monotonic() < deadline, workers
        time.sleep(0.01)


WRITING = """
import os, signal, sys
from perftricks.cli import main
fsync = os.fsync
def die(descriptor):
    os.kill(os.getpid(), int(sys.argv[1]))
    fsync(descriptor)
os.fsync = die
sys.exit(main(["wordcount", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("option", ["-o", "--report", "--plot"])
def test_files_that_are_being_written(tmp_path, corpus, number, option):
    """A file that is being written is not left half-written, and the old one stays."""
    names = {"-o": "a.tsv", "--report": "a.html", "--plot": "a.svg"}
    path = tmp_path / names[option]
    path.write_text("old")
    arguments = [corpus, "--tokenizer", "chars", option, path]
    done = subprocess.run(
        [sys.executable, "-c", WRITING, str(int(number)), *map(str, arguments)],
        env=environment(),
        capture_output=True,
    )
    assert done.returncode == 128 + number, done.stderr
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, corpus.name])


STOPPED = """
import os, sys
from perftricks.cli import main
from perftricks.wordcount import checkpoint
from perftricks.wordcount.methods import compiled
from perftricks.wordcount.reading import pieces
from tests.wordcount.conftest import in_chunks
pieces.PIECE_BYTES = compiled.PIECE_BYTES = 300
pieces.read_bytes = in_chunks
calls = []
def is_due(self):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), int(sys.argv[1]))
    return False
checkpoint.Checkpoint.is_due = is_due
sys.exit(main(["wordcount", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGINT])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_what_was_counted_is_kept(tmp_path, number, kind):
    """With a checkpoint the run goes on where the signal has met it, not at the last snapshot."""
    path, folder = tmp_path / f"a.{kind}", tmp_path / "state"
    more = ["--field", "t"] if kind == "jsonl" else []
    text = "".join(json.dumps({"t": line}) + "\n" if more else line + "\n" for line in LINES * 80)
    path.write_text(text, encoding="utf-8")
    arguments = [path, "--method", "compiled", "--checkpoint", folder, *more]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            STOPPED,
            str(int(number)),
            *map(str, arguments),
            "-q",
            "--json",
            "-",
        ],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + number, done.stderr
    state = json.loads((folder / "state.json").read_text())["state"]
    assert state["offset"] > 0
    assert not state["complete"]
    field = {"field": "t"} if more else {}
    counts = count_files(path, checkpoint=folder, **field)
    assert counts.run.resumed == "resumed"
    assert counts == count_files(path, method="naive", **field)


def test_nohup(temporary):
    """A signal that is ignored stays ignored."""
    ignored = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    run = "os.execv(sys.executable, [sys.executable, '-m', 'perftricks', *sys.argv[1:]])"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            ignored + run,
            "wordcount",
            "-",
            "--tokenizer",
            "chars",
            "--json",
            "-",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(TMPDIR=str(temporary)),
    ) as process:
        for _ in range(20):
            process.send_signal(signal.SIGHUP) if is_ignored(process) else None
            time.sleep(0.02)
        out, _ = process.communicate("喝茶\n".encode())
    assert process.returncode == 0
    assert json.loads(out)["tokens"] == 2


def is_ignored(process):
    """Whether a process ignores SIGHUP."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) & 1 << (signal.SIGHUP - 1))


def hold_back(number, times=1):
    """Send this process a signal while it is held back; return whether it was."""
    with signals.ending():
        with signals.held_back():
            for _ in range(times):
                os.kill(os.getpid(), number)
            held.append(signals.is_pending())
        held.append("not reached")


held = []


def test_held_back():
    """What is held back is raised at the end of the step."""
    held.clear()
    with pytest.raises(signals.Terminated, match="ended by SIGTERM") as raised:
        hold_back(signal.SIGTERM)
    assert held == [True]
    assert raised.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_second_interrupt_is_not_held_back():
    """Who presses Ctrl-C twice does not wait for the end of the step."""
    held.clear()
    with pytest.raises(KeyboardInterrupt):
        hold_back(signal.SIGINT)
    assert held == [True]
    held.clear()
    with pytest.raises(KeyboardInterrupt):
        hold_back(signal.SIGINT, times=2)
    assert held == []


def test_forks_end_as_ever():
    """A fork has nothing to clean up: it ends on the spot."""
    with signals.ending():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_leftovers_of_killed_runs(tmp_path, corpus):
    """What SIGKILL leaves half-written the next run deletes, but not what is being written."""
    path = tmp_path / "a.tsv"
    arguments = [corpus, "--tokenizer", "chars", "-o", path]
    run = [sys.executable, "-c", WRITING, str(int(signal.SIGKILL)), *map(str, arguments)]
    assert subprocess.run(run, env=environment()).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".perftricks-*.tmp")
    with replacing(tmp_path / "b.tsv") as file:
        assert command("wordcount", *arguments).returncode == 0
        (other,) = tmp_path.glob(".perftricks-*.tmp")
        assert other != left
        file.write(b"whole")
    assert (tmp_path / "b.tsv").read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path)) == ["a.tsv", "b.tsv", corpus.name]
