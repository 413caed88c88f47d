"""Cutting with an excerpt of the dictionary is cutting with the dictionary."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perftricks.wordcount.excerpt import excerpt, excerpt_tokenizer
from tests.conftest import PATIENCE
from tests.wordcount.conftest import PIECES

WAYS = {
    "default": lambda tokenizer, text: tokenizer.lcut(text),
    "without HMM": lambda tokenizer, text: tokenizer.lcut(text, HMM=False),
    "all": lambda tokenizer, text: tokenizer.lcut(text, cut_all=True),
    "search": lambda tokenizer, text: tokenizer.lcut_for_search(text),
}


@pytest.fixture(scope="module")
def words():
    """Words of the dictionary, and shorter and longer ones that begin or end like them."""
    jieba.dt.check_initialized()
    some = [word for word in itertools.islice(jieba.dt.FREQ, 0, None, 997) if word]
    return [*PIECES, *some, *(word[:-1] for word in some), *(word[1:] for word in some)]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_same_tokens(way, words, data):
    texts = data.draw(st.lists(st.lists(st.sampled_from(words), max_size=12).map("".join)))
    tokenizer = excerpt_tokenizer(jieba, texts)
    cut = WAYS[way]
    assert [cut(tokenizer, text) for text in texts] == [cut(jieba.dt, text) for text in texts]


def test_what_is_left_out_matches_nowhere():
    dictionary = "茶 3 n\n茶馆 5 n\n老茶馆 2 n\n茶馆长 7 n\n馆长 1 n\n"
    table, total = excerpt(dictionary, ["老茶馆", "很好"])
    assert (table, total) == ({"茶": 3, "茶馆": 5, "老": 0, "老茶": 0, "老茶馆": 2}, 18)


def test_the_last_of_two_frequencies_counts_and_both_are_in_the_total():
    assert excerpt("茶馆 5 n\n茶 1\n茶馆 6 n\n", ["茶馆"]) == ({"茶馆": 6, "茶": 1}, 12)


@pytest.mark.parametrize("line", ["茶馆", "茶馆 many n", " 茶馆 3", "茶馆 3n", ""])
def test_a_dictionary_that_is_written_otherwise(line):
    assert excerpt(f"茶 3 n\n{line}\n", ["茶馆"]) is None


def test_no_text():
    assert excerpt("茶 3 n\n", ["", " \n"]) == ({}, 3)


ALONE = """
import jieba
from perftricks.wordcount import count_words

texts = ["老茶馆的茶很好", "他来到了网易杭研大厦"]
first = count_words(texts, workers=%d)
assert not jieba.dt.initialized, "the whole dictionary was loaded"
second = count_words(["结婚的和尚未结婚的"])
assert jieba.dt.initialized, "an excerpt was taken again"
for given, found in ((texts, first), (["结婚的和尚未结婚的"], second)):
    tokens = [token for text in given for token in jieba.lcut(text)]
    assert found == {token: tokens.count(token) for token in tokens}, found
jieba.dt.initialized = False
jieba.add_word("茶很好", 1000000)
assert count_words(["老茶馆的茶很好"])["茶很好"] == 1
"""


OF_ANOTHER = """
import marshal, os, sys
words = {"米": 5, "饭": 5}
with open(os.path.join(os.environ["TMPDIR"], "jieba.cache"), "wb") as file:
    marshal.dump((words, 10), file)
from perftricks.wordcount import count_words
assert count_words(["米饭"]) == {"米": 1, "饭": 1}
"""


def test_the_file_of_another_jieba(tmp_path):
    """What jieba would load is what a short text is cut with, also if it is none of this jieba."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OF_ANOTHER],
        env={**os.environ, "PERFTRICKS_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)},
        check=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_short_text_of_a_process(workers, tmp_path):
    """Later ones, and words that were added, find the dictionary as jieba has it."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE % workers],
        # Neither the kernel, nor the file of another jieba, which jieba would take all the same.
        env={**os.environ, "PERFTRICKS_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)},
        check=True,
        timeout=PATIENCE,
    )
