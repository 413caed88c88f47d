"""What a program has replaced in jieba holds in every method, or the method steps aside."""

from __future__ import annotations

import copy
import math
import py_compile
import re
import subprocess
import sys
import threading
import types
import warnings
from importlib import metadata
from pathlib import Path

import jieba
import jieba.posseg
import pytest
from jieba import finalseg

from perftricks.parallel import ParallelError
from perftricks.wordcount import OptionError, TokenizerError, count_words, jieba_state
from perftricks.wordcount.methods.batched import Batched
from perftricks.wordcount.methods.compiled import Compiled
from perftricks.wordcount.tokenizers import WorkerSetup, make_spec
from perftricks.wordcount.versions import version_of
from tests.wordcount.conftest import naive

SPACED = ["我的Apple Macbook很贵", "New York 和 c++ 与 a-b", "苹果 电脑"]
WORDS = ["Apple Macbook", "New York", "苹果 电脑"]

ORIGINAL_CALC = jieba.Tokenizer.calc
ORIGINAL_CUT = jieba.Tokenizer.cut


@pytest.fixture(autouse=True)
def small_jieba(texts):
    """Leave jieba the words that the texts can hold, and put it back to what it was at the end."""
    jieba.dt.check_initialized()
    spaces = [jieba, finalseg, jieba.posseg]
    before = [(space, dict(vars(space))) for space in spaces]
    methods = dict(vars(jieba.Tokenizer))
    own = dict(vars(jieba.dt))
    words, emission = dict(jieba.dt.FREQ), copy.deepcopy(finalseg.emit_P)
    forced = set(finalseg.Force_Split_Words)
    characters = set("".join([*texts, *SPACED, "清华大学"]))
    jieba.dt.FREQ = {w: f for w, f in words.items() if characters.issuperset(w)}
    yield
    for space, names in before:
        vars(space).clear()
        vars(space).update(names)
    for name, value in methods.items():
        if isinstance(value, (types.FunctionType, staticmethod)):
            setattr(jieba.Tokenizer, name, value)
    vars(jieba.dt).clear()
    vars(jieba.dt).update(own)
    jieba.dt.FREQ = words
    finalseg.emit_P.update(emission)
    finalseg.Force_Split_Words.clear()
    finalseg.Force_Split_Words.update(forced)


def words_with_spaces():
    """Do what answers to questions about words with spaces advise."""
    jieba.re_han_default = re.compile("(.+)", re.U)
    for word in WORDS:
        jieba.add_word(word)


def spaces_in_blocks():
    jieba.re_han_default = re.compile("([\u4e00-\u9fd5a-zA-Z0-9+#&\\._%\\-\\ ]+)", re.U)
    for word in WORDS:
        jieba.add_word(word)


def blocks_without_hyphen():
    jieba.re_han_default = re.compile("([\u4e00-\u9fd5a-zA-Z0-9+#&\\._%]+)", re.U)


def skip_in_ascii():
    jieba.re_skip_default = re.compile("(\r\n|\\s)", re.ASCII)


def letters_of_any_case():
    jieba.re_eng = re.compile("[a-z]", re.IGNORECASE)


def narrow_hmm():
    finalseg.re_han = re.compile("([\u4e00-\u6fff]+)")


def other_numbers():
    finalseg.re_skip = re.compile("([a-z]+|\\d+)")


class Slices:
    """An object that does what jieba asks of a regular expression."""

    def split(self, text):
        """Cut behind two characters."""
        return [text[:2], text[2:]]

    def match(self, text):
        """Whether it starts with a letter or digit."""
        return text[:1].isalnum()


def no_pattern_at_all():
    jieba.re_han_default = Slices()


def emissions():
    finalseg.emit_P["S"]["杭"] = -0.1


def transitions():
    finalseg.trans_P = {**finalseg.trans_P, "B": {"E": -5.0, "M": -0.01}}


def floor():
    finalseg.MIN_FLOAT = -20.0


def previous():
    finalseg.PrevStatus = {**finalseg.PrevStatus, "E": "MB", "B": "E"}


def added_and_deleted():
    jieba.add_word("他来到了", 99999)
    jieba.del_word("大桥")
    jieba.suggest_freq(("中", "国"), tune=True)


