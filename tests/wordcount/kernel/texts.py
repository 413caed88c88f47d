"""Texts made to hurt: near ties, rare characters, every kind of line end."""

import random
import sys

import jieba

ASCII_IN_BLOCKS = "abcxyzABCXYZ0123456789+#&._%-"
OUTSIDE = (
    "，。！？、；：（）《》“”…—　 "
    "\t\x00\x01\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u200b\ufeff\r\n"
    "éñßüабвαβγ한글あいうカタカナ①②㎡々〇〆"
    "\u9fd6\u9fff\u3400\u4dbf\uf900\ufffd\ue000\uffff"
    "😀👍🏽\U0001f1e8\U0001f1f3\U00020000\U0002a6df\U0010ffff\U00010000\U0001000f"
    "e\u0301a\u0300\u20e3()[]{}<>/\\\"'!?,;:@$^*=|~`"
)
HAN = [chr(c) for c in range(0x4E00, 0x9FD6)]


class TextMaker:
    """Random texts of words, single characters of all kinds and their fragments."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        jieba.initialize()
        words = list(jieba.dt.FREQ)
        self.words = [words[i] for i in self.random.sample(range(len(words)), 20_000)]
        by_frequency = sorted(jieba.dt.FREQ, key=jieba.dt.FREQ.get, reverse=True)
        self.frequent = by_frequency[:2000]
        self.mixed = [w for w in jieba.dt.FREQ if not w.isalpha() or w.isascii()][:500]

    def piece(self):
        """Return a word, a character or something like it."""
        pick = self.random.random()
        choose = self.random.choice
        if pick < 0.30:
            return choose(self.frequent)
        if pick < 0.50:
            return choose(self.words)
        if pick < 0.60:  # fragments of words, so that words overlap
            word = choose(self.words)
            cut = self.random.randint(0, len(word))
            return word[cut:] + choose(self.words)[:cut]
        if pick < 0.70:
            return choose(HAN)
        if pick < 0.78:
            return "".join(choose(ASCII_IN_BLOCKS) for _ in range(self.random.randint(1, 6)))
        if pick < 0.80:
            return choose(self.mixed)
        if pick < 0.82:
            return chr(
                self.random.choice(
                    [
                        self.random.randrange(0xD800),
                        self.random.randrange(0xE000, sys.maxunicode + 1),
                    ]
                )
            )
        if pick < 0.93:
            return choose(OUTSIDE)
        if pick < 0.95:
            return choose(["\r\n", "\n", "\n\n", "\r", "\r\r\n", "\n\r"])
        if pick < 0.97:
            return choose(HAN) * self.random.randint(2, 5)
        return choose(
            [
                "3.14",
                "50%",
                "F-16",
                "cdn.x.com",
                "a.b",
                "1.",
                ".5",
                "C++",
                "T恤",
                "AT&T",
                "-_-",
                "%%",
                "12.34%",
                "abc.12%",
            ]
        )

    def text(self, pieces):
        """Return a text of so many pieces."""
        return "".join(self.piece() for _ in range(pieces))
