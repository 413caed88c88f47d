"""An excerpt of jieba's dictionary: the words that a short text can hold, and no others.

jieba loads 350,000 words before it cuts the first one, which takes longer than to cut some pages.
Of these a text can hold only those whose characters it has and whose first two characters it has
side by side. The rest never matches, so that cutting with the excerpt gives the same tokens; the
total of all frequencies, which jieba's probabilities are made with, is the whole dictionary's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

# A line of jieba's dictionary: a word, its frequency and, if it likes, a tag.
_LINE = re.compile(r"^[^ \n]+ ([0-9]+)(?: [^\n]*)?$", re.MULTILINE)


def excerpt(dictionary: str, texts: Iterable[str]) -> tuple[dict[str, int], int] | None:
    r"""Return what ``jieba.Tokenizer.gen_pfdict`` makes of a dictionary, as far as texts need it.

    Args:
        dictionary: The lines of a dictionary as jieba's own: ``word frequency tag``.
        texts: The texts that shall be cut.

    Returns:
        The frequencies, with 0 for the beginnings of words that are no words, and the total of all
        frequencies of the dictionary. None if some line looks otherwise than jieba's own do.

    >>> excerpt("茶 3 n\n茶馆 5 n\n老茶馆 2 n\n馆长 1 n\n", ["茶馆很好"])
    ({'茶': 3, '茶馆': 5}, 11)
    """
    frequencies = _LINE.findall(dictionary)
    if len(frequencies) != dictionary.removesuffix("\n").count("\n") + 1:
        return None
    characters: set[str] = set()
    pairs: set[str] = set()
    for text in texts:
        characters.update(text)
        pairs.update(map("".join, itertools.pairwise(text)))
    characters.difference_update(" \n")
    table: dict[str, int] = {}
    if characters:
        one = "".join(map(re.escape, characters))
        for word, frequency in re.findall(f"^([{one}]+) ([0-9]+)", dictionary, re.MULTILINE):
            if len(word) == 1 or word[:2] in pairs:
                table[word] = int(frequency)
                for end in range(1, len(word)):
                    table.setdefault(word[:end], 0)
    return table, sum(map(int, frequencies))


def excerpt_tokenizer(jieba: Any, texts: Iterable[str]) -> Any:
    """Return a tokenizer that cuts some texts as ``jieba.dt`` does, and is sooner ready.

    Args:
        jieba: The module; ``jieba.dt`` has not loaded its dictionary yet, and will not.
        texts: The texts; other ones would be cut wrongly.

    Returns:
        A ``jieba.Tokenizer``; None if the dictionary is not written as jieba's own.
    """
    with jieba.dt.get_dict_file() as file:
        found = excerpt(file.read().decode("utf-8"), texts)
    if found is None:
        return None
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = found
    tokenizer.initialized = True
    return tokenizer
