"""The options of the command that belong to the compiled method."""

from __future__ import annotations

import json

import pytest

from perftricks.wordcount import count_files, read_table


def test_method(run, corpus):
    """--method compiled counts on threads, and the screen says so."""
    result = run(corpus, "--method", "compiled", "--threads", 2, "-n", 1)
    assert result.status == 0
    assert "喝茶       3  25.00%" in result.out
    facts = dict(line.split(maxsplit=1) for line in result.out.splitlines() if line)
    assert (facts["method"], facts["workers"]) == ("compiled", "2")
    summary = run(corpus, "--method", "compiled", "--json", "-", "--doc-freq", "-n", 1).json
    assert (summary["method"], summary["method_note"]) == ("compiled", None)
    assert summary["top"] == [{"token": "喝茶", "count": 3, "share": 0.25, "document_frequency": 2}]


def test_why_it_was_not_used(run, corpus):
    """Where the choice was left open, the result says why the kernel did not count."""
    summary = run(corpus, "--tokenizer", "chars", "--json", "-").json
    assert summary["method_note"] == "the tokenizer is chars, not jieba"
    assert "batched (not compiled: the tokenizer is chars" in run(corpus, "--tokenizer=chars").out


@pytest.mark.parametrize("extension", [".tsv", ".csv", ".json"])
@pytest.mark.parametrize("more", [[], ["--doc-freq"]])
@pytest.mark.parametrize("method", ["naive", "compiled"])
def test_ngrams(run, corpus, extension, more, method):
    """--ngrams counts sequences, shows them in one line and writes tables that can be read."""
    output = corpus.parent / f"pairs{extension}"
    result = run(corpus, "--ngrams", 2, "--method", method, "-o", output, *more)
    assert result.status == 0
    assert result.out.startswith("ngram")
    assert "tea \\t " in result.out
    assert "sequences of 2" in result.out
    pairs = count_files(corpus, ngrams=2)
    assert read_table(output) == pairs
    assert pairs["喝茶", "，"] == 1
    summary = run(corpus, "--ngrams", 2, "--json", "-", "-n", 1).json
    assert (summary["ngrams"], len(summary["top"][0]["ngram"])) == (2, 2)


def test_ngrams_in_files(run, corpus):
    """Spaces, tabs and quotes in the tokens of n-grams survive every format."""
    corpus.write_text('a b\t"c",\\ d  e', encoding="utf-8")
    pairs = count_files(corpus, ngrams=3)
    assert any(" " in gram for gram in pairs)
    for extension in (".tsv", ".csv", ".json"):
        output = corpus.parent / f"table{extension}"
        assert run(corpus, "--ngrams", 3, "-o", output, "-q").status == 0
        assert read_table(output) == pairs


def test_verify(run, corpus):
    """--verify says how many documents were counted again."""
    arguments = [corpus, "--method", "compiled", "--verify", 3, "--verify-seed", 1]
    assert "3 documents counted again by jieba: equal" in run(*arguments).out
    assert run(*arguments, "--json", "-").json["verified"] == 3
    assert "all counted by jieba itself" in run(corpus, "--verify", 3).out


def test_checkpoint(run, corpus):
    """--checkpoint keeps the result, and a second run says that it was complete."""
    folder = corpus.parent / "state"
    first = run(corpus, "--checkpoint", folder, "--json", "-")
    assert (first.status, first.json["resumed"], first.json["method"]) == (0, None, "compiled")
    second = run(corpus, "--checkpoint", folder, "--json", "-").json
    assert second["resumed"] == "complete"
    assert second["top"] == first.json["top"]
    assert "checkpoint was complete already" in run(corpus, "--checkpoint", folder).out
    result = run(corpus, "--checkpoint", folder, "--no-hmm")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "is of another run: it has another hmm" in result.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--method compiled --tokenizer chars", "the tokenizer is chars, not jieba"),
        ("--method compiled --batch-size 9", "--batch-size means nothing to method compiled"),
        ("--verify-seed 1", "--verify-seed chooses the documents of --verify"),
        ("--verify 1 --method naive", "verify compares method 'compiled' with jieba"),
        ("--compare --verify 1", "--compare compares whole tables"),
        ("--compare --checkpoint x", "--compare keeps no snapshots"),
        ("--checkpoint-seconds 1", "--checkpoint-seconds is for --checkpoint FOLDER"),
        ("--checkpoint x --method naive", "a checkpoint is for method 'compiled'"),
        ("--compare --memory-limit 1GB", "--compare holds whole tables"),
        ("--memory-limit much", "a memory limit is a number of bytes or a size such as 500MB"),
        ("--ngrams 21", "ngrams must be at most 20, not 21"),
    ],
)
def test_contradictions(run, corpus, arguments, problem):
    """Options that do not go together are one line and status 2."""
    result = run(corpus, *arguments.split())
    assert (result.status, result.out) == (2, "")
    assert problem in result.err
    assert result.err.count("\n") == 1


def test_bad_table_of_ngrams(tmp_path):
    """A file that is no table of n-grams is refused."""
    from perftricks.wordcount import CorpusError

    path = tmp_path / "a.json"
    for rows in ([["a", 1]], [[["a", 2], 1]], [[["a"], 1, 2, 3]]):
        path.write_text(json.dumps(rows), encoding="utf-8")
        with pytest.raises(CorpusError, match="not a table"):
            read_table(path)
