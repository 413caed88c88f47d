"""Part-of-speech tags at the speed of the kernel: runs are counted first, and tagged once each.

``jieba.posseg`` finds its path through the dictionary as ``jieba.cut`` does. A word of the path has
the tag that the dictionary has, whatever is around it; what ``jieba.posseg`` does with a run of
single characters depends on the run alone. So the kernel counts words and whole runs, and every
different one is tagged once by :mod:`perftricks.wordcount.tagging`.

That runs stay whole needs no other kernel. Its tables are made of a copy of jieba whose hidden
Markov model knows one way only, a word from the beginning of a run to its end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from perftricks.wordcount import jieba_state, tagging
from perftricks.wordcount.table.rows import Tagged
from perftricks.wordcount.table.spill import Spill, SpillingCounter
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.table import Table

_NEVER = -3.14e100  # as jieba writes the logarithm of 0

# What jieba.posseg cuts with; with other patterns a tag may depend on what is around.
_KNOWN = {
    "re_han_detail": r"([\u4E00-\u9FD5]+)",
    "re_skip_detail": r"([\.0-9]+|[a-zA-Z0-9]+)",
    "re_han_internal": r"([\u4E00-\u9FD5a-zA-Z0-9+#&\._]+)",
    "re_skip_internal": "(\r\n|\\s)",
    "re_eng": "[a-zA-Z0-9]+",
    "re_num": r"[\.0-9]+",
    "re_eng1": "^[a-zA-Z0-9]$",
}


def why_not(*, hmm: bool) -> str | None:
    """Say why runs cannot be counted before they are tagged; None if they can."""
    if not hmm:
        return "without the HMM jieba.posseg joins letters, and their tags depend on that"
    posseg = tagging.import_posseg()
    names = tagging.replaced_functions()
    for name, known in _KNOWN.items():
        if not _is_known(getattr(posseg, name, None), known):
            names.append(f"jieba.posseg.{name}")
    return f"this program has replaced {', '.join(names)}" if names else None


def _is_known(pattern: Any, known: str) -> bool:
    return (
        isinstance(pattern, re.Pattern)
        and pattern.flags == re.UNICODE
        and _as_written(pattern.pattern) == _as_written(known)
    )


def _as_written(pattern: str) -> str:
    return re.sub(r"\\u([0-9A-F]{4})", lambda match: chr(int(match[1], 16)), pattern)


def tokenizer_of_runs(tokenizer: Any) -> Any:
    """Return a ``jieba.Tokenizer`` that cuts as a ``POSTokenizer`` does, but leaves runs whole."""
    posseg = tagging.import_posseg()
    copy = jieba_state.import_copy()
    model = copy.finalseg
    copy.re_han_default = model.re_han = posseg.re_han_internal
    model.start_P = {"B": 0.0, "M": _NEVER, "E": _NEVER, "S": -1.0}
    model.trans_P = {
        "B": {"M": 0.0, "E": 0.0},
        "M": {"M": 0.0, "E": 0.0},
        "E": {"B": -1.0, "S": -1.0},
        "S": {"B": -1.0, "S": -1.0},
    }
    model.emit_P = {state: {} for state in "BMES"}
    model.MIN_FLOAT = 0.0
    model.Force_Split_Words = set()
    words = jieba_state.ready(tokenizer.tokenizer)
    copy.dt.FREQ, copy.dt.total, copy.dt.initialized = words.FREQ, words.total, True
    return copy.dt


class RunTags:
    """Tags what the kernel has counted.

    Args:
        tokenizer: A ``POSTokenizer``.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.makesure_userdict_loaded()
        self._is_inside = tagging.import_posseg().re_han_internal.match
        self._frequency = jieba_state.ready(tokenizer.tokenizer).FREQ
        self._tags = tokenizer.word_tag_tab
        self._remembering = tagging.Remembering(tokenizer, hmm=True)

    def __call__(self, key: str) -> Iterable[Tagged]:
        """Return the tokens of a word, of a run, or of what is between stretches."""
        if not self._is_inside(key):
            return self._remembering(key)
        if len(key) == 1 or self._frequency.get(key):
            return (Tagged(key, self._tags.get(key, "x")),)
        return self._remembering.of_run(key)

    def counted(self, counts: Mapping[str, int]) -> dict[Tagged, int]:
        """Return the counts of tokens with tags."""
        found: Counter[Tagged] = Counter()
        for key, count in counts.items():
            for token in self(key):
                found[token] += count
        return found

    def table(self, runs: Table, more: Mapping[Any, int], limit: int) -> Table:
        """Return the table of tokens with tags; on the disk if it outgrows a limit.

        Args:
            runs: What the kernel has counted.
            more: What was counted with tags already.
            limit: Bytes that the table may take in memory.

        Raises:
            SpillError: If the disk is full or fails.
        """
        from perftricks.wordcount.table.in_memory import MemoryTable

        spill = Spill(limit)
        found = SpillingCounter(spill, 2)
        found.update(more)
        for part in runs.columns(ordered=False):
            found.update(self.counted(dict(zip(part.keys(), part.count.tolist(), strict=True))))
        if not spill.runs:
            return MemoryTable(found, None)
        spill.add_counter(found)
        return SpilledTable(spill, document_frequency=False)
