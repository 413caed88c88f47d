"""A small corpus with what makes segmenting hard, and the count that all others must equal."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from perftricks.wordcount.reading.streams import read_bytes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's own, about its source and pkg_resources
    import jieba
    import jieba.posseg

jieba.setLogLevel("WARNING")

# Examples that are drawn slowly say that the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

PIECES = [
    "小明硕士毕业于中国科学院计算所",
    "南京市长江大桥",
    "乒乓球拍卖完了",
    "他来到了网易杭研大厦",
    "结婚的和尚未结婚的",
    "李小福是创新办主任也是云计算方面的专家",
    "，",
    "。",
    "“引号”",
    'say "hello"',
    "F-16 C++ a.b@c.com",
    "3.14% 80℃ 2024-05-01",
    "\t",
    "\r",
    "\x0b\x0c",
    "\x85\u2028",
    "　",
    " ",
    "😀👍🏽",
    "𠮷野家",
    "éa\u0301",
    "#标签&符号_",
    "\\反斜杠",
    "\x00",
]


def naive(texts, **options):
    """The loop of the blog, which defines what is exact."""
    tokens = {}
    for text in texts:
        for token in jieba.lcut(text, **options):
            tokens[token] = tokens.get(token, 0) + 1
    return tokens


def in_chunks(source, meter, offset=0):
    """Read a file in small chunks, so that a small text has many pieces."""
    for chunk in read_bytes(source, meter, offset):
        for start in range(0, len(chunk), 97):
            yield chunk[start : start + 97]


@pytest.fixture(scope="session")
def texts():
    """Two hundred documents, some of them empty, each of which fits on a line."""
    generator = random.Random(7031)
    documents = ["".join(generator.choices(PIECES, k=generator.randrange(12))) for _ in range(200)]
    # A line that ends in "\r\n" does not have the "\r" in its document.
    return [*(text.rstrip("\r") for text in documents), "", "末尾"]


@pytest.fixture(scope="session")
def expected(texts):
    """The naive counts of the documents."""
    return naive(texts)


@pytest.fixture
def corpus(tmp_path, texts) -> Path:
    """The documents as a file, a document on each line."""
    path = tmp_path / "corpus.txt"
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    return path
