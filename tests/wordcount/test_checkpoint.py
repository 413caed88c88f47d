"""A run that is killed at any moment goes on where it was, or is refused with the reason."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jieba
import pytest

from perftricks.wordcount import CorpusError, OptionError, checkpoint, count_files, kernel
from perftricks.wordcount.checkpoint import STATE, Checkpoint
from perftricks.wordcount.kernel import TokenTable
from perftricks.wordcount.reading import pieces
from tests.wordcount.conftest import PIECES, in_chunks, naive

ROOT = Path(__file__).parent.parent.parent

# Counts with many snapshots, each time in a fork of its own, which kills itself: before some
# operation on a file of the checkpoint, or at some moment, which may be in the middle of a write.
KILLED = """
import os, signal, sys, threading
from perftricks.wordcount import count_files, count_words
from perftricks.wordcount.methods import compiled
from perftricks.wordcount.reading import pieces
corpus, folder, limit = sys.argv[1], sys.argv[2], sys.argv[3] or None
pieces.PIECE_BYTES = compiled.PIECE_BYTES = 60_000
def die(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)
def watch(event, arguments):
    if event in ("open", "os.rename", "os.remove"):
        if any(str(argument).startswith(folder + "/") for argument in arguments):
            operations[0] -= 1
            if not operations[0]:
                die()
class Feeder(compiled.KernelRun):
    def count(self):
        if operations[0]:
            sys.addaudithook(watch)
        if seconds:
            timer = threading.Timer(seconds, die)
            timer.daemon = True
            timer.start()
        return super().count()
count_words(["\\ud800"], method="compiled")  # what all of them need is there from here on
compiled.KernelRun = Feeder
for line in sys.stdin:
    operations, seconds = [int(line.split()[0])], float(line.split()[1])
    if not (child := os.fork()):
        resumed = count_files(
            corpus, field="t", checkpoint=folder, checkpoint_seconds=0, workers=2,
            memory_limit=limit,
        ).run.resumed
        os._exit({"resumed": 1, "complete": 2}.get(resumed, 0))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def lines():
    """A few hundred documents."""
    generator = random.Random(5)
    return "".join("".join(generator.choices(PIECES, k=9)) + "\n" for _ in range(400))


@pytest.fixture
def often(monkeypatch):
    """Pieces of a few hundred bytes, so that a small text has many snapshots."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300)
    monkeypatch.setattr("perftricks.wordcount.methods.compiled.PIECE_BYTES", 300)


class Stop(Exception):
    """Ends a run on the way."""


def interrupt(path, folder, at, **options):
    """Count until so many bytes are done, with a snapshot before each piece."""

    def progress(done, total):
        if done >= at:
            raise Stop

    with pytest.raises(Stop):
        count_files(path, checkpoint=folder, checkpoint_seconds=0, progress=progress, **options)


@pytest.mark.parametrize("kind", ["text", "file", "gz", "jsonl", "two"])
@pytest.mark.parametrize("more", [{}, {"ngrams": 2, "document_frequency": True}, {"pos": True}])
def test_interrupted_run_goes_on(tmp_path, lines, often, monkeypatch, kind, more):
    """The table of a run in parts is that of a run in one part, for every kind of input."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    options = dict(more)
    content = ("\ufeff" + lines).encode()
    records = [*lines.split("\n"), "a\ud800茶", "\ud800"]
    if kind in ("text", "file", "two"):
        (corpus / "a.txt").write_bytes(content)
    if kind == "file":
        options["document"] = "file"
    if kind in ("gz", "two"):
        (corpus / "b.txt.gz").write_bytes(gzip.compress(content))
    if kind in ("jsonl", "two"):
        text = "".join(json.dumps({"t": record}) + "\n" for record in records)
        (corpus / "c.jsonl").write_text(text, encoding="ascii")
        options["field"] = "t"
    whole = count_files(corpus, method="naive", **options)
    folder = tmp_path / "state"
    monkeypatch.setattr("perftricks.wordcount.reading.streams.CHUNK_BYTES", 512)
    size = sum(path.stat().st_size for path in corpus.iterdir())
    for at in (size // 4, size // 2, size - 200):
        interrupt(corpus, folder, at, **options)
    counts = count_files(corpus, checkpoint=folder, **options)
    again = count_files(corpus, checkpoint=folder, **options)
    for table, how in ((counts, "resumed"), (again, "complete")):
        assert table == whole
        assert table.are_tagged == whole.are_tagged
        assert table.documents == whole.documents
        assert table.document_frequency == whole.document_frequency
        assert table.run.text_bytes == whole.run.text_bytes
        assert table.run.stored_bytes == whole.run.stored_bytes
        assert table.run.resumed == how


ENDED = (0, 1, 2)  # what the program says of a run that was begun, resumed or complete


@pytest.mark.timeout(3000)  # it starts thirty processes and more
@pytest.mark.parametrize("limit", ["", "1kB"])
def test_killed_twenty_times(tmp_path, texts, expected, limit):
    """A run that is killed twenty times, in the middle of writes too, gives the naive table.

    So does one whose table outgrows its memory.
    """
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    line = "\n".join(texts) + "\n"
    (corpus / "a.txt").write_text(line * 60, encoding="utf-8", newline="")
    records = "".join(json.dumps({"t": text}) + "\n" for text in [*texts, "a\ud800茶"])
    (corpus / "b.jsonl").write_text(records * 30, encoding="ascii")
    folder = tmp_path / "state"
    generator = random.Random(11)

    killed = 0
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, corpus, folder, limit],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:

        def run(operations, seconds):
            program.stdin.write(f"{operations} {seconds}\n")
            program.stdin.flush()
            return int(program.stdout.readline())

        for turn in range(100):
            by_time = turn % 2
            status = run(
                0 if by_time else generator.randint(2, 40), generator.random() / 8 if by_time else 0
            )
            assert status in (*ENDED, -signal.SIGKILL)
            killed += status < 0
            if killed == 20:
                break
            if status >= 0:  # faster than its killer: begin again
                shutil.rmtree(folder)
        assert killed == 20
        begun = (folder / STATE).exists()
        assert run(0, 0) in (ENDED[1:] if begun else ENDED[:1])
    counts = count_files(corpus, field="t", checkpoint=folder)
    assert counts.run.resumed == "complete"
    assert counts.documents == len(texts) * 60 + (len(texts) + 1) * 30
    total = {token: 90 * n for token, n in expected.items()}
    for token in naive(["a\ud800茶"]):
        total[token] = total.get(token, 0) + 30
    assert counts == total
    state = json.loads((folder / STATE).read_text(encoding="ascii"))["state"]
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == [
        "lock",
        *["run"] * len(state["runs"]),
        STATE,
        "table",
        "table",
    ]
    assert bool(counts.run.spilled) == bool(state["runs"]) == bool(limit)


