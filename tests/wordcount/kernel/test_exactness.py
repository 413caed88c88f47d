"""The whole table equals jieba's, for texts and dictionaries of every kind."""

import itertools
import random

import jieba
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jieba import finalseg

from perftricks.wordcount.kernel import Engine
from perftricks.wordcount.kernel.cache import load_lexicon
from perftricks.wordcount.storage.cachefolder import open_cache

from .reference import check
from .texts import ASCII_IN_BLOCKS, HAN, OUTSIDE, TextMaker

MODES = [("default", True), ("default", False), ("search", True), ("search", False), ("all", True)]
NEWLINES = ["lf", "crlf", "universal", "none", "byte"]


@pytest.fixture(scope="module")
def maker():
    return TextMaker(7)


@pytest.fixture
def forced_splits():
    """Leave the forced splits, which are global, as they were."""
    before = set(finalseg.Force_Split_Words)
    yield finalseg.Force_Split_Words
    finalseg.Force_Split_Words.clear()
    finalseg.Force_Split_Words.update(before)


@pytest.mark.parametrize(("mode", "hmm"), MODES)
@pytest.mark.parametrize("newline", NEWLINES)
def test_random_texts(default_engine, maker, mode, hmm, newline):
    """Random texts give jieba's table in every mode and with every line end."""
    for size in (1, 2, 3, 5, 10, 30, 100, 300, 1000, 6000):
        for _ in range(3 if size < 1000 else 1):
            check(default_engine, jieba.dt, maker.text(size), newline=newline, mode=mode, hmm=hmm)


@pytest.mark.parametrize(("mode", "hmm"), MODES)
def test_every_character_alone_and_between_others(default_engine, mode, hmm):
    """Every character gives jieba's tokens, alone and between others."""
    characters = [
        chr(c)
        for c in itertools.chain(range(0xD800), range(0xE000, 0x11000), range(0x1F000, 0x20010))
    ]
    text = "\n".join(f"{c}\n中{c}国{c}{c}a" for c in characters)
    check(default_engine, jieba.dt, text, newline="lf", mode=mode, hmm=hmm, threads=2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "a",
        "中",
        " ",
        "\x00",
        "中国",
        "\n\n中\n",
        "\r\n\r\n",
        "，",
        "😀",
    ],
)
@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize(("mode", "hmm"), MODES)
def test_small_documents(default_engine, text, newline, mode, hmm):
    """The smallest documents give jieba's tokens and documents."""
    check(
        default_engine, jieba.dt, text, newline=newline, mode=mode, hmm=hmm, ngram=2, doc_freq=True
    )


