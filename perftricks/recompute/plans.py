"""What ``apply`` has decided: segments, and the bytes each keeps with and without recomputation."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple


class Segment(NamedTuple):
    """A part of a model that is recomputed as a whole.

    Attributes:
        model: The name of the model or layer it is a part of.
        layers: The names of its layers, in the order they run.
        plain: Bytes per sample that it keeps for the backward pass without recomputation, by the
            shapes of its tensors. None where shapes are not known before the model runs.
        kept: Bytes per sample that are kept when it is recomputed: its inputs, where no earlier
            segment and no caller keeps them anyway. None where shapes are not known.
        recomputed: False for a part that runs plainly, as there is nothing to save in it.
    """

    model: str
    layers: Tuple[str, ...]
    plain: Optional[int]
    kept: Optional[int]
    recomputed: bool = True

    @property
    def name(self) -> str:
        """The first and the last layer."""
        ends = [self.layers[0]] if len(self.layers) == 1 else [self.layers[0], self.layers[-1]]
        return " .. ".join(ends)

    def name_in(self, model: str) -> str:
        """The same, after the name of the model it is a part of, if that is another one."""
        return self.name if self.model == model else "%s: %s" % (self.model, self.name)


class Plan(NamedTuple):
    """The segments of a model. ``str(plan)`` is a table.

    Attributes:
        model: The name of the model.
        segments: Its segments, in the order they run.
        plain: Bytes of activations per sample that a plain run keeps, or None if not known.
        peak: Bytes of activations per sample that a recomputed run holds at most, or None if not
            known. Both are estimates from shapes; ``verify`` measures.
    """

    model: str
    segments: Tuple[Segment, ...]
    plain: Optional[int]
    peak: Optional[int]

    def __str__(self) -> str:
        rows = [("", "layers", "segment", "plain", "kept")]
        for number, segment in enumerate(self.segments, 1):
            rows.append(
                (
                    str(number),
                    str(len(segment.layers)),
                    segment.name_in(self.model) + ("" if segment.recomputed else " (runs plainly)"),
                    readable_size(segment.plain),
                    readable_size(segment.kept if segment.recomputed else segment.plain),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [_line(row, widths) for row in rows]
        recomputed = sum(segment.recomputed for segment in self.segments)
        head = "%s: %d segment%s recomputed" % (self.model, recomputed, "s" * (recomputed != 1))
        if self.plain is not None and self.peak is not None:
            head += "; activations per sample, estimated from shapes: %s plain, %s at most" % (
                readable_size(self.plain),
                readable_size(self.peak),
            )
        return "\n".join([head, *lines])


def _line(row: Tuple[str, ...], widths: List[int]) -> str:
    number, count, name, plain, kept = (
        cell.ljust(width) if i == 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths))
    )
    return "  ".join((number, count, name, plain, kept)).rstrip()


def readable_size(count: Optional[int]) -> str:
    """Return a number of bytes as people read it."""
    if count is None:
        return "-"
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return "%d B" % size if unit == "B" else "%.1f %s" % (size, unit)