def test_what_has_changed_is_refused(tmp_path, lines, often, monkeypatch, restored_jieba):
    """Other inputs, options or words than the run was begun with are refused, each by name."""
    path, folder = tmp_path / "a.txt", tmp_path / "state"
    path.write_text(lines, encoding="utf-8")
    monkeypatch.setattr("perftricks.wordcount.reading.streams.CHUNK_BYTES", 512)
    interrupt(path, folder, 2000)
    status = path.stat()

    def refused(problem, *paths, **options):
        with pytest.raises(OptionError, match=problem):
            count_files(paths or path, checkpoint=folder, **options)

    refused("is of another run: it has another hmm; give what it was begun with", hmm=False)
    refused("has another mode, ngrams", mode="search", ngrams=2)
    refused("has another document;", document="file")
    other = tmp_path / "b.txt"
    other.write_text("茶", encoding="utf-8")
    refused("it has other input files", path, other)
    (tmp_path / "words").write_text("石墨烯电池 9\n", encoding="utf-8")
    refused("jieba's dictionary is another one", user_dict=tmp_path / "words")
    jieba.add_word("石墨烯电池")
    refused("jieba's dictionary is another one")
    jieba.dt.FREQ, jieba.dt.total = dict(restored_jieba[0]), restored_jieba[1]
    path.write_text("x" + lines[1:], encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    refused(r"a\.txt' has changed since")
    path.write_text(lines, encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refused(r"a\.txt' has changed since")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert count_files(path, checkpoint=folder, workers=1).run.resumed == "resumed"


def test_folder_that_cannot_be_used(tmp_path, lines):
    """A folder of other things, in use, damaged or not to be had is refused, and left alone."""
    path = tmp_path / "a.txt"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(OptionError, match=r"holds files that are no checkpoint, such as 'a\.txt'"):
        count_files(path, checkpoint=tmp_path)
    assert path.exists()
    with pytest.raises(OptionError, match="cannot be used: no such file"):
        count_files(path, checkpoint=tmp_path / "no" / "folder")
    other = tmp_path / "other"
    other.mkdir()
    (other / "run-1").write_text("precious", encoding="ascii")
    with pytest.raises(OptionError, match="holds files that are no checkpoint, such as 'run-1'"):
        count_files(path, checkpoint=other)
    assert (other / "run-1").exists()
    with pytest.raises(OptionError, match=r"'.*other' lies in '.*', which is counted"):
        count_files([tmp_path], checkpoint=other)
    folder = tmp_path / "state"
    with Checkpoint(folder).opened({}), pytest.raises(OptionError, match="in use by another run"):
        count_files(path, checkpoint=folder)
    count_files(path, checkpoint=folder)
    (folder / STATE).write_text("{", encoding="ascii")
    with pytest.raises(OptionError, match=r"cannot be read: .*; delete the folder to start anew"):
        count_files(path, checkpoint=folder)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "naive"}, "a checkpoint is for method 'compiled'; method is 'naive'"),
        ({"tokenizer": "chars"}, "cannot be used: the tokenizer is chars, not jieba"),
        ({"verify": 3}, "verify needs all documents in one run"),
    ],
)
def test_options_that_do_not_go_with_it(tmp_path, lines, options, problem):
    """What cannot be taken up again is an error before anything is counted."""
    path = tmp_path / "a.txt"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(OptionError, match=problem):
        count_files(path, checkpoint=tmp_path / "state", **options)
    with pytest.raises(OptionError, match="files that can be read again; '<stdin>' cannot"):
        count_files("-", checkpoint=tmp_path / "state")


