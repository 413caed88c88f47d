"""The table of Keras' tests, and whether what differs is what is listed."""

from __future__ import annotations

import collections
from pathlib import Path

import tomllib

LIST = Path(__file__).with_name("differences.toml")


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
        if was["outcome"] == "passed" and now["outcome"] != "passed":
            differences[name] = f"{now['outcome']}: {now['error']}"
        for step in now["steps"]:
            kind = step.partition(":")[0]
            rows[room][kind] += 1
            if kind in ("last bits", "differs", "raises"):
                differences.setdefault(name, step)
    print(table(rows))
    for name in sorted(name for name, was in plain.items() if was["outcome"] == "not collected"):
        print(f"\n{name}\n  none of its tests is run: {plain[name]['error']}")
    expected = {
        name: reason
        for name, reason in listed.get(backend, {}).items()
        if name in plain and plain[name]["outcome"] == "passed"
    }
    for name in sorted(differences):
        print(f"\n{name}\n  {differences[name]}\n  {expected.get(name, 'NOT LISTED')}")
    gone = sorted(expected.keys() - differences.keys())
    for name in gone:
        print(f"\n{name}\n  does not differ\n  LISTED: {expected[name]}")
    new = sorted(differences.keys() - expected.keys())
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
