"""Some documents are counted once more by jieba, and a difference is loud."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

from perftricks.cli import main
from perftricks.wordcount import OptionError, VerificationError, count_files, count_words, kernel
from perftricks.wordcount.kernel import TextCounter, cache
from perftricks.wordcount.storage.cachefolder import ENVIRONMENT, cache_folder, open_cache
from perftricks.wordcount.tokenizers import default_tokenizer
from perftricks.wordcount.verify import Sampler


@pytest.fixture
def wrong(monkeypatch):
    """A kernel that takes one word for another."""
    feed = TextCounter.feed

    def miscount(self, data):
        feed(self, bytes(data).replace("喝茶".encode(), "喝水".encode()))

    monkeypatch.setattr(TextCounter, "feed", miscount)


@pytest.mark.parametrize("more", [{}, {"ngrams": 2}, {"document_frequency": True}])
def test_right_counts_pass(tmp_path, texts, expected, more):
    """What the kernel counts is what jieba counts, line ends of all kinds included."""
    counts = count_words(texts, method="compiled", verify=50, verify_seed=1, **more)
    assert counts.run.verified == 50
    path = tmp_path / "a.txt"
    path.write_bytes("\r\n".join(texts).encode())
    for document, documents in (("line", len(texts)), ("file", 1)):
        counts = count_files(path, method="compiled", document=document, verify=10_000, **more)
        assert counts.run.verified == documents
    assert count_words([*texts, "\ud800"], method="compiled", verify=500).run.verified == len(texts)


def test_wrong_counts_fail(tmp_path, wrong):
    """A document that is counted differently is named, with the token and both counts."""
    path = tmp_path / "a.txt"
    path.write_text("茶\n茶\r\n他喝茶\n", encoding="utf-8", newline="")
    with pytest.raises(VerificationError, match=r"a\.txt, document 3: the compiled method counts"):
        count_files(path, method="compiled", verify=3)
    with pytest.raises(VerificationError, match=r"texts, document 2: .*'喝水' 1 times, jieba 0"):
        count_words(["茶", "他喝茶"], method="compiled", verify=3)
    assert count_files(path, method="compiled") == {"茶": 2, "他": 1, "喝水": 1}


def test_command(tmp_path, capsys, wrong):
    """The command fails with status 1 and one line, and writes no table."""
    path = tmp_path / "a.txt"
    path.write_text("他喝茶\n", encoding="utf-8")
    output = tmp_path / "out.tsv"
    arguments = ["wordcount", path, "--method", "compiled", "--verify", 5, "-o", output]
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "document 1: the compiled method counts" in captured.err
    assert not output.exists()


def test_every_document_has_the_same_chance():
    """The first documents of a corpus are taken as often as the last, and in pieces as singly."""
    taken = Counter()
    for seed in range(2000):
        for piecewise in (False, True):
            sampler = Sampler(5, seed)
            if piecewise:
                for start in range(0, 40, 8):
                    lines = "".join(f"{n}\n" for n in range(start, start + 8))
                    sampler.take_piece("a", lines.encode(), "crlf")
            else:
                for n in range(40):
                    sampler.take("a", str(n))
            numbers = [int(sample.text) for sample in sampler.samples]
            assert [sample.number - 1 for sample in sampler.samples] == numbers
            assert len(set(numbers)) == 5
            taken.update(numbers)
    assert len(taken) == 40
    assert max(taken.values()) < 1.4 * min(taken.values())


def test_seed(texts):
    """The same seed takes the same documents."""
    samplers = [Sampler(5, 3), Sampler(5, 3)]
    for sampler in samplers:
        for text in texts:
            sampler.take("a", text)
    assert samplers[0].samples == samplers[1].samples


@pytest.mark.parametrize("options", [{"method": "naive"}, {"tokenizer": "chars"}])
def test_where_there_is_nothing_to_compare(options):
    """Without the kernel there is nothing to verify, which is an error."""
    with pytest.raises(OptionError, match="verify compares method 'compiled' with jieba"):
        count_words(["a"], verify=1, **options)


def test_wrong_cache_is_told_from_a_wrong_kernel(tmp_path, texts, monkeypatch, wrong):
    """What differs is looked for in the cache first: tables that are wrong are removed from it."""
    with pytest.raises(VerificationError, match="its tables are those of jieba's dictionary: plea"):
        count_words(["他喝茶"], method="compiled", verify=3)
    monkeypatch.undo()
    kernel.load()
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for path in cache_folder().glob("kernel-*.o"):  # it takes long to compile
        shutil.copy(path, folder)
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    engine = kernel.load()
    tokenizer = default_tokenizer()
    monkeypatch.setattr(cache, "_is_untouched_default", lambda tokenizer: True)
    with open_cache() as folder:
        name = f"lexicon-{cache.content_key(tokenizer)}"
        wrong_tables = engine.lexicon._replace(text=np.roll(engine.lexicon.text, 1))
        cache._write_lexicon(folder, name, wrong_tables)
        with pytest.raises(VerificationError, match=r"they have been removed from it; run this ag"):
            count_words(texts, method="compiled", verify=len(texts))
        assert not any(entry.name.startswith(("lexicon", "default")) for entry in folder.entries())
    assert count_words(texts, method="compiled", verify=300).run.verified == len(texts)
