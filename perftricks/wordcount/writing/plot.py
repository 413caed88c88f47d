"""The plot as a file: SVG by ourselves, PNG and PDF by matplotlib."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from perftricks.files import PathLike, replacing
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.table.counts import WordCounts, check_counts
from perftricks.wordcount.writing import svg
from perftricks.wordcount.writing.export import check_place
from perftricks.wordcount.writing.fonts import font_for
from perftricks.wordcount.writing.zipf import Zipf, zipf

_BY_MATPLOTLIB = (".png", ".pdf")


def check_plot(path: PathLike, sources: Sequence[Source] = ()) -> None:
    """Check that a plot can be written, before the work of counting.

    Args:
        path: Where to.
        sources: The files that are read, none of which may be overwritten.

    Raises:
        OptionError: If the extension is unknown, matplotlib is needed and missing, or the place
            will not do; see :func:`perftricks.wordcount.writing.export.check_output`.

    >>> check_plot("zipf.gif")
    Traceback (most recent call last):
    perftricks.wordcount.errors.OptionError: plot 'zipf.gif': unknown extension '.gif'; expected \
.svg, .png or .pdf
    """
    name = os.fspath(path)
    extension = os.path.splitext(name)[1].lower()
    if extension not in (".svg", *_BY_MATPLOTLIB):
        found = f"unknown extension {extension!r}" if extension else "no extension"
        raise OptionError(f"plot {name!r}: {found}; expected .svg, .png or .pdf")
    if extension in _BY_MATPLOTLIB and importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            f"plot {name!r}: {extension} needs matplotlib, which is not installed: "
            "pip install 'perftricks[plot]'; or write .svg, which needs nothing"
        )
    check_place(path, sources)


def write_plot(path: PathLike, counts: WordCounts, *, font: PathLike | None = None) -> None:
    """Draw how often the tokens occur against their rank, both logarithmic: Zipf's law.

    Some tokens are written beside their points. In .png and .pdf a token that no installed font
    has all characters of is left out; in .svg the viewer chooses the font.

    Args:
        path: Where to: ``.svg``; or ``.png`` or ``.pdf``, which need matplotlib (extra ``plot``).
            The file appears complete or not at all.
        counts: The table.
        font: The file of a font to use in .png and .pdf before those that are installed.

    Raises:
        OptionError: As :func:`check_plot` does; also if ``counts`` is no WordCounts.
        OSError: If writing fails.
    """
    check_plot(path)
    check_counts(counts)
    name = os.fspath(path)
    plot = zipf(counts)
    extension = os.path.splitext(name)[1].lower()
    with replacing(name) as file:
        if extension == ".svg":
            file.write(svg.document(plot).encode())
        else:
            _figure(plot, font).savefig(file, format=extension[1:], dpi=150)


def _figure(plot: Zipf, first: PathLike | None) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="rank", ylabel="count", xscale="log", yscale="log")
    axes.set_xlim(10.0 ** plot.rank_decades[0] * 0.85, 10.0 ** plot.rank_decades[1])
    axes.set_ylim(10.0 ** plot.count_decades[0] * 0.8, 10.0 ** plot.count_decades[1] * 1.6)
    axes.grid(color="#d9dee3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if not plot.points:
        axes.text(0.5, 0.5, "no tokens", transform=axes.transAxes, ha="center", color="#59636e")
        return figure
    ranks = [point.rank for point in plot.points]
    law = [plot.scale / rank for rank in ranks]
    axes.plot(ranks, law, "--", color="#b35900", linewidth=1.2, label="Zipf's law: count ∝ 1/rank")
    counts = [point.count for point in plot.points]
    axes.plot(ranks, counts, ".-", color="#0b62c4", markersize=4, label="this corpus")
    for point in plot.labelled:
        font = font_for(point.token, first)
        if font is not None:
            axes.annotate(
                _plain(point.token),
                (point.rank, point.count),
                xytext=(5, 5),
                textcoords="offset points",
                fontproperties=FontProperties(fname=font, size=11),
            )
    axes.legend(loc="lower left", frameon=False)
    return figure


def _plain(text: str) -> str:
    """Return text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
