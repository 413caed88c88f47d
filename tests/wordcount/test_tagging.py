"""Tokens with part-of-speech tags: a loop over ``jieba.posseg.lcut`` says what is exact."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter

import jieba
import jieba.posseg
import pytest

from perftricks.wordcount import (
    OptionError,
    WordCounts,
    count_files,
    count_words,
    merge_tables,
    read_table,
    write_table,
)
from perftricks.wordcount.tagging import known_tags, parse_tags, posseg_tokenizer, tagger
from perftricks.wordcount.tokenizers import make_spec

METHODS = ("naive", "batched", "parallel", "compiled")
WITHOUT_KERNEL = METHODS[:3]


def tagged(texts, lcut=jieba.posseg.lcut, **options):
    """The loop that defines what is exact."""
    return Counter((word, flag) for text in texts for word, flag in lcut(text, **options))


@pytest.fixture(scope="module")
def hard(texts):
    """Documents with rare characters, so that every way through the model is taken."""
    generator = random.Random(7367)
    characters = [
        *jieba.posseg.char_state_tab_P,
        *"㐀㐁龥鿕Aa1.%-/ \t",
        *(chr(n) for n in range(0x4E00, 0x4F00)),
    ]
    return [
        *texts,
        *("".join(generator.choices(characters, k=generator.randrange(9))) for _ in range(25)),
        "w/o n/a 和/或 他/她",
        "\r\n行\r尾",
    ]


@pytest.fixture(scope="module")
def expected_tags(hard):
    """What the loop counts."""
    return tagged(hard)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_counts_what_the_loop_counts(hard, expected_tags, method):
    """Words, tags and counts are those of ``jieba.posseg.lcut``."""
    counts = count_words(hard, pos=True, method=method)
    assert counts == expected_tags
    assert counts.run.method == method
    assert counts.are_tagged
    assert not counts.are_ngrams


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_workers_of_every_kind(hard, expected_tags, start_method):
    """Fresh workers cut and tag as forked ones do."""
    options = {"method": "parallel", "workers": 2, "start_method": start_method}
    assert count_words(hard, pos=True, **options) == expected_tags


@pytest.mark.parametrize("method", WITHOUT_KERNEL)
def test_without_the_model(hard, method):
    """``hmm=False`` is ``HMM=False``."""
    assert count_words(hard, pos=True, hmm=False, method=method) == tagged(hard, HMM=False)


def test_a_document_has_the_same_pairs_in_the_same_order(hard):
    """What remembers gives the sequence that jieba gives, also the second time."""
    cut = tagger(posseg_tokenizer(), hmm=True, plain=False)
    for text in [*hard, *hard]:
        assert cut(text) == [(word, flag) for word, flag in jieba.posseg.lcut(text)]


@pytest.mark.parametrize(
    ("pos", "keeps"),
    [
        ("n", {"n"}.__contains__),
        (("n", "v"), {"n", "v"}.__contains__),
        ("n*", lambda flag: flag.startswith("n")),
        (["v*", "ns"], lambda flag: flag.startswith("v") or flag == "ns"),
        ("all", lambda flag: True),
        ("*", lambda flag: True),
    ],
)
def test_tags_to_keep(texts, pos, keeps):
    """A tag means itself alone, as in jieba's allowPOS; a family is asked for."""
    found = count_words(texts, pos=pos)
    expected = tagged(texts)
    assert found == {key: count for key, count in expected.items() if keeps(key[1])}
    assert found.tokens == sum(expected.values())


def test_documents_are_counted_for_each_token_and_tag(texts):
    """A word with two tags has two document frequencies; the kernel steps aside, and says so."""
    with pytest.raises(OptionError, match="documents"):
        count_words(texts, pos=True, document_frequency=True, method="compiled")
    found = count_words(texts, pos=True, document_frequency=True).document_frequency
    assert found == Counter(
        pair for text in texts for pair in {(w, f) for w, f in jieba.posseg.lcut(text)}
    )


def test_other_filters_look_at_the_token_alone(texts):
    """Stop words, lengths and letters are those of the token, not of its tag."""
    found = count_words(texts, pos=True, stop_words=["大桥"], min_length=2, words_only=True)
    assert found == {
        (word, flag): count
        for (word, flag), count in tagged(texts).items()
        if word != "大桥" and len(word) >= 2 and any(map(str.isalpha, word))
    }


