"""A tally across processes, in a module that any interpreter can import."""

from __future__ import annotations


class Executions:
    """Counts how often each item was really run, across processes: a line in a file each time."""

    def __init__(self, path: str) -> None:
        self.path = path
        open(path, "w").close()

    def note(self, item: object) -> int:
        """Note one execution; return which one it is for this item, from 1."""
        with open(self.path, "a") as file:
            file.write(f"{item}\n")
        return self.of(item)

    def of(self, item: object) -> int:
        """Return how often ``item`` was run."""
        with open(self.path) as file:
            return file.read().splitlines().count(str(item))

    def total(self) -> int:
        """Return how many runs there were of any item."""
        with open(self.path) as file:
            return len(file.readlines())
