"""Tables in files add up, also where memory does not hold them."""

from __future__ import annotations

import random

import pytest

from perftricks.wordcount import OptionError, WordCounts, merge_tables, write_table


@pytest.mark.parametrize("limit", [None, "1MB"])
@pytest.mark.parametrize("documents", [True, False])
def test_many_tables(tmp_path, limit, documents):
    """Many tables give the sum of their rows, in memory and on the disk."""
    draw = random.Random(7)
    total = WordCounts({}, documents=0, document_frequency={} if documents else None)
    paths = []
    for number in range(12):
        counts = {f"{draw.choice('茶水火')}{draw.randrange(2000)}": 1 + number for _ in range(900)}
        frequency = {key: draw.randrange(1, 9) for key in counts} if documents else None
        table = WordCounts(counts, documents=number, document_frequency=frequency)
        total += table
        paths.append(tmp_path / f"{number}.{('tsv', 'parquet', 'json')[number % 3]}")
        write_table(paths[-1], table)
    found = merge_tables(paths, memory_limit=limit)
    assert list(found.rows()) == list(total.rows())
    assert found.tokens == total.tokens
    arrow = merge_tables(paths[1::3], memory_limit=limit)
    assert arrow.documents == 1 + 4 + 7 + 10


def test_patterns(tmp_path):
    """A pattern that no shell has expanded stands for what it matches."""
    for name in ("a.tsv", "b.tsv", "c.json"):
        write_table(tmp_path / name, WordCounts({"茶": 1, name: 1}, documents=1))
    assert merge_tables(tmp_path / "*.tsv") == {"茶": 2, "a.tsv": 1, "b.tsv": 1}
    assert merge_tables([f"{tmp_path}/[bc].*", tmp_path / "a.tsv"])["茶"] == 3
    with pytest.raises(FileNotFoundError, match="as a pattern matches nothing"):
        merge_tables(tmp_path / "*.csv")
    with pytest.raises(OptionError, match="is given twice"):
        merge_tables([tmp_path / "*.tsv", tmp_path / "a.tsv"])


def test_nothing(tmp_path):
    """No table, and tables of nothing."""
    with pytest.raises(OptionError, match="no path given; name tables to add up"):
        merge_tables([])
    write_table(tmp_path / "a.tsv", WordCounts({}, documents=0))
    write_table(tmp_path / "b.arrow", WordCounts({}, documents=0))
    assert len(merge_tables([tmp_path / "a.tsv", tmp_path / "b.arrow"])) == 0
