"""Counting under faults: runs that are killed, and files that are damaged before they are read.

::

    python -m bench.wordcount.faults kills --times 1000
    python -m bench.wordcount.faults damage --times 10000 --seed 7

``kills`` kills counting with a checkpoint at random moments, half of them with SIGKILL and half
with SIGTERM, until so many have met a run; each run is then taken to its end, and its table
compared with that of the plain loop.

``damage`` damages a file of the cache or of a checkpoint and counts. The table must be the right
one, or the run refused with one line that names the file. What is built anew is taken from memory
after the first time, or ten thousand tries would take days: whether damage is noticed does not
depend on that.

Each try is a process of its own, a fork of this one, so that a crash is counted and not suffered.
The status is 1 if anything was wrong. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from bench.markdown import table
from perftricks import signals
from perftricks.wordcount import OptionError, count_files
from perftricks.wordcount.kernel import cache, tables
from perftricks.wordcount.methods import compiled as kernel_method
from perftricks.wordcount.reading import pieces
from perftricks.wordcount.storage import cachefolder

OUTCOMES = ("tried", "right", "refused", "wrong", "traceback", "crash", "hung", "left")
BAD = ("wrong", "traceback", "crash", "hung", "left")
PATIENCE = 120.0  # seconds in which a try must end
PAGE = 4096
OURS = ("state.json", "lock", "table-", "run-", "kernel-", "lexicon-", "default-")

Tally = dict[str, Counter[str]]
Damage = Callable[[Path, random.Random, list[Path]], None]


def main(arguments: list[str] | None = None) -> int:
    """Run the tries, print what became of them, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.wordcount.faults")
    parser.add_argument("what", choices=["kills", "damage"])
    parser.add_argument("--times", type=int, help="how often (1000 kills, 10000 damaged files)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=7031, help="makes the choices repeatable")
    given = parser.parse_args(arguments)
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        root = Path(folder)
        tempfile.tempdir = str(root / "temporary")
        os.mkdir(tempfile.tempdir)
        with cachefolder.open_cache() as opened:  # which is compiled once for all tries
            code = opened.read(cache._CODE, cache._kernel_name())
        os.environ[cachefolder.ENVIRONMENT] = str(root / "cache")
        with cachefolder.open_cache() as opened:  # what these runs read, and nothing else
            if code is not None:
                opened.write(cache._CODE, cache._kernel_name(), code)
        corpus = write_corpus(root / "corpus", draw)
        began = time.monotonic()
        if given.what == "kills":
            tally = kills(root, corpus, given.times or 1000, draw, began + given.seconds)
        else:
            tally = damage(root, corpus, given.times or 10_000, draw, began + given.seconds)
        seconds = time.monotonic() - began
    rows = [[fault, *(f"{counts[name]:,}" for name in OUTCOMES)] for fault, counts in tally.items()]
    total: Counter[str] = sum(tally.values(), Counter())
    rows.append(["all", *(f"{total[name]:,}" for name in OUTCOMES)])
    print(table(["fault", *OUTCOMES], rows))
    print(f"\nseed {given.seed}, {seconds:,.0f} s", file=sys.stderr)
    return int(any(total[name] for name in BAD))


# ---------------------------------------------------------------------- a corpus and a try

CHARACTERS = "我们在北京喝茶讨论人工智能与中国科学院的合作夏天健身房，。 \r abc123"


def write_corpus(folder: Path, draw: random.Random) -> Path:
    """Write a text and records, lone surrogates among them, of about a hundred kilobytes."""
    folder.mkdir()
    lines = ["".join(draw.choices(CHARACTERS, k=draw.randrange(60))) for _ in range(400)]
    (folder / "a.txt").write_text("\n".join(lines), encoding="utf-8", newline="")
    records = [*lines, "a\ud800茶"]
    text = "".join(json.dumps({"t": record}) + "\n" for record in records)
    (folder / "b.jsonl").write_text(text, encoding="ascii")
    return folder


OPTIONS: dict[str, Any] = {"field": "t", "ngrams": 2, "workers": 1}


def expected_table(corpus: Path, dictionary: Path | None = None) -> dict[Any, int]:
    """Return what the plain loop counts, in a process of its own: jieba must stay unused here."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        options = {**OPTIONS, "method": "naive", "dictionary": dictionary}
        with open(writer, "w", encoding="ascii") as file:
            json.dump(list(count_files(corpus, **options).items()), file)
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as file:
        rows = json.load(file)
    os.waitpid(child, 0)
    return {tuple(key): count for key, count in rows}


def attempt(
    work: Callable[[], str], *, kill: tuple[float, int] | None = None
) -> tuple[str, str, bool]:
    """Do something in a fork.

    Args:
        work: Returns what came of it.
        kill: Seconds after which the fork is sent a signal, and which.

    Returns:
        What came of it ("killed" by that signal, "crash" by another, "hung", "traceback"), what it
        said, and whether it ended before it was to be killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _in_the_fork(work, writer)
    os.close(writer)
    limit = time.monotonic() + PATIENCE
    if kill is not None:
        time.sleep(kill[0])
        ended = os.waitpid(child, os.WNOHANG)
        if not ended[0]:
            os.kill(child, kill[1])
    status = ended[1] if kill is not None and ended[0] else _wait(child, limit)
    early = kill is not None and bool(ended[0])
    with open(reader, encoding="utf-8", errors="replace") as file:
        said = file.read()
    if status is None:
        return "hung", said, early
    if os.WIFSIGNALED(status):
        is_ours = kill is not None and os.WTERMSIG(status) == kill[1]
        return "killed" if is_ours else "crash", said, early
    outcome, _, rest = said.partition("\n")
    return outcome or "crash", rest, early


def _wait(child: int, limit: float) -> int | None:
    while time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _in_the_fork(work: Callable[[], str], writer: int) -> NoReturn:
    try:
        with signals.ending():
            said = work()
    except signals.Terminated:
        said = "killed"
    except OptionError as error:
        said = f"refused\n{error}"
    except BaseException:
        said = f"traceback\n{traceback.format_exc()}"
    os.write(writer, said.encode("utf-8", "replace")[:60_000])
    os._exit(0)


def leftovers(folder: Path) -> list[str]:
    """Return the names of files that no run should leave in a folder."""
    names = [name for name in os.listdir(folder) if not name.startswith(OURS)]
    return [*names, *(n for n in os.listdir(tempfile.gettempdir()) if n.startswith("perftricks-"))]


# ---------------------------------------------------------------------- kills


def kills(root: Path, corpus: Path, times: int, draw: random.Random, until: float) -> Tally:
    """Kill counting so often, at random moments, and compare each table that is finished."""
    right = expected_table(corpus)
    tally: Tally = {name: Counter() for name in ("SIGKILL", "SIGTERM")}
    for limit in ("1GB", "20kB"):
        attempt(lambda limit=limit: _counted(corpus, right, root / "warm", limit))
        shutil.rmtree(root / "warm")
    longest = 0.2
    rounds = 0
    while sum(counts["tried"] for counts in tally.values()) < times and time.monotonic() < until:
        folder, limit = root / f"state-{rounds}", draw.choice(["1GB", "20kB"])
        rounds += 1
        met: Counter[str] = Counter()
        outcome, said = "killed", ""
        for _ in range(40):  # then it may finish
            name = draw.choice(list(tally))
            outcome, said, early = attempt(
                lambda folder=folder, limit=limit: _counted(corpus, right, folder, limit),
                kill=(draw.random() * longest, getattr(signal, name)),
            )
            if early:
                longest = max(0.05, longest * 0.98)
                break
            longest = min(5.0, longest * 1.01)
            tally[name]["tried"] += 1
            met[name] += 1
            if outcome != "killed":
                break
        if outcome == "killed":
            outcome, said, _ = attempt(
                lambda folder=folder, limit=limit: _counted(corpus, right, folder, limit)
            )
        if outcome != "right":
            print(f"round {rounds}: {outcome}: {said}", file=sys.stderr)
        left = leftovers(folder)
        if left:
            print(f"round {rounds}: left {left}", file=sys.stderr)
        for name, count in met.items():
            tally[name][outcome] += count
            tally[name]["left"] += len(left)
        shutil.rmtree(folder)
    return tally


def _counted(corpus: Path, right: dict[Any, int], folder: Path, limit: str) -> str:
    """Count with many snapshots, and say whether the table is right."""
    pieces.PIECE_BYTES = kernel_method.PIECE_BYTES = 2000
    read = pieces.read_bytes

    def in_chunks(source: Any, meter: Any, offset: int = 0) -> Iterator[bytes]:
        for chunk in read(source, meter, offset):
            yield from (chunk[start : start + 500] for start in range(0, len(chunk), 500))

    pieces.read_bytes = in_chunks  # type: ignore[assignment]
    counts = count_files(
        corpus, checkpoint=folder, checkpoint_seconds=0, memory_limit=limit, **OPTIONS
    )
    rows = {key: count for key, count, _ in counts.rows()}
    return "right" if rows == right else f"wrong\n{_difference(rows, right)}"


def _difference(found: dict[Any, int], right: dict[Any, int]) -> str:
    different = [key for key in {**found, **right} if found.get(key) != right.get(key)]
    return f"{len(different)} rows differ, such as {different[0]!r}"


# ---------------------------------------------------------------------- damage


def _flip(path: Path, draw: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _bytes(path: Path, draw: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.randrange(1, 64))
    content[start:end] = draw.randbytes(end - start)
    path.write_bytes(content)


def _zero_page(path: Path, draw: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(0, len(content), PAGE)
    end = min(len(content), start + PAGE)
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def _cut_off(path: Path, draw: random.Random, others: list[Path]) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def _longer(path: Path, draw: random.Random, others: list[Path]) -> None:
    with open(path, "ab") as file:
        file.write(draw.choice([bytes, draw.randbytes])(draw.randrange(1, 2 * PAGE)))


def _swapped(path: Path, draw: random.Random, others: list[Path]) -> None:
    other = draw.choice([file for file in others if file != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _nonsense(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.write_bytes(draw.randbytes(draw.randrange(2 * PAGE)))


def _missing(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.unlink()


def _not_a_file(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.unlink()
    kind = draw.choice(["link", "pipe", "folder"])
    if kind == "link":
        path.symlink_to(draw.choice(others))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


def _edited(path: Path, draw: random.Random, others: list[Path]) -> None:
    """Change a value somewhere in the state of a checkpoint, its digest aside."""
    (path,) = (file for file in others if file.name == "state.json")
    content = json.loads(path.read_text(encoding="ascii"))
    holders = [holder for holder in _holders(content) if holder]
    holder = draw.choice(holders)
    key: Any = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    values = [0, 1, -1, 10**9, None, True, "", "../../x", "run-1", [], {}, [["a", 1]], 1.5]
    holder[key] = draw.choice([value for value in values if value != holder[key]])
    path.write_text(json.dumps(content), encoding="ascii")


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


FAULTS: dict[str, Damage] = {
    "a bit is another": _flip,
    "some bytes are": _bytes,
    "a page of zeros": _zero_page,
    "cut off": _cut_off,
    "longer": _longer,
    "two files swapped": _swapped,
    "nonsense": _nonsense,
    "missing": _missing,
    "a link, pipe or folder": _not_a_file,
    "state edited": _edited,
}


SLOW = 16  # one try of the cache in so many is made with jieba's own dictionary


def damage(root: Path, corpus: Path, times: int, draw: random.Random, until: float) -> Tally:
    """Damage a file so often, count, and see what comes of it.

    To read jieba's dictionary anew takes more than a second, so that most tries of the cache are
    made with a dictionary of a few words, whose tables are read and checked in the same way.
    """
    folders = {name: root / name for name in ("cache", "small cache", "checkpoint")}
    small = corpus.with_name("small.txt")
    small.write_text("".join(f"{word} 3 n\n" for word in SMALL), encoding="utf-8")
    right = {False: expected_table(corpus), True: expected_table(corpus, small)}
    with cachefolder.open_cache() as opened:
        kernel = cache.load_kernel(opened)
        code = bytes(opened.read(cache._CODE, cache._kernel_name()) or b"")
    cache._kernels.clear()
    shutil.copytree(folders["cache"], folders["small cache"])
    folders["small cache"].chmod(0o700)
    _fill(corpus, folders["checkpoint"])
    with cachefolder.open_cache() as opened:
        lexicon = cache.load_lexicon(opened, kernel)
    build = tables.build_lexicon
    cache.compile_kernel = lambda: code
    tables.build_lexicon = lambda kernel, tokenizer: (
        build(kernel, tokenizer) if _is_small(tokenizer) else lexicon
    )
    os.environ[cachefolder.ENVIRONMENT] = str(folders["small cache"])
    outcome, said, _ = attempt(lambda: _of_few_words(corpus, right[True], small))
    assert outcome == "right", (outcome, said)
    for where, folder in folders.items():
        shutil.copytree(folder, root / f"whole {where}")
    tally: Tally = {
        f"{where}: {fault}": Counter()
        for where in ("cache", "checkpoint")
        for fault in FAULTS
        if where == "checkpoint" or fault != "state edited"
    }
    for number in range(times):
        if time.monotonic() > until:
            break
        name = list(tally)[number % len(tally)]
        where, fault = name.split(": ")
        is_small = where == "cache" and number // len(tally) % SLOW != 0
        folder = folders["small cache" if is_small else where]
        os.environ[cachefolder.ENVIRONMENT] = str(folders["small cache" if is_small else "cache"])
        others = [path for path in folder.iterdir() if not path.name.endswith("lock")]
        target = draw.choice(sorted(others))
        FAULTS[fault](target, draw, sorted(others))
        outcome, said, _ = attempt(
            (lambda: _of_few_words(corpus, right[True], small))
            if is_small
            else (lambda: _resumed(corpus, right[False], folders["checkpoint"]))
        )
        tally[name]["tried"] += 1
        clear = "cannot be read: '" in said or "is of another version" in said
        if outcome == "refused" and (where == "cache" or not clear):
            outcome = "wrong"
        tally[name][outcome] += 1
        left = leftovers(folder)
        tally[name]["left"] += len(left)
        if outcome in BAD or left:
            print(f"{number}, {name}, {target.name}: {outcome} {left} {said}", file=sys.stderr)
        touched = {folder.name} if is_small or outcome == "refused" else {"cache", "checkpoint"}
        for what in touched:
            shutil.rmtree(folders[what])
            shutil.copytree(root / f"whole {what}", folders[what])
            folders[what].chmod(0o700)
    return tally


SMALL = (
    "我们",
    "北京",
    "人工",
    "智能",
    "人工智能",
    "中国",
    "科学院",
    "中国科学院",
    "讨论",
    "合作",
    "夏天",
    "身房",
)


def _is_small(tokenizer: Any) -> bool:
    return tokenizer is not None and len(tokenizer.FREQ) < 100


def _of_few_words(corpus: Path, right: dict[Any, int], dictionary: Path) -> str:
    counts = count_files(corpus, dictionary=dictionary, method="compiled", **OPTIONS)
    rows = dict(counts.items())
    return "right" if rows == right else f"wrong\n{_difference(rows, right)}"


def _fill(corpus: Path, folder: Path) -> None:
    """Leave a checkpoint of a run that was stopped on the way, with parts of its table."""

    def work() -> str:
        def progress(done: int, total: int | None) -> None:
            if total is not None and done > total * 0.8:
                raise KeyboardInterrupt

        try:
            pieces.PIECE_BYTES = kernel_method.PIECE_BYTES = 20_000
            count_files(
                corpus,
                checkpoint=folder,
                checkpoint_seconds=0,
                memory_limit="200kB",
                progress=progress,
                **OPTIONS,
            )
        except KeyboardInterrupt:
            return "stopped"
        return "not stopped"

    outcome, said, _ = attempt(work)
    assert outcome == "stopped", (outcome, said)
    assert any(folder.glob("run-*"))


def _resumed(corpus: Path, right: dict[Any, int], folder: Path) -> str:
    counts = count_files(corpus, checkpoint=folder, memory_limit="1GB", **OPTIONS)
    rows = {key: count for key, count, _ in counts.rows()}
    return "right" if rows == right else f"wrong\n{_difference(rows, right)}"


if __name__ == "__main__":
    sys.exit(main())