def test_bad_data_stays_bad(tmp_path, lines, often, monkeypatch):
    """Bad data is reported at the same place by the run that goes on."""
    path = tmp_path / "a.txt"
    content = lines.encode() + b"\xff"
    path.write_bytes(content)
    monkeypatch.setattr("perftricks.wordcount.reading.streams.CHUNK_BYTES", 512)
    for _ in range(2):
        with pytest.raises(CorpusError) as raised:
            count_files(path, checkpoint=tmp_path / "state", checkpoint_seconds=0)
        assert raised.value.offset == len(content) - 1


@pytest.fixture
def begun(tmp_path, texts, often, monkeypatch):
    """A run that has ended on the way, with tables, and with parts of one, in its folder."""
    monkeypatch.setattr("perftricks.wordcount.reading.streams.CHUNK_BYTES", 512)
    monkeypatch.setattr(pieces, "read_bytes", in_chunks)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(texts), encoding="utf-8", newline="")
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"t": text}) + "\n" for text in [*texts, "\ud800"]), encoding="ascii"
    )
    paths, options = [path, tmp_path / "b.jsonl"], {"field": "t", "ngrams": 2}
    size = path.stat().st_size
    interrupt(paths, tmp_path / "state", size + 500, memory_limit="1kB", **options)
    return paths, tmp_path / "state", options


def test_whatever_is_damaged_is_refused(begun):
    """Any damage of any file is an error that names the file and says what to do.

    Each kind of file is damaged in every way, and each further one in some way.
    """
    paths, folder, options = begun
    kinds = set()
    whole = count_files(paths, method="compiled", **options)
    generator = random.Random(3)
    names = [name for name in sorted(os.listdir(folder)) if name != "lock"]
    assert len(names) > 4
    for name in names:
        path = folder / name
        content = path.read_bytes()
        place = generator.randrange(len(content))
        every_damage = [
            b"",
            content[: len(content) // 2],
            content + b"x",
            content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :],
            bytes(min(4096, len(content))) + content[4096:],
            content[64:],
        ]
        kind = name.split("-")[0]
        for damaged in [generator.choice(every_damage)] if kind in kinds else every_damage:
            path.write_bytes(damaged)
            with pytest.raises(OptionError) as raised:
                count_files(paths, checkpoint=folder, **options)
            assert f"cannot be read: {name!r}: " in str(raised.value)
            assert str(raised.value).endswith("; delete the folder to start anew")
            assert sorted(os.listdir(folder)) == sorted([*names, "lock"])
        path.write_bytes(content)
        kinds.add(kind)
    tables = [folder / name for name in names if name.startswith("table")]
    runs = [folder / name for name in names if name.startswith("run")]
    for one, other in (tables[:2], runs[:2], (tables[0], runs[0])):
        contents = one.read_bytes(), other.read_bytes()
        one.write_bytes(contents[1])
        other.write_bytes(contents[0])
        with pytest.raises(OptionError, match="cannot be read: '"):
            count_files(paths, checkpoint=folder, **options)
        one.write_bytes(contents[0])
        other.write_bytes(contents[1])
    counts = count_files(paths, checkpoint=folder, **options)
    assert (counts.run.resumed, counts == whole) == ("resumed", True)


def test_older_table_of_the_same_name_is_refused(begun, tmp_path):
    """A table that is whole, but not the one that belongs to the position, is refused."""
    paths, folder, options = begun
    other = tmp_path / "other"
    interrupt([paths[0]], other, 300, ngrams=2)
    (there,) = other.glob("table-*-crlf")
    (here,) = folder.glob("table-*-crlf")
    table = TokenTable.load(there, *kernel.load())
    table.save(here)
    with pytest.raises(OptionError, match="it is another table than the one that was saved last"):
        count_files(paths, checkpoint=folder, **options)


def edited(folder, change, *, sealed=True):
    """Change the state, and its digest as well."""
    path = folder / STATE
    content = json.loads(path.read_text(encoding="ascii"))
    change(content)
    if sealed:
        del content["digest"]
        content["digest"] = checkpoint._digest(content)
    path.write_text(json.dumps(content), encoding="ascii")


