"""A Chinese corpus made by chance: as hard to count as laws and questions, less so than poetry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
SYLLABLES = ("a", "ba", "con", "der", "el", "fi", "go", "hub", "in", "ka", "lo", "me", "net", "or")
BETWEEN = (
    ("，",) * 12 + ("。",) * 6 + ("、",) * 4 + ("：", "；", "“", "”", "（", "）", "？", "！", " ")
)
OPEN = 0.06  # share of words from the open vocabulary
OWN = 0.25  # share of words that a document draws from the few that are its own
BATCH = 1 << 18  # words drawn at a time


def newcomer(draw: np.random.Generator, characters: np.ndarray) -> str:
    """A word that no dictionary has: a name, a compound, a number, a Latin word."""
    kind = draw.random()
    if kind < 0.35:
        return str(draw.choice(list(SURNAMES))) + "".join(
            draw.choice(characters, draw.integers(1, 3))
        )
    if kind < 0.6:
        return "".join(draw.choice(characters, draw.integers(2, 5)))
    if kind < 0.75:
        number = str(draw.integers(1, 10 ** draw.integers(1, 7)))
        return number + ("", "", "年", "%", ".5", "月")[draw.integers(6)]
    word = "".join(draw.choice(SYLLABLES, draw.integers(1, 4)))
    return (word, word.title(), word.upper())[draw.integers(3)]


class Vocabulary:
    """jieba's dictionary by frequency, and words that come as the text goes on, without an end."""

    def __init__(self, draw: np.random.Generator) -> None:
        import jieba

        jieba.setLogLevel("ERROR")
        jieba.initialize()
        known = {word: count for word, count in jieba.dt.FREQ.items() if count}
        self._draw = draw
        self.words = list(known)
        weight = np.fromiter(known.values(), float, len(known))
        self._cumulative = weight.cumsum() / weight.sum()
        characters = np.array([word for word in known if len(word) == 1])
        chance = np.array([known[word] for word in characters], float) ** 0.5
        order = np.argsort(-chance, kind="stable")[:4000]
        self._characters = np.repeat(
            characters[order],
            np.maximum(1, chance[order] * 20_000 / chance[order].sum()).astype(int),
        )
        self._number_of: dict[int, int] = {}  # rank of a newcomer -> its number in words

    def take(self, n: int) -> np.ndarray:
        """The numbers of n words."""
        numbers = np.searchsorted(self._cumulative, self._draw.random(n))
        numbers = np.minimum(numbers, self._cumulative.size - 1)
        places = np.flatnonzero(self._draw.random(n) < OPEN)
        # Ranks by a power law without an end: new ones keep coming, old ones come back.
        ranks = (self._draw.pareto(0.45, places.size) * 20).clip(max=1e15).astype(np.int64)
        numbers[places] = [self._newcomer(rank) for rank in ranks.tolist()]
        result: np.ndarray = numbers
        return result

    def _newcomer(self, rank: int) -> int:
        if rank not in self._number_of:
            self._number_of[rank] = len(self.words)
            self.words.append(newcomer(self._draw, self._characters))
        return self._number_of[rank]


def write_corpus(path: Path, size: int, seed: int) -> None:
    """Write about ``size`` bytes of UTF-8, a document a line; the same for the same seed.

    Words are drawn by their frequency in jieba's dictionary, so that counts follow Zipf's law; a
    document has some words of its own, which it repeats. One in seventeen is of an open vocabulary:
    names, compounds, numbers and Latin words that no dictionary has, which exercise the hidden
    Markov model, the splitting of mixed text and the table of such tokens.
    ``python -m bench.kernel_speed`` compares it with real text.
    """
    draw = np.random.default_rng(seed)
    vocabulary = Vocabulary(draw)
    written = 0
    with open(path, "wb") as file:
        while written < size:
            words = vocabulary.take(BATCH)
            ends = np.cumsum((draw.pareto(1.3, BATCH // 8) * 40 + 6).astype(np.int64))
            ends = ends[: np.searchsorted(ends, BATCH)]
            # A word of the document's own is one of those at its start.
            start = np.concatenate(([0], ends))[np.searchsorted(ends, np.arange(BATCH), "right")]
            place = np.arange(BATCH) - start
            own = np.flatnonzero((draw.random(BATCH) < OWN) & (place > 8))
            words[own] = words[start[own] + draw.integers(0, np.minimum(place[own], 40))]
            mark = np.full(BATCH, -1)
            stops = np.flatnonzero(draw.random(BATCH) < 0.16)
            mark[stops] = draw.integers(0, len(BETWEEN), stops.size)
            mark[ends - 1] = -2
            tail = {-1: "", -2: "。\n", **dict(enumerate(BETWEEN))}
            text = "".join(
                vocabulary.words[word] + tail[after]
                for word, after in zip(words.tolist(), mark.tolist(), strict=True)
            )
            data = text[: text.rindex("\n") + 1].encode()
            if written + len(data) > size:
                data = data[: data.find(b"\n", max(0, size - written - 1)) + 1]
            file.write(data)
            written += len(data)