class Words(dict):
    """Words that are not kept as jieba keeps them."""

    def get(self, word, default=None):
        """Give two characters a frequency in any case."""
        return 1 if len(word) == 2 else super().get(word, default)


def words_of_another_kind():
    jieba.dt.FREQ = Words(jieba.dt.FREQ)


def calc():
    def shortest(self, sentence, dag, route):
        ORIGINAL_CALC(self, sentence, dag, route)
        for start in dag:
            route[start] = (0, min(dag[start]))

    jieba.Tokenizer.calc = shortest


def importable_cut(self, sentence, *arguments, **options):
    """Cut as jieba does, each token in capitals."""
    return [token.upper() for token in ORIGINAL_CUT(self, sentence, *arguments, **options)]


def cut():
    jieba.Tokenizer.cut = importable_cut


def private_method():
    jieba.Tokenizer._Tokenizer__cut_DAG = lambda self, sentence: iter(sentence)


def a_method_for_another():
    jieba.Tokenizer._Tokenizer__cut_DAG = jieba.Tokenizer._Tokenizer__cut_DAG_NO_HMM


def of_one_tokenizer():
    jieba.dt.get_DAG = lambda sentence: {k: [k] for k in range(len(sentence))}


def decoding():
    jieba.strdecode = str.lower


def hmm():
    finalseg.cut = lambda sentence: [sentence]


def viterbi():
    finalseg.viterbi = lambda obs, states, start_p, trans_p, emit_p: (0, ["S"] * len(obs))


def lcut():
    jieba.lcut = lambda text, **options: text.split("的")


class Lower(jieba.Tokenizer):
    """A tokenizer of the program's own."""

    def cut(self, sentence, *arguments, **options):
        """Cut as jieba does, and write small."""
        for token in super().cut(sentence, *arguments, **options):
            yield token.lower()


def small_tokenizer(kind):
    """Return a tokenizer with the words of jieba.dt and one more."""
    tokenizer = kind()
    tokenizer.FREQ, tokenizer.total = dict(jieba.dt.FREQ), jieba.dt.total
    tokenizer.initialized = True
    tokenizer.add_word("他来到了", 99999)
    return tokenizer


def subclass():
    jieba.dt = small_tokenizer(Lower)
    jieba.lcut = jieba.dt.lcut


def another_tokenizer():
    jieba.dt = small_tokenizer(jieba.Tokenizer)
    jieba.lcut = jieba.dt.lcut


def unused_tokenizer():
    """Replace what jieba.lcut does not look at."""
    jieba.dt = Lower()
    jieba.cut = lambda text: text.split()


# Which of them do not show in the texts here.
UNSEEN = (floor, blocks_without_hyphen, skip_in_ascii, letters_of_any_case, unused_tokenizer)

# Which of them the kernel can count as well.
DATA = [
    spaces_in_blocks,
    blocks_without_hyphen,
    emissions,
    transitions,
    floor,
    added_and_deleted,
    unused_tokenizer,
]
OTHER = [
    words_with_spaces,
    skip_in_ascii,
    letters_of_any_case,
    other_numbers,
    no_pattern_at_all,
    previous,
    words_of_another_kind,
    calc,
    cut,
    private_method,
    a_method_for_another,
    of_one_tokenizer,
    decoding,
    hmm,
    viterbi,
    lcut,
    subclass,
    another_tokenizer,
]


def always_parallel(monkeypatch):
    """Let the method be chosen as for a long text."""
    monkeypatch.setattr(Batched, "estimate", lambda *given: math.inf)
    monkeypatch.setattr(Compiled, "why_not_now", lambda *given: None)


