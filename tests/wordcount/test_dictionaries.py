"""Dictionaries are what jieba makes of them, in every method."""

from __future__ import annotations

import io
import sys
import threading
import warnings

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perftricks.wordcount import OptionError, count_words
from perftricks.wordcount.jieba_state import import_copy
from perftricks.wordcount.job import run
from perftricks.wordcount.kernel import Engine
from perftricks.wordcount.kernel.tables import build_lexicon
from perftricks.wordcount.methods.compiled import Compiled
from perftricks.wordcount.reading.feeds import TextFeed
from perftricks.wordcount.settings import Settings
from perftricks.wordcount.tokenizers import make_spec, tokenizer_with

TEXTS = ["我们去New York喝茶，c++ 和 C# 3.5元", "\ufeff台中 石墨烯\t9 大桥#话题", "喝茶去　茶去 x9"]

# What people write, and jieba takes.
DICTIONARY = (
    "\ufeff喝茶去 9 n\r\nNew York 300 ns\n# 注释\n#话题 5\n石墨烯\t9\n台中\n大桥 0\n\n  \n茶去 x9\n"
    "　全角 3\nc++ 7\n9 9\n3.5元 -5\n去New  4\nnew\n我们去N 20 N\n烯 007 nz \n\ufeff\ufeff和 2"
)


@pytest.fixture
def reference():
    """A copy of jieba that nobody has touched."""
    return import_copy()


def doubted(**options):
    """Make a spec; return it and what was said about its dictionaries."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec = make_spec(**options)
    return spec, [str(warning.message) for warning in caught]


def loop(cut, texts=TEXTS):
    table = {}
    for text in texts:
        for token in cut(text):
            table[token] = table.get(token, 0) + 1
    return table


@pytest.mark.filterwarnings("ignore:user dictionary")
@pytest.mark.parametrize("options", [{"method": "naive"}, {"method": "compiled"}, {}], ids=str)
def test_what_people_write(tmp_path, reference, options):
    """Spaces, tabs, comments, marks, odd numbers: every line is what jieba makes of it."""
    path = tmp_path / "words.txt"
    path.write_bytes(DICTIONARY.encode())
    with open(path, "rb") as file:
        reference.load_userdict(file)
    expected = loop(reference.lcut)
    assert count_words(TEXTS, user_dict=path, **options) == expected
    assert expected["喝茶去"] == 1


@pytest.mark.filterwarnings("ignore:user dictionary")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers(tmp_path, reference, start_method):
    """So are they in workers, with a main dictionary as well."""
    main = tmp_path / "main.txt"
    main.write_text("我们 9 r\n喝茶 5 v\n石墨 3\nc 1\n", encoding="utf-8")
    path = tmp_path / "words.txt"
    path.write_bytes(DICTIONARY.encode())
    reference.dt.tmp_dir = str(tmp_path)
    reference.set_dictionary(str(main))
    with open(path, "rb") as file:
        reference.load_userdict(file)
    options = {"method": "parallel", "workers": 1, "start_method": start_method}
    counts = count_words(TEXTS, dictionary=main, user_dict=path, **options)
    assert counts == loop(reference.lcut)


@pytest.mark.filterwarnings("ignore:user dictionary")
@pytest.mark.parametrize(
    "opened",
    [
        lambda: io.BytesIO(DICTIONARY.encode()),
        lambda: io.StringIO(DICTIONARY),
        lambda: DICTIONARY.split("\n"),
        lambda: iter(DICTIONARY.encode().splitlines(keepends=True)),
    ],
)
def test_open_files(reference, opened):
    """An open file or lines are taken as jieba takes them, a mark in text included."""
    reference.load_userdict(opened())
    assert count_words(TEXTS, user_dict=opened(), method="naive") == loop(reference.lcut)


@pytest.mark.parametrize("method", ["naive", "compiled"])
@pytest.mark.parametrize("mode", ["default", "all", "search"])
def test_main_dictionary(tmp_path, reference, method, mode):
    """A dictionary in place of jieba's own does what jieba.set_dictionary does, for one count."""
    path = tmp_path / "main.txt"
    path.write_bytes("我们 9 r\n喝茶 5 v\n喝茶 7 v\n New 1\r\n茶去 0\n去New 3 x y z".encode())
    reference.dt.tmp_dir = str(tmp_path)
    reference.set_dictionary(str(path))
    cuts = {
        "default": reference.lcut,
        "all": lambda text: reference.lcut(text, cut_all=True),
        "search": reference.lcut_for_search,
    }
    counts = count_words(TEXTS, dictionary=path, method=method, mode=mode)
    assert counts == loop(cuts[mode])
    path.write_text("喝茶去 9\n", encoding="utf-8")
    assert count_words(TEXTS, dictionary=path, method=method)["喝茶去"] == 1
    assert jieba.dt.dictionary is None