def test_a_user_dictionary_with_tags(texts, tmp_path):
    """Words and tags are those of jieba with that dictionary, and nobody else sees them."""
    path = tmp_path / "user.txt"
    path.write_text("网易杭研 100 nt\n云计算 mine\n创新办 5\n中国科学院 x\n", encoding="utf-8")
    before = tagged(texts)
    own = jieba.Tokenizer()
    with path.open("rb") as file:
        own.load_userdict(file)
    reference = jieba.posseg.POSTokenizer(own).lcut
    for method, again in itertools.product(METHODS, range(2)):
        found = count_words(texts, pos=True, user_dict=path, method=method)
        assert found == tagged(texts, reference), again
    assert found["云计算", "mine"]
    assert found == count_words(
        texts, pos="all", user_dict=path, method="parallel", start_method="spawn"
    )
    assert count_words(texts, pos="mine", user_dict=path) == {
        ("云计算", "mine"): found["云计算", "mine"]
    }
    assert tagged(texts) == before


def test_a_dictionary_in_place_of_jiebas_own(texts, tmp_path):
    """Its tags are the ones that count."""
    path = tmp_path / "dict.txt"
    path.write_text("南京市 9 place\n长江 7 river\n大桥 7 thing\n的 100 of\n", encoding="utf-8")
    reference = jieba.posseg.POSTokenizer(jieba.Tokenizer(str(path))).lcut
    found = count_words(texts, pos=True, dictionary=path)
    assert found == tagged(texts, reference)
    assert found["长江", "river"]


def test_a_dictionary_without_tags_is_refused(tmp_path):
    """jieba.posseg cannot read it either."""
    path = tmp_path / "dict.txt"
    path.write_text("南京市 9\n", encoding="utf-8")
    with pytest.raises(OptionError, match="no tag"):
        count_words(["南京市"], pos=True, dictionary=path)


CHANGED = """
import warnings
warnings.simplefilter("ignore")
import collections, io, re, jieba, jieba.posseg
jieba.setLogLevel(60)
from perftricks.wordcount import count_words

texts = ["云计算方面的专家来到了网易杭研大厦C++吃了螃蟹"] * 3

def tagged():
    return collections.Counter((w, f) for text in texts for w, f in jieba.posseg.lcut(text))

def check(methods=("batched", "parallel-fork", "parallel-spawn", "compiled")):
    for name in methods:
        method, _, start = name.partition("-")
        found = count_words(texts, pos=True, method=method, start_method=start or None)
        assert found == tagged(), (name, found, tagged())

if __name__ == "__main__":
    plain = tagged()
    {change}
    assert tagged() != plain
    check({methods})
"""


@pytest.mark.parametrize(
    "change",
    [
        'jieba.load_userdict(io.BytesIO("网易杭研 100 mine".encode()))',
        'jieba.add_word("云计算", tag="mine")',
        'jieba.posseg.dt.word_tag_tab["专家"] = "who"',
        "jieba.posseg.dt = jieba.posseg.POSTokenizer(jieba.Tokenizer()); "
        'jieba.posseg.dt.tokenizer.add_word("网易杭研", 1000, "nt"); '
        'jieba.posseg.dt.lcut("先用一次")',
    ],
)
def test_what_a_program_has_changed_holds_in_every_worker(change):
    """Words, tags and patterns are data, which travel."""
    run_changed(change)


@pytest.mark.parametrize(
    "change",
    [
        'jieba.posseg.re_han_internal = re.compile("([\\u4e00-\\u9fd5]+)")',
        'jieba.posseg.re_han_detail = re.compile("(吃+)")',
    ],
)
def test_patterns_that_were_replaced_hold_in_every_worker(change):
    """The kernel steps aside."""
    run_changed(change, ("batched", "parallel-fork", "parallel-spawn"))


