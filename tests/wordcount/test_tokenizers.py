from __future__ import annotations

import pickle
import subprocess
import sys

import jieba
import pytest

from perftricks.wordcount import OptionError, TokenizerError, count_words, tokenizers
from perftricks.wordcount.tokenizers import TokenizerSpec, WorkerSetup, make_spec
from tests.wordcount.conftest import naive

USER_DICT = "\ufeff云计算方面 5\n李小福 2 nr\n创新办 3 i\n\n大桥 0\n来到了 7 v\r\n台中\n"


@pytest.fixture
def user_dict(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(USER_DICT.encode())
    return path


def test_default_is_lcut(texts, expected):
    """The table equals the naive loop's over jieba.lcut, and so does its total."""
    counts = count_words(texts)
    assert counts == expected
    assert counts.tokens == sum(expected.values())
    assert counts.documents == len(texts)


def test_no_hmm(texts):
    """Without the HMM it equals lcut with HMM=False."""
    assert count_words(texts, hmm=False) == naive(texts, HMM=False)


def test_mode_all(texts):
    """Mode "all" equals lcut with cut_all=True, its empty tokens included."""
    counts = count_words(texts, mode="all")
    assert counts == naive(texts, cut_all=True)
    assert "" in counts


@pytest.mark.parametrize("hmm", [True, False])
def test_mode_search(texts, hmm):
    """Mode "search" equals lcut_for_search."""
    expected = {}
    for text in texts:
        for token in jieba.lcut_for_search(text, HMM=hmm):
            expected[token] = expected.get(token, 0) + 1
    assert count_words(texts, mode="search", hmm=hmm) == expected


@pytest.mark.parametrize("method", ["naive", "parallel"])
@pytest.mark.parametrize("hmm", [True, False])
def test_user_dictionary(texts, user_dict, method, hmm):
    """It equals what a fresh jieba gives that has loaded the dictionary."""
    program = (
        "import sys, warnings, pickle; warnings.simplefilter('ignore'); import jieba, collections\n"
        "jieba.setLogLevel('ERROR'); jieba.load_userdict(sys.argv[1])\n"
        "texts, hmm = pickle.load(sys.stdin.buffer); cut = jieba.lcut\n"
        "table = collections.Counter(t for x in texts for t in cut(x, HMM=hmm))\n"
        "pickle.dump(dict(table), sys.stdout.buffer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, user_dict],
        input=pickle.dumps((texts, hmm)),
        capture_output=True,
        check=True,
    )
    expected = pickle.loads(done.stdout)
    assert expected != naive(texts, HMM=hmm)
    assert count_words(texts, user_dict=user_dict, method=method, hmm=hmm) == expected


def test_user_dictionary_stays_apart(texts, user_dict, restored_jieba):
    """A user dictionary changes nothing for other users of jieba, forced splits included."""
    before = jieba.lcut("南京市长江大桥")
    count_words(texts, user_dict=user_dict, method="naive")
    assert (jieba.dt.FREQ, jieba.dt.total) == restored_jieba[:2]
    assert jieba.finalseg.Force_Split_Words == restored_jieba[2]
    assert jieba.lcut("南京市长江大桥") == before
    assert not [name for name in sys.modules if name.startswith("_perftricks")]


def test_changed_user_dictionary(tmp_path):
    """A dictionary that has changed since the last call is read again."""
    path = tmp_path / "words.txt"
    for words, expected in (("喝茶去 9", ["喝茶去"]), ("茶去 99999", ["喝", "茶去"])):
        path.write_text(words, encoding="utf-8")
        assert sorted(count_words(["喝茶去"], user_dict=path)) == sorted(expected)


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_changed_jieba(texts, restored_jieba, start_method):
    """Words that the caller added to jieba or took out of it count, however workers start."""
    jieba.add_word("他来到了", 99999)
    jieba.del_word("杭研")
    assert count_words(texts, method="parallel", workers=2, start_method=start_method) == naive(
        texts
    )


def test_missing_dictionary(tmp_path):
    """A dictionary that is not there is named as such."""
    with pytest.raises(FileNotFoundError, match=r"user dictionary '.*no\.txt' does not exist"):
        make_spec(user_dict=tmp_path / "no.txt")
    with pytest.raises(
        PermissionError, match=r"user dictionary '.*' cannot be read: is a directory"
    ):
        make_spec(user_dict=tmp_path)


def test_chars_and_whitespace():
    """Characters are tokens as they are; whitespace splits as str.split does."""
    texts = ["茶 茶\u3000ok\r", ""]
    assert count_words(texts, tokenizer="chars") == {
        "茶": 2,
        " ": 1,
        "\u3000": 1,
        "o": 1,
        "k": 1,
        "\r": 1,
    }
    assert count_words(texts, tokenizer="whitespace") == {"茶": 2, "ok": 1}


@pytest.mark.parametrize("method", ["batched", "parallel"])
def test_own_tokenizer(method):
    """A function will do, a lambda or generator too, and so will module:function."""
    texts = ["a,b", "a"]
    expected = {"a": 2, "b": 1}
    assert count_words(texts, tokenizer=lambda text: text.split(","), method=method) == expected
    assert count_words(texts, tokenizer=split_slowly, method=method) == expected
    name = "tests.wordcount.test_tokenizers:split_slowly"
    counts = count_words(texts, tokenizer=name, method=method)
    assert counts == expected
    assert counts.run.tokenizer == name


def split_slowly(text):
    yield from text.split(",")


@pytest.mark.parametrize("method", ["batched", "parallel"])
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda text: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda text: text, "TypeError: it returned a str, not an iterable of tokens"),
        (lambda text: [text, 3], "TypeError: it returned 3 as a token; expected a str"),
        (lambda text: None, "TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_own_tokenizer_fails(method, function, problem):
    """A tokenizer that fails is named with the document and the reason."""
    with pytest.raises(TokenizerError) as caught:
        count_words(["喝茶"], tokenizer=function, method=method)
    message = str(caught.value)
    assert "<lambda>' failed on a document that starts with '喝茶'" in message
    assert message.endswith(problem)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nosuchmodule:cut", "module 'nosuchmodule' cannot be imported: ModuleNotFoundError"),
        ("tests.wordcount.conftest:nothing", "module 'tests.wordcount.conftest' has no 'nothing'"),
        ("tests.wordcount.conftest:PIECES", "is no function but of type list"),
        (":cut", "module '' cannot be imported: ValueError"),
        ("os:", "module 'os' has no ''"),
        ("jeiba", "tokenizer must be jieba, chars, whitespace, module:function or a function"),
        (jieba.Tokenizer(), "tokenizer must be .*; give its method lcut"),
        (["jieba"], "tokenizer must be jieba, chars, whitespace, module:function or a function"),
    ],
)
def test_unknown_tokenizer(name, problem):
    """A tokenizer that cannot be had is an error before anything is counted."""
    with pytest.raises(OptionError, match=problem):
        count_words(iter([]), tokenizer=name)


def test_options_of_jieba():
    """Options of jieba's with another tokenizer are a contradiction, unknown modes an error."""
    for options in (
        {"mode": "all"},
        {"hmm": False},
        {"user_dict": "words.txt"},
        {"dictionary": "words.txt"},
    ):
        with pytest.raises(OptionError, match="is an option of jieba's; the tokenizer is 'chars'"):
            make_spec("chars", **options)
    with pytest.raises(OptionError, match="mode must be default, all or search, not 'full'"):
        make_spec(mode="full")


def test_spec_is_small():
    """What is sent with the work does not hold the dictionary of jieba."""
    assert len(pickle.dumps(TokenizerSpec())) < 1000
    assert WorkerSetup(make_spec("chars")).__reduce__()[1][1] is None


def test_jieba_is_quiet(capfd, user_dict, texts):
    """Nothing of jieba's messages reaches the screen."""
    tokenizers._kept_tokenizer.cache_clear()
    count_words(texts, user_dict=user_dict)
    assert capfd.readouterr() == ("", "")
