"""A plan: segments, and the bytes each keeps with and without recomputation; as table and JSON."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from perftricks.files import replacing
from perftricks.recompute.planning.notebook import as_html
from perftricks.recompute.policies import policy_of

_FORM = 2  # of the JSON; the first had no budget


class BudgetError(ValueError):
    """No plan fits a budget; the message says what the least is, and which batch would fit.

    Attributes:
        least: Bytes that the plan which needs least would take.
    """

    def __init__(self, message: str, least: int) -> None:
        super().__init__(message, least)
        self.least = least

    def __str__(self) -> str:
        return str(self.args[0])


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
        number: The number of the graph it is a part of, or of the one layer that it is, among
            everything in the model for which the plan was made, as its Keras lists that.
        steps: The first call of the graph that belongs to it, and the one after the last. None for
            a layer that is recomputed on its own, wherever it is called.
        policy: What is kept beside its inputs, as for ``recompute_grad``: the name of a policy, a
            tuple of names, or a function. What that takes is not counted in ``kept``.
    """

    model: str
    layers: Tuple[str, ...]
    plain: Optional[int]
    kept: Optional[int]
    recomputed: bool = True
    number: int = 0
    steps: Optional[Tuple[int, int]] = None
    policy: Any = "full"

    @property
    def name(self) -> str:
        """The first and the last layer."""
        ends = [self.layers[0]] if len(self.layers) == 1 else [self.layers[0], self.layers[-1]]
        return " .. ".join(ends)

    def name_in(self, model: str) -> str:
        """The same, after the name of the model it is a part of, if that is another one."""
        return self.name if self.model == model else "%s: %s" % (self.model, self.name)


class Point(NamedTuple):
    """What one of several plans of a model needs.

    Attributes:
        peak: Bytes at the peak of a training step.
        time: Seconds that a step takes, by what it computes.
    """

    peak: int
    time: float


class Pareto(NamedTuple):
    """Plans of a model of which none is better than another in memory and time.

    ``str(pareto)`` is a table.

    Attributes:
        model: The name of the model.
        batch_size: Samples in a batch.
        points: What they need, the one with the least memory first.
        chosen: Bytes at the peak of the one that a budget has chosen.
    """

    model: str
    batch_size: int
    points: Tuple[Point, ...]
    chosen: int

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        plain = self.points[-1]
        lines = ["%s, a step with a batch of %d" % (self.model, self.batch_size)]
        lines.append("%12s  %8s  %12s" % ("peak", "of plain", "time, plain 1"))
        lines += [
            "%12s  %6.0f %%  %12.3f%s"
            % (
                readable_size(point.peak),
                100 * point.peak / plain.peak,
                point.time / plain.time,
                "  chosen" if point.peak == self.chosen else "",
            )
            for point in self.points
        ]
        return "\n".join(lines)

    def plot(self, path: Union[str, os.PathLike[str]]) -> None:
        """Draw time over memory, by matplotlib.

        Args:
            path: A file; its extension says what kind of picture it is: .svg, .png or .pdf.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no such kind of picture.
            OSError: If it cannot be written.
        """
        from perftricks.recompute.pictures import draw_curve

        draw_curve(
            path,
            "%s, batch of %d" % (self.model, self.batch_size),
            [point.peak for point in self.points],
            [point.time / self.points[-1].time for point in self.points],
            self.chosen,
        )