@pytest.mark.parametrize(
    "change",
    [
        'jieba.posseg.lcut = lambda text, **options: [jieba.posseg.pair(text, "all")]',
        'jieba.posseg.viterbi = lambda obs, *rest: (0.0, [("S", "one")] * len(obs))',
    ],
)
def test_functions_that_were_replaced_hold_here_and_in_forks(change):
    """A fresh worker does not have them, so that it is not used."""
    run_changed(change, ("naive", "batched", "parallel-fork"))


def run_changed(change, methods=("batched", "parallel-fork", "parallel-spawn", "compiled")):
    """Run a program that changes jieba.posseg, and counts."""
    program = CHANGED.replace("{change}", change).replace("{methods}", repr(methods))
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_fresh_worker_is_refused_what_it_cannot_have(monkeypatch):
    """The reason is said."""
    monkeypatch.setattr(jieba.posseg, "viterbi", lambda *_: (0.0, []))
    with pytest.raises(OptionError, match=r"jieba\.posseg\.viterbi"):
        count_words(["茶"], pos=True, method="parallel", start_method="spawn")


def test_jieba_with_processes_of_its_own(texts, expected_tags, hard):
    """``jieba.enable_parallel`` changes nothing, here or in workers."""
    jieba.enable_parallel(2)
    try:
        for method in METHODS:
            assert count_words(hard, pos=True, method=method) == expected_tags
    finally:
        jieba.disable_parallel()


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.json", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("document_frequency", [False, True])
def test_files_have_a_column_of_tags(hard, tmp_path, name, document_frequency):
    """A table is read back with its tags, and adds up with others."""
    if name.endswith(("parquet", "arrow")):
        pytest.importorskip("pyarrow")
    texts = [text for text in hard if text.isprintable() or name.endswith(("tsv", "csv", "json"))]
    counts = count_words(texts, pos=True, document_frequency=document_frequency)
    write_table(tmp_path / name, counts)
    back = read_table(tmp_path / name)
    assert back == counts
    assert back.are_tagged
    assert list(back.rows()) == list(counts.rows())
    write_table(tmp_path / "b.json", counts)
    both = merge_tables([tmp_path / name, tmp_path / "b.json"], pos="n*", stop_words=["大桥"])
    assert both == {
        key: 2 * count
        for key, count in counts.items()
        if key.tag.startswith("n") and key.token != "大桥"
    }


def test_tables_look_as_said(tmp_path):
    """The columns are token, tag and count."""
    counts = count_words(["他/她，吃吃", 'say "x" y'], pos=True)
    for name in ("a.tsv", "a.csv", "a.json"):
        write_table(tmp_path / name, counts)
    assert (
        (tmp_path / "a.tsv").read_text(encoding="utf-8").startswith("token\ttag\tcount\n \tx\t2\n")
    )
    assert '\n"""",x,2\n' in (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert '{"token": "\\"", "tag": "x", "count": 2}' in (tmp_path / "a.json").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "token\ttag\tcount\n茶\tn\n"),
        ("a.tsv", "token\ttag\tcount\n茶\tn\tmany\n"),
        ("a.csv", "token,tag,count\n茶,n\n"),
        ("a.json", '[{"token": "茶", "tag": 1, "count": 1}]'),
        ("a.json", '[{"token": "茶", "tag": "n", "count": -1}]'),
    ],
)
def test_damaged_tables_are_no_tables(tmp_path, name, content):
    """The error names the file."""
    from perftricks.wordcount import CorpusError

    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"not a (row of a )?table"):
        read_table(tmp_path / name)


def test_a_table_that_outgrows_its_memory_keeps_its_tags(hard, expected_tags, tmp_path):
    """So does one that is saved, or pickled."""
    import pickle

    counts = count_words(hard, pos=True, memory_limit=200_000)
    assert dict(counts.most_common()) == expected_tags
    assert next(counts.rows())[0].tag == "x"
    counts = count_words(hard, pos=True)
    counts.save(tmp_path / "saved")
    loaded = WordCounts.load(tmp_path / "saved")
    assert loaded.are_tagged
    assert loaded == expected_tags
    assert pickle.loads(pickle.dumps(loaded)).are_tagged