@pytest.mark.parametrize("change", [*DATA, narrow_hmm, *OTHER], ids=lambda change: change.__name__)
def test_replaced(texts, change, monkeypatch):
    """The loop over jieba.lcut, however it was changed, is what all methods give or refuse."""
    always_parallel(monkeypatch)
    texts = [*texts[:60], *SPACED]
    before = naive(texts)
    change()
    expected = naive(texts)
    assert (expected == before) == (change in UNSEEN)
    assert count_words(texts, method="batched") == expected
    for start_method in ("fork", "spawn"):
        counts = count_words(texts, method="parallel", workers=1, start_method=start_method)
        assert counts == expected
    if change in DATA:
        assert count_words(texts, method="compiled") == expected
    elif change in OTHER and change is not another_tokenizer:
        with pytest.raises(OptionError, match="method 'compiled' cannot be used: ") as caught:
            count_words(texts, method="compiled")
        reason = str(caught.value).partition("used: ")[2]
        counts = count_words(texts, workers=2, start_method="fork")
        assert counts == expected
        assert (counts.run.method, counts.run.note) == ("parallel", reason)


@pytest.mark.parametrize("change", [words_with_spaces, cut, subclass])
def test_replaced_and_a_fork_server(texts, change):
    """A worker of the fork server has it too."""
    change()
    counts = count_words(texts, method="parallel", workers=1, start_method="forkserver")
    assert counts == naive(texts)


@pytest.mark.parametrize("mode", ["all", "search"])
@pytest.mark.parametrize("change", [spaces_in_blocks, words_with_spaces, added_and_deleted, cut])
def test_replaced_in_other_modes(texts, mode, change):
    """Every mode sees it."""
    change()
    texts = [*texts, *SPACED]
    expected = {}
    for text in texts:
        tokens = jieba.lcut(text, cut_all=True) if mode == "all" else jieba.lcut_for_search(text)
        for token in tokens:
            expected[token] = expected.get(token, 0) + 1
    methods = ["naive", "batched", "compiled"] if change in DATA else ["naive", "batched"]
    for method in methods:
        assert count_words(texts, mode=mode, method=method) == expected
    options = {"mode": mode, "method": "parallel", "workers": 1}
    assert count_words(texts, start_method="spawn", **options) == expected


def test_two_tokenizers(texts):
    """A tokenizer that serves one of the two functions only is not taken for both."""
    tokenizer = small_tokenizer(jieba.Tokenizer)
    jieba.lcut_for_search = tokenizer.lcut_for_search
    assert count_words(texts) == naive(texts)
    expected = {}
    for text in texts:
        for token in jieba.lcut_for_search(text):
            expected[token] = expected.get(token, 0) + 1
    assert count_words(texts, mode="search") == expected
    with pytest.raises(OptionError, match=r"has replaced jieba\.lcut_for_search"):
        count_words(texts, mode="search", method="compiled")


def test_what_cannot_be_sent(texts, monkeypatch):
    """What no other process can have is counted by the caller, or the method is refused."""
    lock = threading.Lock()

    def guarded(self, sentence, dag, route):
        with lock:
            ORIGINAL_CALC(self, sentence, dag, {})
        for start in range(len(sentence) + 1):
            route[start] = (0, start)

    jieba.Tokenizer.calc = guarded
    always_parallel(monkeypatch)
    counts = count_words(texts, workers=2)
    assert counts == naive(texts)
    assert counts.run.method == "batched"
    assert counts.run.note.startswith(
        "this program has replaced jieba.Tokenizer.calc; not parallel"
    )
    assert "cannot be sent to a fresh process: cannot pickle '_thread.lock' object" in (
        counts.run.note
    )
    assert count_words(texts, workers=2, start_method="fork").run.method == "parallel"
    with pytest.raises(OptionError, match=r"jieba\.Tokenizer\.calc cannot be sent .*'batched'"):
        count_words(texts, method="parallel", start_method="spawn")


def test_refused_when_a_worker_starts(monkeypatch, texts):
    """It is refused too where only the start of a worker shows that it is a fresh one."""
    jieba.Tokenizer.calc = types.MethodType(lambda *arguments: None, threading.Lock())
    monkeypatch.setattr(type(make_spec()), "why_it_stays", lambda spec: None)
    with pytest.raises((ParallelError, TypeError), match=r"calc, which cannot be sent"):
        count_words(texts, method="parallel", workers=1, start_method="spawn")


def test_replaced_in_the_worker_only():
    """A worker in which something else is replaced than in the caller says so."""
    state = jieba_state.dump_state()
    jieba.strdecode = str.lower
    with pytest.raises(TokenizerError, match=r"worker jieba\.strdecode of jieba"):
        jieba_state.restore_state(state)


