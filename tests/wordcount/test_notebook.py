"""What a notebook shows of a table."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from perftricks.wordcount import WordCounts, count_words, read_table, write_table


class Cells(HTMLParser):
    """Collects the text of rows, and what stands behind the table."""

    def __init__(self, content):
        super().__init__()
        self.rows, self.rest, self._open = [], "", ""
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        """Note what begins."""
        assert tag in ("table", "thead", "tbody", "tr", "th", "td", "p")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        self._open = tag

    def handle_endtag(self, tag):
        """Note what ends."""
        self._open = ""

    def handle_data(self, data):
        """Take the text."""
        if self._open in ("th", "td"):
            self.rows[-1][-1] += data
        else:
            self.rest += data


def test_rows():
    """The first twenty rows are shown, and how many there are."""
    counts = WordCounts({f"茶{n}": 100 - n for n in range(30)}, documents=4)
    shown = Cells(counts._repr_html_())
    assert shown.rows[0] == ["token", "count", "share"]
    assert shown.rows[1] == ["茶0", "100", "3.90%"]
    assert len(shown.rows) == 21
    assert shown.rest == "30 distinct of 2,565 tokens in 4 documents"


def test_columns():
    """Documents and n-grams have columns of their own; nothing is taken for markup."""
    counts = count_words(["<b>茶</b>&", "a\n"], document_frequency=True, tokenizer="whitespace")
    shown = Cells(counts._repr_html_())
    assert shown.rows[0][-1] == "documents"
    assert ["<b>茶</b>&", "1", "50.00%", "1"] in shown.rows
    assert Cells(count_words(["喝茶"], ngrams=2)._repr_html_()).rows == [
        ["n-gram", "count", "share"]
    ]


@pytest.mark.parametrize("extension", ["tsv", "parquet"])
def test_tables_from_files(tmp_path, extension):
    """Documents are left out where a file does not say how many there were."""
    write_table(tmp_path / f"a.{extension}", WordCounts({"茶": 1}, documents=1))
    known = " in 1 document" if extension == "parquet" else ""
    shown = Cells(read_table(tmp_path / f"a.{extension}")._repr_html_())
    assert shown.rest == f"1 distinct of 1 tokens{known}"
