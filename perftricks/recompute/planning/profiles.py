"""A profile: where the memory of a training step goes; as table and JSON."""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from perftricks.recompute.planning.notebook import as_html
from perftricks.recompute.planning.plans import Plan, readable_size


class SegmentProfile(NamedTuple):
    """What a segment keeps for the backward pass, in bytes of a whole batch.

    Attributes:
        name: The first and the last layer.
        plain: In a plain run, its inputs included, where nobody keeps them anyway.
        full: If it is recomputed: these inputs.
        save_masks: If it is recomputed and keeps the masks of dropout; ``full`` is part of it.
        save_matmuls: If it is recomputed and keeps what its products give, and masks; ``full`` is
            part of it.
        recomputed: Whether the plan recomputes it.
    """

    name: str
    plain: int
    full: int
    save_masks: int
    save_matmuls: int
    recomputed: bool

    @property
    def saves(self) -> bool:
        """Whether less is kept if it is recomputed."""
        return self.full < self.plain


class Profile(NamedTuple):
    """Where the memory of a training step goes. ``str(profile)`` is a table.

    Attributes:
        model: The name of the model.
        batch_size: Samples in a batch.
        backend: What Keras computes with.
        weights: Bytes of all variables of the model.
        gradients: Bytes of the gradients of the trained ones.
        optimizer: Bytes of what the optimizer keeps.
        inputs: Bytes of a batch of inputs.
        activations: Bytes that a plain run keeps for the backward pass.
        segments: The segments of a plan.
        plan: The plan.
    """

    model: str
    batch_size: int
    backend: str
    weights: int
    gradients: int
    optimizer: int
    inputs: int
    activations: int
    segments: Tuple[SegmentProfile, ...]
    plan: Plan

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on what is recomputed."""
        return self.weights + self.gradients + self.optimizer + self.inputs

    @property
    def plain_peak(self) -> int:
        """Bytes that a plain step holds at its peak, about: all of the above."""
        return self.fixed + self.activations

    @property
    def planned_peak(self) -> int:
        """Bytes that a step under the plan holds at its peak, about.

        The backward pass goes from the last segment to the first: what those before one keep is
        there, what those after it kept is not, and one that is recomputed holds all that it keeps
        in a plain run.
        """
        before = 0
        highest = 0
        for segment in self.segments:
            highest = max(highest, before + segment.plain)
            before += segment.full if segment.recomputed else segment.plain
        return self.fixed + min(self.activations, highest)

    @property
    def largest(self) -> Optional[SegmentProfile]:
        """The segment that keeps most in a plain run."""
        return max(self.segments, key=lambda segment: segment.plain, default=None)

    def largest_batch(self, memory: int, planned: bool = True) -> int:
        """Return the largest batch whose step fits into some memory, about.

        Args:
            memory: Bytes that a whole step may take.
            planned: Whether the plan is applied.
        """
        constant = self.fixed - self.inputs
        peak = self.planned_peak if planned else self.plain_peak
        each = (peak - constant) / self.batch_size
        return max(0, int((memory - constant) // each)) if each else 0

    def to_json(self) -> str:
        """Return the numbers as JSON."""
        content: Dict[str, Any] = {
            **self._asdict(),
            "segments": [s._asdict() for s in self.segments],
        }
        del content["plan"]
        content.update(plain_peak=self.plain_peak, planned_peak=self.planned_peak)
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        whole = [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("inputs", self.inputs),
            ("activations", self.activations),
            ("peak, plain", self.plain_peak),
            ("peak, planned", self.planned_peak),
        ]
        lines = ["%s, batch of %d, %s; about" % (self.model, self.batch_size, self.backend)]
        lines += ["  %-14s %10s" % (name, readable_size(size)) for name, size in whole]
        columns = ("plain", "full", "save_masks", "save_matmuls")
        rows: List[Tuple[str, ...]] = [("segment", *columns, "")]
        for s in self.segments:
            sizes = [readable_size(getattr(s, column)) for column in columns]
            note = "" if s.recomputed else "runs plainly"
            rows.append((s.name, *sizes, note))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:5], widths[1:5]))]
            lines.append("  ".join([*cells, row[5]]).rstrip())
        return "\n".join(lines)
