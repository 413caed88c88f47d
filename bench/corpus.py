"""A Chinese corpus made by chance: words of jieba's dictionary by their frequency."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

PUNCTUATION = ["，"] * 6 + ["。"] * 3 + ["、", "：", "；", "“", "”", "（", "）", "？", "！"]


def write_corpus(path: Path, size: int, seed: int) -> None:
    """Write about ``size`` bytes of UTF-8, a document a line; the same for the same seed.

    Words are drawn by their frequency in jieba's dictionary, so that counts follow Zipf's law as in
    real text. Names, numbers and Latin words that no dictionary has are strewn in: they exercise
    the hidden Markov model and the splitting of mixed text. It is easier to segment than real text:
    neighbouring words do not depend on each other.
    """
    import jieba

    jieba.setLogLevel("ERROR")
    jieba.initialize()
    words = [(word, count) for word, count in jieba.dt.FREQ.items() if count > 2]
    vocabulary = [word for word, _ in words]
    cumulative = list(itertools.accumulate(count for _, count in words))
    characters = [word for word in vocabulary if len(word) == 1]
    draw = random.Random(seed)

    def rare() -> str:
        kind = draw.random()
        if kind < 0.6:
            return "".join(draw.choices(characters, k=draw.choice([2, 2, 3])))
        if kind < 0.8:
            return str(draw.randrange(3000)) + draw.choice(["年", "%", "", ".5"])
        return "".join(draw.choices("abcdefghiklmnoprstuvwyGPUT-", k=draw.randrange(2, 9)))

    def phrase() -> str:
        chosen = draw.choices(vocabulary, cum_weights=cumulative, k=draw.randrange(2, 12))
        if draw.random() < 0.25:
            chosen.insert(draw.randrange(len(chosen) + 1), rare())
        return "".join(chosen) + draw.choice(PUNCTUATION)

    written = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        while written < size:
            document = "".join(phrase() for _ in range(int(draw.paretovariate(1.3) * 3))) + "\n"
            written += len(document.encode())
            file.write(document)
