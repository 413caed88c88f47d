"""``perftricks wordcount --merge``: tables add up to that of one run over everything."""

from __future__ import annotations

import pytest

from perftricks.wordcount import count_files, read_table

PARTS = {
    "monday.txt": "我们喝茶，喝茶。\n我们在北京\n",
    "tuesday.txt": '喝茶\n\ttab \\ "quote"\n',
    "wednesday.txt": "北京,北京\n",
}


@pytest.fixture
def folder(tmp_path):
    """Texts of three days."""
    (tmp_path / "corpus").mkdir()
    for name, content in PARTS.items():
        (tmp_path / "corpus" / name).write_text(content)
    return tmp_path


def write(run, folder, *formats, options=()):
    """Count each day and write its table; return the tables."""
    tables = []
    for name, extension in zip(PARTS, formats, strict=True):
        table = folder / name.replace(".txt", f".{extension}")
        assert run(folder / "corpus" / name, "-q", "-o", table, *options).status == 0
        tables.append(table)
    return tables


@pytest.mark.parametrize("options", [(), ("--doc-freq",), ("--ngrams", 2, "--doc-freq")], ids=str)
@pytest.mark.parametrize("extension", ["tsv", "csv", "json", "parquet", "arrow"])
def test_sum(run, folder, extension, options):
    """The sum equals one run over everything, to the last byte of the file."""
    tables = write(run, folder, "tsv", "json", "parquet", options=options)
    total, whole = folder / f"total.{extension}", folder / f"whole.{extension}"
    result = run("--merge", *tables, "-o", total, "-n", 2)
    assert (result.status, result.err) == (0, "")
    assert run(folder / "corpus", "-q", "-o", whole, *options).status == 0
    assert list(read_table(total).rows()) == list(read_table(whole).rows())
    if extension in ("tsv", "csv", "json"):
        assert total.read_bytes() == whole.read_bytes()


def test_what_is_shown(run, folder):
    """The first tokens are shown, and what was added up; documents where all tables say them."""
    tables = write(run, folder, "arrow", "feather", "parquet")
    result = run("--merge", *tables, "-n", 1)
    table, _, facts = result.out.partition("\n\n")
    whole = count_files(folder / "corpus")
    (token, count), *_ = whole.most_common(1)
    assert table.splitlines()[1].split()[:2] == [token, str(count)]
    facts = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert facts.pop("tables").startswith("3, in ")
    assert facts == {"documents": "5", "tokens": str(whole.tokens), "distinct": str(len(whole))}
    summary = run("--merge", *tables, "--json", "-", "-n", 1).json
    assert summary.pop("seconds") >= 0
    assert summary == {
        "tables": list(map(str, tables)),
        "documents": 5,
        "tokens": whole.tokens,
        "distinct": len(whole),
        "output": None,
        "report": None,
        "plot": None,
        "cloud": None,
        "top": [{"token": token, "count": count, "share": count / whole.tokens}],
    }
    tables = write(run, folder, "arrow", "tsv", "parquet")
    assert "documents  not known: a table does not say" in run("--merge", *tables).out
    assert run("--merge", *tables, "--json", "-").json["documents"] is None


def test_filters_files_and_stdout(run, folder):
    """Words are left out of the sum; report and plot are written; the table goes to stdout."""
    tables = write(run, folder, "tsv", "csv", "json")
    (folder / "stop.txt").write_text("喝茶\n")
    files = ("--report", folder / "a.html", "--plot", folder / "a.svg")
    options = ("--stop-words", folder / "stop.txt", "--min-length", 2, "--min-count", 2)
    result = run("--merge", *tables, "-o", "-", *options, *files)
    assert result.out == "token\tcount\n北京\t3\n我们\t2\n"
    assert "北京" in (folder / "a.html").read_text()
    assert "documents" not in (folder / "a.html").read_text().partition("<script")[0]
    assert "北京" in (folder / "a.svg").read_text()


def test_what_does_not_add_up(run, folder):
    """Tables that do not go together are refused, and nothing is written."""
    plain = write(run, folder, "tsv", "csv", "json")
    with_documents = write(run, folder, "arrow", "arrow", "arrow", options=("--doc-freq",))
    pairs = write(run, folder, "parquet", "parquet", "parquet", options=("--ngrams", 2))
    rare = folder / "rare.feather"
    run(folder / "corpus", "-q", "--min-count", 2, "-o", rare)
    output = folder / "total.tsv"
    for tables, problem in (
        ((plain[0], with_documents[1]), "one table has document frequencies and the other"),
        ((plain[0], pairs[1]), "n-grams of different lengths"),
        ((rare, plain[0]), "a table without what occurs fewer than 2 times cannot be added"),
        ((plain[0], plain[0]), "is given twice"),
        ((plain[0], folder / "no.tsv"), "no such file"),
        ((plain[0], folder / "corpus" / "monday.txt"), "unknown extension '.txt'"),
    ):
        result = run("--merge", *tables, "-o", output)
        assert result.status == 2
        assert problem in result.err
        assert result.err.count("\n") == 1
        assert not output.exists()
    plain[0].write_text("token\tcount\n茶\tx\n")
    result = run("--merge", *plain, "-o", output)
    assert (result.status, output.exists()) == (1, False)
    assert "line 2: not a row of a table: 'x' is no count" in result.err
    assert run("--merge", *plain[1:], "-o", plain[1]).status == 2


@pytest.mark.parametrize(
    "option",
    [
        ("--encoding", "gbk"),
        ("--doc-freq",),
        ("--workers", 2),
        ("--mode", "search"),
        ("--compare",),
    ],
    ids=str,
)
def test_other_options(run, folder, option):
    """Options that mean nothing to tables are refused by name."""
    tables = write(run, folder, "tsv", "csv", "json")
    result = run("--merge", *tables, *option)
    assert result.status == 2
    assert f"--merge adds tables up, to which {option[0]} means nothing" in result.err