class Plan(NamedTuple):
    """The segments of a model. ``str(plan)`` is a table.

    Attributes:
        model: The name of the model.
        segments: Its segments, in the order they run.
        plain: Bytes of activations per sample that a plain run keeps, or None if not known.
        peak: Bytes of activations per sample that a recomputed run holds at most, or None if not
            known. Both are estimates from shapes; ``verify`` measures.
        digest: What a model has in common with those of the same structure, and with no other: the
            plan can be applied to these.
        batch_size: The batch for which a plan with a budget was made; None for other plans, as are
            all that follow.
        budget: Bytes that a training step may take.
        step_peak: Bytes that it takes at its peak: weights, gradients, optimizer, batch and
            activations.
        step_time: Seconds that it takes, by what it computes and the ceilings of the device.
        curve: What plans from the least memory to the plain run need, this one among them.

    Example:
        >>> from perftricks.recompute import Plan, Segment
        >>> block = Segment("net", ("up", "down"), plain=4096, kept=512, number=0, steps=(0, 2))
        >>> plan = Plan("net", (block,), plain=4096, peak=4608, digest="0123456789abcdef")
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    model: str
    segments: Tuple[Segment, ...]
    plain: Optional[int]
    peak: Optional[int]
    digest: str = ""
    batch_size: Optional[int] = None
    budget: Optional[int] = None
    step_peak: Optional[int] = None
    step_time: Optional[float] = None
    curve: Tuple[Point, ...] = ()

    def pareto(self) -> Pareto:
        """Return what plans need between the least memory and the plain run.

        Raises:
            ValueError: If the plan was made without a budget.
        """
        if not self.curve:
            raise ValueError(
                "only a plan with a budget knows others: recompute.plan(model, batch_size=..., "
                "budget=...)"
            )
        return Pareto(self.model, self.batch_size or 0, self.curve, self.step_peak or 0)

    def to_json(self) -> str:
        """Return the plan as JSON, which ``from_json`` reads.

        Raises:
            ValueError: If a policy in it is a function.
        """
        for segment in self.segments:
            if callable(segment.policy):
                raise ValueError(
                    "a plan whose policy is a function cannot be written as JSON; give the name of "
                    "a policy, or names that keep gives"
                )
        content: Dict[str, Any] = {"perftricks plan": _FORM, **self._asdict()}
        content["segments"] = [segment._asdict() for segment in self.segments]
        content["curve"] = [point._asdict() for point in self.curve]
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that ``to_json`` has written.

        Raises:
            ValueError: If the text is no such plan.
        """
        try:
            content = json.loads(text)
            form = content.pop("perftricks plan")
            segments = tuple(_segment(**each) for each in content.pop("segments"))
            curve = tuple(Point(**each) for each in content.pop("curve", ()))
            plan = cls(segments=segments, curve=curve, **content)
            _check(plan)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "this is no plan that Plan.save has written: %s: %s" % (type(error).__name__, error)
            ) from None
        if form not in (1, _FORM):
            raise ValueError(
                "the plan is of form %r, and this version of perftricks reads form %d; make it "
                "again with recompute.plan" % (form, _FORM)
            )
        return plan

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write the plan as JSON; the file is there whole, or as it was.

        Raises:
            OSError: If it cannot be written.
        """
        with replacing(path) as file:
            file.write(self.to_json().encode("utf-8"))

    @classmethod
    def load(cls, path: Union[str, os.PathLike[str]]) -> Plan:
        """Return the plan that ``save`` has written.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is no such plan.
        """
        with open(path, encoding="utf-8") as file:
            try:
                return cls.from_json(file.read())
            except ValueError as error:
                raise ValueError("%s: %s" % (path, error)) from None

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        rows = [("", "layers", "segment", "plain", "kept")]
        for number, segment in enumerate(self.segments, 1):
            rows.append(
                (
                    str(number),
                    str(len(segment.layers)),
                    segment.name_in(self.model) + _how(segment),
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
        if self.step_peak is not None and self.step_time is not None and self.curve:
            head += "\na step with a batch of %d takes %s at its peak, plainly %s; budget %s" % (
                self.batch_size or 0,
                readable_size(self.step_peak),
                readable_size(self.curve[-1].peak),
                readable_size(self.budget),
            )
            head += "; by what it computes, %.2f times as long" % (
                self.step_time / self.curve[-1].time
            )
        return "\n".join([head, *lines])


def _segment(
    *, layers: List[str], steps: Optional[List[int]], policy: Any = "full", **more: Any
) -> Segment:
    """Return a segment with the tuples that JSON knows as lists."""
    given = policy_of(policy).given
    return Segment(layers=tuple(layers), steps=_pair(steps), policy=given, **more)


def _how(segment: Segment) -> str:
    if not segment.recomputed:
        return " (runs plainly)"
    return "" if segment.policy == "full" else " (%s)" % str(policy_of(segment.policy))


def _pair(steps: Optional[List[int]]) -> Optional[Tuple[int, int]]:
    if steps is None:
        return None
    start, stop = steps
    return start, stop


def _check(plan: Plan) -> None:
    """Raise a TypeError or ValueError for what ``to_json`` does not write."""
    sizes: List[Optional[int]] = [plan.plain, plan.peak, plan.batch_size]
    sizes += [plan.budget, plan.step_peak, *(point.peak for point in plan.curve)]
    times = [plan.step_time, *(point.time for point in plan.curve)]
    if not all(isinstance(time, (float, int, type(None))) for time in times):
        raise TypeError("times must be numbers")
    numbers: List[int] = []
    for segment in plan.segments:
        sizes += [segment.plain, segment.kept]
        numbers += [segment.number, *(segment.steps or ())]
        if not all(isinstance(name, str) for name in (segment.model, *segment.layers)):
            raise TypeError("names of layers must be text")
        if not isinstance(segment.recomputed, bool) or not segment.layers:
            raise TypeError("a segment has layers, and is recomputed or not")
        if segment.steps is not None and not segment.steps[0] < segment.steps[1]:
            raise ValueError("steps must be two growing numbers, not %r" % (segment.steps,))
    if not isinstance(plan.model, str) or not isinstance(plan.digest, str):
        raise TypeError("the names of the model and its digest must be text")
    for number in [*numbers, *(size for size in sizes if size is not None)]:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TypeError("numbers must be whole and not negative, not %r" % (number,))


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
