"""What recompute draws, by matplotlib."""

from __future__ import annotations

import os
from typing import Sequence, Union

from perftricks.files import replacing


def draw_curve(
    path: Union[str, os.PathLike[str]],
    title: str,
    peaks: Sequence[float],
    times: Sequence[float],
    chosen: float,
) -> None:
    """Draw time over memory.

    Args:
        path: A file; its extension says what kind of picture it is, such as .svg, .png or .pdf.
        title: What stands above.
        peaks: Bytes of each point.
        times: Its time, of that of the last.
        chosen: The bytes of the point that is marked.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no such kind of picture.
        OSError: If it cannot be written.
    """
    kind = os.path.splitext(os.fspath(path))[1][1:].lower()
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib: pip install 'perftricks[plot]' (%s)" % error
        ) from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError("expected a picture of a kind such as .svg, .png or .pdf, got %r" % path)
    axes = figure.add_subplot()
    axes.plot([p / 2**20 for p in peaks], times, marker="o", markersize=3, linewidth=1)
    marked = [(p / 2**20, t) for p, t in zip(peaks, times) if p == chosen]
    if marked:
        axes.plot(*zip(*marked), marker="o", color="tab:red", linestyle="", label="chosen")
        axes.legend(frameon=False)
    axes.set_xlabel("peak of a training step (MiB)")
    axes.set_ylabel("time of a step, of the plain one's")
    axes.set_title(title, wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format=kind)
