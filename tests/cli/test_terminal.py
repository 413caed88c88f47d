"""On a terminal, and when the user or the reader of the output leaves."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import psutil
import pytest
from rich.cells import cell_len

from tests.cli.conftest import environment
from tests.conftest import PATIENCE

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(*arguments, columns=80, stdout=None, **variables):
    """Run the command on a terminal and return its status and all that appeared there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "perftricks", "wordcount", *map(str, arguments)],
        stdin=follower,
        stdout=stdout or follower,
        stderr=follower,
        env=environment(**variables),
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the terminal is gone once nobody has it open
            break
        if not data:
            break
        seen += data
    os.close(leader)
    return process.wait(), seen.decode()


@pytest.fixture
def large(tmp_path):
    """A file that takes jieba a minute or more."""
    path = tmp_path / "large.txt"
    path.write_text("我们在北京的老茶馆里喝茶，聊天，下象棋。\n" * 1_000_000, encoding="utf-8")
    return path


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_table_fits_the_terminal(corpus, columns):
    """No line is wider than the terminal; with room enough there are bars."""
    with open(corpus, "a", encoding="utf-8") as file:
        file.write("abcdefghijklmnopqrstuvwxyz" * 10 + "\n")
    status, seen = on_terminal(corpus, "--doc-freq", columns=columns)
    assert status == 0
    table = ESCAPE.sub("", seen).partition("documents  5")[0].splitlines()
    assert len(table) > 5
    assert max(map(cell_len, table)) <= columns
    assert ("█" in seen) == (columns >= 50)


def test_progress_bar_on_stderr_only(corpus):
    """Progress goes to the terminal, the table to where stdout goes, without colours or bars."""
    output = corpus.parent / "screen"
    with open(output, "wb") as file:
        status, seen = on_terminal(corpus, stdout=file)
    assert status == 0
    assert "%" in seen
    assert "bytes" in ESCAPE.sub("", seen)
    written = output.read_text(encoding="utf-8")
    assert written.startswith("token  count   share\n喝茶       3  25.00%\n")
    assert "\x1b" not in written


def test_quiet_shows_no_progress(corpus):
    """--quiet leaves the terminal empty."""
    output = corpus.parent / "counts.tsv"
    assert on_terminal(corpus, "--quiet", "-o", output) == (0, "")
    assert output.exists()


def test_no_color(corpus):
    """NO_COLOR takes the colours away."""
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    assert colours.search(on_terminal(corpus)[1])
    assert not colours.search(on_terminal(corpus, NO_COLOR="1")[1])


def test_compare_on_terminal(corpus):
    """While methods are compared the terminal says which one is running."""
    status, seen = on_terminal(corpus, "--compare")
    assert status == 0
    assert "naive ..." in seen
    assert "all tables are equal" in seen


@pytest.mark.parametrize("whom", ["group", "parent"])
@pytest.mark.parametrize("method", ["naive", "parallel"])
def test_interrupt(large, whom, method):
    """Ctrl-C ends all processes with one line, status 130 and no file half-written."""
    workers = ["-w", "2"] if method == "parallel" else []
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "perftricks",
            "wordcount",
            large,
            "-o",
            large.parent / "counts.tsv",
            "--method",
            method,
            *workers,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        text=True,
    )
    children = wait_until_counting(process, len(workers))
    if whom == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "perftricks wordcount: interrupted\n")
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert alive == []
    assert os.listdir(large.parent) == ["large.txt"]


def wait_until_counting(process, workers):
    """Wait until the file is being read and the workers are there; return the workers."""
    me = psutil.Process(process.pid)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        children = me.children(recursive=True)
        reading = any(file.path.endswith("large.txt") for file in me.open_files())
        if reading and len(children) >= workers:
            return children
        time.sleep(0.02)
    raise AssertionError("it never began to count")


@pytest.mark.parametrize("arguments", [["-n", "100000"], ["--json", "-", "-n", "100000"]])
def test_reader_that_leaves(tmp_path, arguments):
    """A reader that has seen enough, such as head, is no error."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(map(str, range(100_000))))
    command = [sys.executable, "-m", "perftricks", "wordcount", path, "--tokenizer", "whitespace"]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (0, b"")


def test_terminal_without_the_characters(tmp_path):
    """A token that the terminal's encoding lacks is shown escaped."""
    path = tmp_path / "a.txt"
    path.write_text("茶\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "perftricks", "wordcount", path, "--tokenizer", "chars"],
        capture_output=True,
        text=True,
        env=environment(PYTHONIOENCODING="ascii"),
        check=True,
    )
    assert "\\u8336" in done.stdout


def test_a_table_for_a_closed_stream(tmp_path):
    """A table that nobody could read is refused, not counted."""
    path = tmp_path / "a.txt"
    path.write_text("喝茶\n", encoding="utf-8")
    command = '"$0" -m perftricks wordcount "$1" -o - >&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(path)], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        "perftricks wordcount: output '-': the standard output is closed; name a file\n"
    )


@pytest.mark.parametrize("option", ["", "--json -", "--compare"])
def test_nobody_to_tell(tmp_path, option):
    """Where nothing could be seen of the result, nothing is counted."""
    (tmp_path / "a.txt").write_text("茶", encoding="utf-8")
    command = f'"$0" -m perftricks wordcount a.txt {option} >&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    message = "the standard output is closed: name a file with --output"
    assert (done.returncode, done.stderr) == (2, f"perftricks wordcount: {message}\n")


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    """Started with standard streams closed, as services are, the command does its work."""
    text, table = tmp_path / "text.txt", tmp_path / "table.tsv"
    text.write_text("我们喝茶\n", encoding="utf-8")
    command = f'"$0" -m perftricks wordcount "$1" --output "$2" {closed}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, str(text), str(table)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(table.read_text(encoding="utf-8").split()) == {"token", "count", "我们", "喝茶", "1"}
