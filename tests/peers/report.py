"""The table of Keras' tests, and whether what differs is what is listed."""

from __future__ import annotations

import collections
from pathlib import Path

import tomllib

LIST = Path(__file__).with_name("differences.toml")
KINDS = ["last bits", "differs", "raises", "skipped", "failed"]  # the worst one last


def kind_of(difference: str) -> str:
    """Return what a difference, or the reason for one, begins with."""
    return difference.partition(":")[0]


def tell(plain, again, backend, version, archive) -> int:
    """Print the table; return 0 if exactly what is listed differs.

    Args:
        plain: How each test ended plainly, by its name.
        again: The same, recomputed.
        backend: The backend of Keras.
        version: The version of Keras.
        archive: Where its tests are.
    """
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))
    rows = collections.defaultdict(collections.Counter)
    differences = {}
    for name, was in plain.items():
        room = name.split("/")[2]
        now = again.get(name, {"outcome": "failed", "error": "the process died", "steps": []})
        rows[room][f"plain {was['outcome']}"] += 1
        rows[room]["recomputed passed"] += was["outcome"] == now["outcome"] == "passed"
        rows[room].update(map(kind_of, now["steps"]))
        found = [step for step in now["steps"] if kind_of(step) in KINDS]
        if was["outcome"] == "passed" and now["outcome"] != "passed":
            found.append(f"{now['outcome']}: {now['error']}")
        if found:
            differences[name] = max(found, key=lambda difference: KINDS.index(kind_of(difference)))
    print(table(rows))
    for name in sorted(name for name, was in plain.items() if was["outcome"] == "not collected"):
        print(f"\n{name}\n  none of its tests is run: {plain[name]['error']}")
    expected = {
        name: reason
        for name, reason in listed.get(backend, {}).items()
        if name in plain and plain[name]["outcome"] == "passed"
    }
    new = []
    for name, difference in sorted(differences.items()):
        reason = expected.get(name, "")
        if kind_of(reason) != kind_of(difference):
            new.append(name)
            reason = f"LISTED OTHERWISE: {reason}" if reason else "NOT LISTED"
        print(f"\n{name}\n  {difference}\n  {reason}")
    gone = sorted(expected.keys() - differences.keys())
    for name in gone:
        print(f"\n{name}\n  does not differ\n  LISTED: {expected[name]}")
    if listed["keras"] != version:
        print(f"\nthe list is of Keras {listed['keras']}, and this is {version}")
    print(
        f"\n{len(plain)} tests, {len(differences)} differ, {len(new)} not listed, {len(gone)} gone"
    )
    return 1 if new or gone or not plain else 0


COLUMNS = {
    "plainly": "plain passed",
    "fail plainly": "plain failed",
    "files not run": "plain not collected",
    "recomputed": "recomputed passed",
    "steps exact": "exact",
    "last bits": "last bits",
    "differ": "differs",
    "raise": "raises",
    "not compared": "not compared",
}


def table(rows) -> str:
    """Return the counts of each room and of all together, as a table of Markdown."""
    total = sum(rows.values(), collections.Counter())
    lines = ["| tests of | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for room, counts in [*sorted(rows.items()), ("all", total)]:
        lines.append(f"| {room} | " + " | ".join(str(counts[x]) for x in COLUMNS.values()) + " |")
    return "\n".join(lines)