@pytest.mark.parametrize("key", ["source", "offset", "text", "odd", "documents", "complete"])
def test_edited_state_is_refused(begun, key):
    """A state that was edited is refused, and so is one without a digest."""
    paths, folder, options = begun
    new = {
        "source": 0,
        "offset": 7,
        "text": 1,
        "odd": [["a", 1]],
        "documents": {},
        "complete": True,
    }
    saved = (folder / STATE).read_bytes()
    edited(folder, lambda content: content["state"].update({key: new[key]}), sealed=False)
    with pytest.raises(
        OptionError, match=r"'state\.json': it is damaged or was edited: its digest"
    ):
        count_files(paths, checkpoint=folder, **options)
    (folder / STATE).write_bytes(saved)
    edited(folder, lambda content: content.pop("digest"), sealed=False)
    with pytest.raises(
        OptionError, match=r"'state\.json': it is damaged or was edited: its digest"
    ):
        count_files(paths, checkpoint=folder, **options)


TABLE = (("documents", 1), ("tables", 64 * "a"))


@pytest.mark.parametrize(
    "name", ["../precious", "/etc/passwd", "run-1/../../precious", "run-", "lock", "", "run-1\n"]
)
def test_names_are_confined_to_the_folder(begun, tmp_path, name):
    """A state that names files elsewhere is refused, though its digest is right."""
    paths, folder, options = begun
    (tmp_path / "precious").write_text("years of work")
    saved = (folder / STATE).read_bytes()
    for change in (
        lambda state: state["runs"][0].__setitem__(0, name),
        lambda state: (
            state["documents"].update({name: 1}),
            state["tables"].update({name: 64 * "a"}),
        ),
    ):
        edited(folder, lambda content, change=change: change(content["state"]))
        with pytest.raises(OptionError, match=r"'state\.json': it is damaged: "):
            count_files(paths, checkpoint=folder, **options)
        (folder / STATE).write_bytes(saved)
    assert (tmp_path / "precious").read_text() == "years of work"
    assert count_files(paths, checkpoint=folder, **options).run.resumed == "resumed"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(generation="1"),
        lambda content: content.update(identity=None),
        lambda content: content.update(state=[]),
        lambda content: content["state"].pop("odd"),
        lambda content: content["state"].update(source=-1),
        lambda content: content["state"].update(offset=True),
        lambda content: content["state"].update(odd=[["a", "b"]]),
        lambda content: content["state"].update(runs={}),
        lambda content: content["state"].update(documents={"crlf": 1}),
    ],
)
def test_state_of_another_form_is_refused(begun, change):
    """A state that says what no run writes is no traceback."""
    paths, folder, options = begun
    edited(folder, change)
    with pytest.raises(OptionError, match=r"'state\.json': it is damaged: "):
        count_files(paths, checkpoint=folder, **options)


def test_other_versions_and_nonsense(begun):
    """What another version has written is said to be that; nonsense is damage."""
    paths, folder, options = begun
    edited(folder, lambda content: content.update(version=1))
    with pytest.raises(OptionError, match="of another version of perftricks; delete the folder"):
        count_files(paths, checkpoint=folder, **options)
    for nonsense in ("[" * 100_000, "9" * 5000, "[]", "null", '{"version": 2}', "\xff", "{}"):
        (folder / STATE).write_text(nonsense, encoding="latin-1")
        with pytest.raises(OptionError, match=r"'state\.json': it is damaged"):
            count_files(paths, checkpoint=folder, **options)


@pytest.mark.parametrize("name", [STATE, "lock", "table", "run"])
def test_links_and_pipes_are_refused(begun, tmp_path, name):
    """No link is followed, to read or to write, and no pipe is waited for."""
    paths, folder, options = begun
    path = next(path for path in sorted(folder.iterdir()) if path.name.startswith(name))
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(OptionError, match="is a link"):
        count_files(paths, checkpoint=folder, **options)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OptionError, match="is no regular file"):
        count_files(paths, checkpoint=folder, **options)
    path.unlink()
    (tmp_path / "moved").rename(path)
    assert count_files(paths, checkpoint=folder, **options).run.resumed == "resumed"


def test_files_of_others_are_refused(begun, monkeypatch):
    """A file that is neither the user's nor root's nor the folder's owner's is refused."""
    paths, folder, options = begun
    real = os.lstat

    def lstat(path):
        status = real(path)
        if not str(path).startswith(str(folder / "table")):
            return status
        return os.stat_result([*status[:4], os.geteuid() + 1, *status[5:]])

    monkeypatch.setattr(checkpoint.os, "lstat", lstat)
    with pytest.raises(OptionError, match=r"'table-.*': .*belongs to another user"):
        count_files(paths, checkpoint=folder, **options)
