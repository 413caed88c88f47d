"""Tables that people look at: a plot of Zipf's law, and a page with plot, figures and table.

::

    table ─zipf─▶ points, labels, law ─┬─svg──▶ .svg, and the plot of the page
                                       └─plot─▶ .png, .pdf (matplotlib)
    table ─page─▶ .html
"""

from perftricks.wordcount.writing.page import check_report, write_report
from perftricks.wordcount.writing.plot import check_plot, write_plot

__all__ = ["check_plot", "check_report", "write_plot", "write_report"]
