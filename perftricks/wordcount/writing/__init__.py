"""Tables that people look at: a plot of Zipf's law, a word cloud, and a page with all figures.

::

    table ─zipf─▶ points, labels, law ─┬─svg──▶ .svg, and the plot of the page
                                       └─plot─▶ .png, .pdf (matplotlib)
    table ─page─▶ .html
    table ─fonts─▶ words with characters ─cloud─▶ .svg, .png (wordcloud)
"""

from perftricks.wordcount.writing.cloud import check_cloud, write_cloud
from perftricks.wordcount.writing.page import check_report, write_report
from perftricks.wordcount.writing.plot import check_plot, write_plot

__all__ = [
    "check_cloud",
    "check_plot",
    "check_report",
    "write_cloud",
    "write_plot",
    "write_report",
]
