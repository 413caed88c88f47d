"""Exact word frequencies of a corpus.

::

    paths ─sources─▶ files ─streams─▶ text ─documents─▶ documents ─job─▶ table ─export─▶ file
                                                          │             └──report─▶ page, plot
                                              tokenizers, perftricks.parallel

:func:`count_words` counts documents, :func:`count_files` files and folders. jieba is imported when
it is first used.
"""

from perftricks.wordcount.count import count_files, count_words
from perftricks.wordcount.errors import (
    CorpusError,
    OptionError,
    SpillError,
    TableTooLargeError,
    TokenizerError,
)
from perftricks.wordcount.merging import merge_tables
from perftricks.wordcount.table.counts import RunInfo, WordCounts
from perftricks.wordcount.tfidf import Keyword, keywords
from perftricks.wordcount.verify import VerificationError
from perftricks.wordcount.writing import write_cloud, write_plot, write_report
from perftricks.wordcount.writing.export import read_table, write_table
from perftricks.wordcount.writing.keyword_tables import write_keywords

__all__ = [
    "CorpusError",
    "Keyword",
    "OptionError",
    "RunInfo",
    "SpillError",
    "TableTooLargeError",
    "TokenizerError",
    "VerificationError",
    "WordCounts",
    "count_files",
    "count_words",
    "keywords",
    "merge_tables",
    "read_table",
    "write_cloud",
    "write_keywords",
    "write_plot",
    "write_report",
    "write_table",
]