def test_sums_are_of_one_kind(texts):
    """Tables with tags add up with such, and with no others."""
    one, other = count_words(texts[:90], pos=True), count_words(texts[90:], pos=True)
    assert one + other == tagged(texts)
    assert (one + other).are_tagged
    for options in ({}, {"ngrams": 2}):
        with pytest.raises(ValueError, match="part-of-speech"):
            one + count_words(texts, **options)


def test_lone_surrogates(texts):
    """The kernel does not take such documents; they are counted beside it."""
    odd = [*texts[:20], "南京市\ud800长江大桥\udfff吃了螃蟹", "\ud83d", "\ud83d\ude00"]
    for limit in (None, 50_000):
        for method in METHODS:
            found = count_words(odd * 3, pos=True, method=method, memory_limit=limit)
            assert dict(found.most_common()) == tagged(odd * 3)


def test_the_kernel_is_verified(hard, monkeypatch):
    """Documents are counted once more by jieba itself; a wrong tag is an error."""
    from perftricks.wordcount import VerificationError
    from perftricks.wordcount.methods import tagged_runs

    counts = count_words(hard, pos=True, method="compiled", verify=len(hard))
    assert counts.run.verified > 200
    right = tagged_runs.RunTags.__call__
    monkeypatch.setattr(
        tagged_runs.RunTags,
        "__call__",
        lambda self, key: [pair._replace(tag="no") for pair in right(self, key)],
    )
    with pytest.raises(VerificationError, match="compiled method counts"):
        count_words(hard, pos=True, method="compiled", verify=len(hard))


def test_files(corpus, texts):
    """Files are counted as documents are."""
    assert count_files(corpus, pos="n,v") == count_words(texts, pos="n,v")


def test_frames(texts):
    """Data frames get a column of tags."""
    pytest.importorskip("pandas")
    frame = count_words(texts, pos=True).to_pandas()
    assert list(frame.columns) == ["token", "tag", "count"]
    assert frame["count"].sum() == sum(tagged(texts).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngrams": 2}, "ngrams"),
        ({"hmm": False, "method": "compiled"}, "HMM"),
        ({"mode": "search"}, "mode"),
        ({"mode": "all"}, "mode"),
        ({"tokenizer": "chars"}, "pos"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(options, message):
    """Before anything is counted."""
    with pytest.raises(OptionError, match=message):
        count_words(["茶"], pos=True, **options)


@pytest.mark.parametrize("pos", ["noun", "news.txt", "n, v", "n,,v", (), ("n", 3), "n*v", ""])
def test_tags_that_cannot_be(pos):
    """The error says which, and names those that there are."""
    with pytest.raises(OptionError, match="pos"):
        count_words(["茶"], pos=pos)


def test_a_checkpoint_with_other_tags_is_refused(tmp_path, corpus):
    """What the words' tags are belongs to a run; which of them are shown does not."""
    folder = tmp_path / "state"
    words = ["云计算 9 n"]
    options = {"checkpoint": folder, "user_dict": words}
    assert count_files(corpus, pos="n", **options) == count_files(corpus, pos="n", user_dict=words)
    found = count_files(corpus, pos="v", **options)
    assert found.run.resumed == "complete"
    assert found == count_files(corpus, pos="v", user_dict=words)
    for other in ({"user_dict": ["云计算 9 mine"]}, {"pos": False}):
        with pytest.raises(OptionError, match="is of another run"):
            count_files(corpus, **{"pos": True, **options, **other})


def test_a_checkpoint_of_a_cluster_is_refused(corpus, tmp_path):
    """It would hold tokens with tags, where that of one machine holds what is to be tagged."""
    with pytest.raises(OptionError, match="holds no part-of-speech tags"):
        count_files(corpus, pos=True, engine="dask", checkpoint=tmp_path / "state")


def test_known_tags():
    """They are those of the dictionary and of the model."""
    known = known_tags(make_spec(pos=True).posseg_tokenizer())
    assert {"n", "nr", "v", "uj", "x", "m", "eng"} <= known
    assert parse_tags(None) is None


@pytest.mark.parametrize("wrong", [1, 2.5, [3]])
def test_what_is_neither_tags_nor_a_bool(wrong):
    """It is refused in a line."""
    with pytest.raises(OptionError, match="pos"):
        parse_tags(wrong)