@pytest.mark.parametrize(
    ("content", "doubts"),
    [
        ("好词 3 n\n\n词语 5x", ["line 3: jieba takes '词语 5x' for a word; it expects 'word', "]),
        ("词语 5 N", ["line 1: jieba takes '词语 5 N' for a word; it expects"]),
        ("词语  5", ["line 1: jieba takes '词语 ' for a word; it expects"]),
        (
            "词语 -5\n词 3.5 n",
            ["line 1 (and 1 more like it): jieba takes '词语 -5' for a"],
        ),
        ("词语\t5\tn", [r"line 1: jieba takes '词语\t5\tn' for a word, tab and all; between"]),
        (
            "# 注释\n#\n#x y",
            ["line 1 (and 2 more like it): jieba knows no comments: it takes"],
        ),
        (
            "New York 300 ns",
            ["line 1: jieba cuts a text at whatever jieba.re_han_default"],
        ),
        ("#话题 5\nc++\nAT&T 3 nz\n", []),
        ("\ufeff词语 5\n词语 5 n\r\n词语 n\n词语\n", []),
        ("《红楼梦》 5\n", ["line 1: jieba cuts a text at whatever"]),
    ],
)
def test_doubts(tmp_path, content, doubts):
    """What is surely not meant is said, a sentence for each kind with the first line of it."""
    path = tmp_path / "words.txt"
    path.write_text(content, encoding="utf-8")
    spec, found = doubted(user_dict=path)
    assert spec.dictionary is not None
    assert len(found) == len(doubts)
    for said, expected in zip(found, doubts, strict=True):
        assert said.startswith(f"user dictionary {str(path)!r}, {expected}")


def test_doubts_go_by_the_regular_expression(monkeypatch):
    """A word with a space is none where jieba was told to look for such."""
    assert doubted(user_dict=["New York"])[1]
    monkeypatch.setattr(jieba, "re_han_default", __import__("re").compile("(.+)"))
    assert not doubted(user_dict=["New York"])[1]


def test_mark_before_a_main_dictionary(tmp_path):
    """A byte order mark before a main dictionary is a part of its first word, which is said."""
    path = tmp_path / "main.txt"
    path.write_text("\ufeff喝茶 5\n我 3\n", encoding="utf-8")
    _, (said,) = doubted(dictionary=path)
    assert said.endswith("jieba takes for a part of the first word; save it without")
    with pytest.warns(UserWarning, match="byte order mark"):
        assert "喝茶" not in count_words(["喝茶"], dictionary=path, method="naive", hmm=False)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["好词", "词语 " + "9" * 5000], r"line 2: the frequency is too large"),
        ([b"\xba\xc3"], r"line 1: not UTF-8 \(invalid start byte, byte 0\)"),
        (["一\n二"], "line 1: .* is more than one line"),
        ([3], "line 1: expected a str or bytes, not a int"),
    ],
)
def test_what_jieba_fails_at(lines, problem):
    """What jieba cannot read is an error with the line."""
    with pytest.raises(OptionError, match=f"user dictionary, {problem}"):
        make_spec(user_dict=lines)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("好词 3\n坏词\n", "line 2: '坏词'; expected 'word frequency'"),
        ("好词 3\n\n", "line 2: ''; expected"),
        ("好词  3\n", "line 1: '好词  3'; expected"),
        ("好词\t3\n", r"line 1: '好词\\t3'; expected"),
        ("好词 " + "9" * 5000, "line 1: '好词 9"),
        ("", "line 1: ''; expected"),
        ("好词 9\n坏词 -5 n\n", "line 2: a frequency of -5; jieba takes the logarithm"),
        ("好词 0\n", "the frequencies add up to 0; jieba needs more than 0"),
    ],
)
def test_bad_main_dictionary(tmp_path, content, problem):
    """A main dictionary that jieba cannot read is an error with the line."""
    path = tmp_path / "main.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(OptionError, match=rf"^dictionary '.*main\.txt'(,|:) {problem}"):
        make_spec(dictionary=path)
    with pytest.raises(FileNotFoundError, match=r"^dictionary '.*no\.txt' does not exist"):
        make_spec(dictionary=tmp_path / "no.txt")