HARD_TEXT = st.lists(
    st.one_of(
        st.sampled_from(HAN),
        st.sampled_from(list(ASCII_IN_BLOCKS)),
        st.sampled_from(list(OUTSIDE)),
        st.sampled_from("中国人民的一是了不在有我他这大来上个"),
        st.sampled_from(["3.14%", "C++", "\r\n", "中国", "T恤", "1.5.", "--"]),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
).map("".join)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    text=HARD_TEXT,
    case=st.sampled_from(MODES),
    newline=st.sampled_from(NEWLINES),
    ngram=st.integers(1, 4),
)
def test_hypothesis_texts(default_engine, text, case, newline, ngram):
    """Texts chosen to break it give jieba's counts of everything."""
    check(
        default_engine,
        jieba.dt,
        text,
        newline=newline,
        mode=case[0],
        hmm=case[1],
        ngram=ngram,
        doc_freq=True,
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("newline", ["lf", "none", "byte"])
def test_chunks_and_threads(default_engine, maker, threads, newline):
    """Where a text is divided among threads changes nothing."""
    text = maker.text(60_000)
    check(default_engine, jieba.dt, text, newline=newline, threads=threads)


def test_one_long_block(default_engine, maker):
    """A block longer than the buffer makes it grow; the text around it is counted all the same."""
    block = "".join(w for w in maker.words if w.isalpha())[:30_000]
    check(default_engine, jieba.dt, f"前，{block}，后\n{block[:5000]}", threads=2)
    check(default_engine, jieba.dt, f"前，{block}，后\n{block[:5000]}", mode="all")


def test_long_run_outside_blocks_with_cut_all(default_engine):
    """A long run of punctuation gives mode all its tokens."""
    check(default_engine, jieba.dt, "中国" + "，" * 10_000 + "。 " * 10_000 + "人", mode="all")


@pytest.mark.parametrize(("mode", "hmm"), [("default", True), ("default", False), ("search", True)])
def test_ngrams_and_document_frequencies(default_engine, maker, mode, hmm):
    """N-grams and document frequencies are those of jieba's tokens."""
    text = maker.text(15_000)
    for ngram in (2, 3):
        check(
            default_engine,
            jieba.dt,
            text,
            mode=mode,
            hmm=hmm,
            ngram=ngram,
            doc_freq=True,
            threads=2,
        )


# ---------------------------------------------------------------------- dictionaries


def engine_of(kernel, tokenizer, folder):
    """The kernel with the tables of a tokenizer, cached in a folder of the test."""
    with open_cache(folder) as cache:
        return Engine(kernel, load_lexicon(cache, kernel, tokenizer))


def small_tokenizer(tmp_path, words):
    """A tokenizer whose whole dictionary is given: ties and gaps are frequent."""
    path = tmp_path / "dict.txt"
    path.write_text("".join(f"{word} {frequency} n\n" for word, frequency in words), "utf-8")
    tokenizer = jieba.Tokenizer(str(path))
    tokenizer.tmp_dir = str(tmp_path)
    tokenizer.cache_file = str(tmp_path / "cache")
    return tokenizer


@pytest.mark.parametrize("seed", range(12))
def test_dictionaries_full_of_ties(kernel, tmp_path, seed, forced_splits):
    """Paths of equal score everywhere, and words that are mere prefixes, change nothing."""
    rng = random.Random(seed)
    alphabet = rng.sample("一二三四五", 3) + rng.sample("aB1+.%-", 2)
    words = {}
    for _ in range(rng.randint(1, 60)):
        word = "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 1, 2, 2, 2, 3, 3, 4, 6])))
        words[word] = rng.choice([0, 1, 1, 2, 4, 16])
    words["一一"] = 4
    tokenizer = small_tokenizer(tmp_path, words.items())
    tokenizer.initialize()
    for word in rng.sample(sorted(words), min(3, len(words))):
        rng.choice(
            [tokenizer.del_word, lambda w: tokenizer.suggest_freq(w, True), tokenizer.add_word]
        )(word)
    if seed % 2:
        # Powers of four in a total of 256 make exact ties: 16 * 16 = 1 * 256, also in floats.
        tokenizer.FREQ.update({word: rng.choice([0, 1, 16, 16, 256]) for word in tokenizer.FREQ})
        tokenizer.total = 256
    engine = engine_of(kernel, tokenizer, tmp_path)
    for _ in range(30):
        text = "".join(rng.choice([*alphabet, "，", " ", "九"]) for _ in range(rng.randint(1, 40)))
        for mode, hmm in MODES:
            check(engine, tokenizer, text, mode=mode, hmm=hmm)


def test_user_words_of_every_kind(kernel, tmp_path, forced_splits, maker):
    """Words that were added, deleted or forced apart count as jieba cuts them."""
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    tokenizer.add_word("云计算")
    tokenizer.add_word("石墨烯", 20_000, "n")
    tokenizer.add_word("Machine Learning")
    tokenizer.add_word("hello world", 100)
    tokenizer.add_word("C++11", 100)
    tokenizer.add_word("ABC")
    tokenizer.add_word("é", 50)
    tokenizer.add_word("中é国", 5000)
    tokenizer.add_word("😀😀", 5000)
    tokenizer.add_word("\U00020000字", 5000)
    tokenizer.add_word("鿖", 5000)
    tokenizer.add_word("零频率词", 0)
    tokenizer.add_word("超" * 300, 10**12)
    tokenizer.add_word("大数词", 10**25)
    tokenizer.del_word("人民")
    tokenizer.del_word("中国")
    tokenizer.del_word("的")
    tokenizer.suggest_freq(("中", "将"), True)
    tokenizer.suggest_freq("台中", True)
    forced_splits.update({"杭研", "大厦", "不在词典中的词", "a b", "é", "孙悟"})
    engine = engine_of(kernel, tokenizer, tmp_path)
    extra = (
        "云计算石墨烯Machine Learning hello world C++11 ABC é中é国😀😀\U00020000字鿖零频率词"
        + "超" * 900
        + "大数词"
        "人民中国的如果放到post中将出错台中他来到了网易杭研大厦孙悟空不在词典中的词\n"
    )
    for mode, hmm in MODES:
        check(
            engine, tokenizer, extra * 3 + maker.text(3000) + extra, mode=mode, hmm=hmm, threads=2
        )


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_hypothesis_dictionaries(kernel, tmp_path_factory, data):
    """Dictionaries and forced splits of any kind give jieba's table."""
    character = st.sampled_from("一二三aB1+.%- é😀")
    word = st.text(character, min_size=1, max_size=5)
    words = data.draw(st.dictionaries(word, st.integers(0, 5), max_size=20))
    splits = data.draw(st.sets(word, max_size=3))
    before = set(finalseg.Force_Split_Words)
    try:
        tokenizer = small_tokenizer(tmp_path_factory.mktemp("dict"), [("一二", 3), ("三", 2)])
        tokenizer.initialize()
        for key, frequency in words.items():
            tokenizer.add_word(key, frequency)
        finalseg.Force_Split_Words.update(splits)
        engine = engine_of(kernel, tokenizer, tmp_path_factory.mktemp("cache"))
        for mode, hmm in MODES:
            text = data.draw(st.text(st.sampled_from("一二三aB1+.%- é😀，九"), max_size=60))
            check(engine, tokenizer, text, mode=mode, hmm=hmm)
    finally:
        finalseg.Force_Split_Words.clear()
        finalseg.Force_Split_Words.update(before)