def every_character(self, sentence):
    """Do what jieba.Tokenizer.get_DAG does where no word is known."""
    return {start: [start] for start in range(len(sentence))}


def test_code_of_another(texts, monkeypatch):
    """Another code in one of jieba's functions counts, or is refused where it cannot be sent."""
    monkeypatch.setattr(jieba.Tokenizer.get_DAG, "__code__", every_character.__code__)
    expected = naive(texts)
    assert count_words(texts, method="parallel", workers=1, start_method="fork") == expected
    with pytest.raises(OptionError, match=r"has replaced jieba\.Tokenizer\.get_DAG"):
        count_words(texts, method="compiled")
    with pytest.raises(TokenizerError, match="in this worker nothing of jieba is replaced, in"):
        count_words(texts, method="parallel", workers=1, start_method="spawn")


def test_another_module_in_its_place(monkeypatch, texts):
    """Where another module was put in jieba's place, it counts, but not in fresh workers."""
    other = types.ModuleType("jieba_of_mine")
    other.lcut = other.lcut_for_search = lambda text, **options: list(text)
    other.__version__ = "0.42.1"
    monkeypatch.setitem(sys.modules, "jieba", other)
    assert count_words(["喝茶"]) == {"喝": 1, "茶": 1}
    for method, options in (("compiled", {}), ("parallel", {"start_method": "spawn"})):
        with pytest.raises(OptionError, match="jieba itself, by jieba_of_mine"):
            count_words(["喝茶"], method=method, **options)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_functions_that_use_jieba(texts, start_method):
    """A function that uses jieba finds it in a worker as it is in the caller."""
    words_with_spaces()
    jieba.Tokenizer.cut = importable_cut
    expected = naive(texts)
    options = {"method": "parallel", "workers": 1, "start_method": start_method}
    assert count_words(texts, tokenizer=lambda text: jieba.lcut(text), **options) == expected
    lcut = jieba.lcut
    assert count_words(texts, tokenizer=lambda text: lcut(text), **options) == expected


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_tagged_words(texts, start_method):
    """So does one that uses jieba.posseg."""
    jieba.add_word("他来到了", 99999, "mine")
    jieba.posseg.lcut("先用一次")  # which moves the tags from jieba's table to its own

    def mine(text):
        return [word for word, tag in jieba.posseg.lcut(text) if tag in ("mine", "ns")]

    counts = count_words(
        texts, tokenizer=mine, method="parallel", workers=1, start_method=start_method
    )
    assert counts == count_words(texts, tokenizer=mine, method="naive")
    assert counts["他来到了"] > 0


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", [jieba.Tokenizer, Lower])
def test_method_of_a_tokenizer(texts, start_method, kind):
    """A tokenizer of jieba's with words of its own travels, by its method or in a function."""
    tokenizer = small_tokenizer(kind)
    options = {"method": "parallel", "workers": 1, "start_method": start_method}
    expected = count_words(texts, tokenizer=tokenizer.lcut, method="naive")
    assert expected["他来到了"] > 0
    assert count_words(texts, tokenizer=tokenizer.lcut, **options) == expected
    if kind is jieba.Tokenizer:
        closure = count_words(texts, tokenizer=lambda text: tokenizer.lcut(text), **options)
        assert closure == expected


def test_user_dictionary_beside_what_was_changed(texts, tmp_path):
    """A user dictionary is used beside what the program has done to jieba, in every method."""
    path = tmp_path / "words.txt"
    path.write_text("苹果 电脑 9 n\n来到了 99999 v\n", encoding="utf-8")
    spaces_in_blocks()
    jieba.add_word("我的Apple", 1)
    jieba.del_word("大桥")
    texts = [*texts, *SPACED]
    results = [count_words(texts, user_dict=path, method=m) for m in ("naive", "compiled")]
    options = {"user_dict": path, "method": "parallel", "workers": 1}
    results += [count_words(texts, start_method=start, **options) for start in ("fork", "spawn")]
    assert naive(texts) != results[0]
    with open(path, "rb") as file:
        jieba.load_userdict(file)
    assert all(result == naive(texts) for result in results)
    assert results[0]["苹果 电脑"] == 1