CHARACTERS = "茶水好a1 #"
WORDS = st.text(st.sampled_from(CHARACTERS + ".\t\u3000"), min_size=1, max_size=4)
MAIN = st.lists(
    st.tuples(st.text(st.sampled_from("茶水好a1"), min_size=1, max_size=3), st.integers(0, 50)),
    min_size=1,
    max_size=12,
)
USER = st.lists(
    st.tuples(
        st.sampled_from(["", "\ufeff", " "]),
        WORDS,
        st.sampled_from(["", " 0", " 3", " 70", "  5", "\t5", " -1", " 05"]),
        st.sampled_from(["", " n", " N", " nz "]),
        st.sampled_from(["", "\r"]),
    ).map("".join),
    max_size=8,
)


@pytest.fixture(scope="module")
def kernel():
    """The compiled kernel, loaded once."""
    return Compiled().load(Settings(make_spec())).kernel


@settings(max_examples=60, deadline=None)
@given(
    main=MAIN,
    user=USER,
    texts=st.lists(st.text(st.sampled_from(CHARACTERS + "。\r"), max_size=12), max_size=5),
    hmm=st.booleans(),
    mode=st.sampled_from(["default", "all", "search"]),
)
def test_any_dictionary(kernel, tmp_path_factory, main, user, texts, hmm, mode):
    """Whatever is in the dictionaries, every method counts what jieba gives with them."""
    content = "\n".join(f"{word} {frequency}" for word, frequency in [*main, ("茶", 1)])
    folder = tmp_path_factory.getbasetemp()
    path = folder / "main.txt"
    path.write_text(content, encoding="utf-8")
    lines = [line.encode() for line in user]
    copy = _copy()
    tokenizer = copy.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(io.BytesIO(content.encode()))
    tokenizer.initialized = True
    copy.finalseg.Force_Split_Words.clear()
    tokenizer.load_userdict(lines)
    if mode == "search":
        expected = loop(lambda text: tokenizer.lcut_for_search(text, HMM=hmm), texts)
    else:
        expected = loop(lambda text: tokenizer.lcut(text, mode == "all", hmm), texts)
    spec, _ = doubted(dictionary=path, user_dict=lines, mode=mode, hmm=hmm)
    engine = Engine(kernel, build_lexicon(kernel, tokenizer_with(spec)))
    for method in ("naive", "batched", "compiled"):
        counts = run(
            TextFeed(texts),
            Settings(spec, method=method),
            method=Compiled(engine) if method == "compiled" else None,
        )
        assert counts == expected, method


_held = threading.local()


def _copy():
    """Return a copy of jieba, the same one each time."""
    if not hasattr(_held, "copy"):
        _held.copy = import_copy()
    return _held.copy


def test_copies_leave_no_module():
    """A copy of jieba is nobody else's."""
    import_copy()
    assert not [name for name in sys.modules if name.startswith("_perftricks")]