def test_user_dictionary_and_functions(tmp_path):
    """A dictionary for one count is refused where jieba's functions are the program's."""
    path = tmp_path / "words.txt"
    path.write_text("好词 9\n", encoding="utf-8")
    cut()
    for name in ("user_dict", "dictionary"):
        with pytest.raises(OptionError, match=r"replaced jieba\.Tokenizer\.cut.*load_userdict"):
            make_spec(**{name: path})


def test_small_functions_need_no_jieba():
    """Tokenizers that do not use jieba take nothing of it along."""
    assert WorkerSetup(make_spec("chars")).__reduce__()[1][1] is None


FRESH = """
import sys, warnings; warnings.simplefilter("ignore")
import jieba
from jieba import finalseg
from perftricks.wordcount import count_words, jieba_state
jieba.setLogLevel("ERROR")
{change}
print(jieba_state.is_untouched())
texts = ["他来到了网易杭研大厦", "小明硕士毕业于中国科学院计算所"]
counts = [count_words(texts, method=method) for method in ("compiled", "naive")]
tokens = [token for text in texts for token in jieba.lcut(text)]
print(all(count == {{t: tokens.count(t) for t in tokens}} for count in counts))
"""


@pytest.mark.parametrize(
    ("change", "untouched"),
    [
        ("", True),
        ("finalseg.emit_P['S']['杭'] = -0.1", False),
        ("finalseg.start_P = {**finalseg.start_P, 'S': -99.0}", False),
        ("finalseg.Force_Split_Words.add('网易')", False),
        ("jieba.Tokenizer.gen_pfdict = staticmethod(lambda file: ({'他来到': 5}, 9))", False),
        ("jieba.dt.tmp_dir = sys.argv[1]", False),
    ],
)
def test_before_jieba_is_used(tmp_path, change, untouched):
    """What is changed before the dictionary is loaded counts; no cached tables hide it."""
    program = FRESH.format(change=change)
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(untouched), "True"], done.stderr


def test_without_sources(tmp_path):
    """Where modules come without their sources, as in a frozen application, nothing is replaced."""
    source = Path(jieba.__file__).parent
    for path in [*source.glob("*.py"), *(source / "finalseg").glob("*.py")]:
        target = tmp_path / "jieba" / path.relative_to(source).with_suffix(".pyc")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its source
            py_compile.compile(str(path), str(target), dfile=f"jieba/{path.name}", doraise=True)
    (tmp_path / "jieba" / "dict.txt").write_text("我们 9 r\n喝茶 9 v\n下午 9 t\n", encoding="utf-8")
    program = f"""
import sys, types
sys.path.insert(0, {str(tmp_path)!r})
import jieba, jieba.finalseg
assert jieba.__file__.endswith(".pyc")
from perftricks.wordcount import count_words, jieba_state
jieba.setLogLevel(60)
jieba.dt.tmp_dir = {str(tmp_path)!r}
assert jieba_state.replaced_functions() == []
assert count_words(["我们下午喝茶"]) == dict.fromkeys(jieba.lcut("我们下午喝茶"), 1)
assert count_words(["我们下午喝茶"], user_dict=["下午喝茶 99"]) == {{"我们": 1, "下午喝茶": 1}}
code = compile("lambda sentence: [sentence]", "other.py", "eval").co_consts[0]
own = jieba.finalseg.cut
jieba.finalseg.cut = types.FunctionType(code.replace(co_name="cut"), vars(jieba.finalseg), "cut")
jieba.finalseg.cut.__qualname__ = "cut"
assert jieba_state.replaced_functions() == ["jieba.finalseg.cut"]
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_without_metadata(monkeypatch):
    """A package says its version where its metadata are missing."""
    monkeypatch.setattr(metadata, "version", raising(metadata.PackageNotFoundError))
    assert version_of("jieba") == jieba.__version__
    with pytest.raises(ImportError):
        version_of("no_such_package")


def raising(error):
    def function(name):
        raise error(name)

    return function
