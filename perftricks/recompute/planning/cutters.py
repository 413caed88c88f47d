"""Where a graph is cut: the ways that ``plan`` and ``apply`` offer."""

from __future__ import annotations

from typing import AbstractSet, Any, List, Tuple

from perftricks.recompute.planning.chain import Chain, Step
from perftricks.recompute.planning.outline import Graph


class Cutter:
    """The default: the cuts with the lowest peak."""

    only_graphs = False

    def __call__(self, chain: Chain) -> Tuple[List[int], bool]:
        """Return after which steps to cut, and whether that was asked for.

        If it was, segments that save nothing are recomputed too.
        """
        return chain.best_cuts(), False

    def wants(self, model: Any) -> bool:
        """Tell whether to look into a nested model, however small."""
        return False


class Every(Cutter):
    """A cut at every k-th cut point."""

    only_graphs = True

    def __init__(self, every: int) -> None:
        self._every = every

    def __call__(self, chain: Chain) -> Tuple[List[int], bool]:
        """Return after which steps to cut, and whether that was asked for."""
        cuts = chain.cut_points()[self._every - 1 :: self._every]
        return cuts, bool(cuts)


class Boundaries(Cutter):
    """Cuts after calls of layers with some names, and calls that give some tensors.

    Args:
        names: The names.
        tensors: The numbers of the tensors.
    """

    only_graphs = True

    def __init__(self, names: AbstractSet[str], tensors: AbstractSet[int]) -> None:
        self._names = names
        self._tensors = tensors

    def __call__(self, chain: Chain) -> Tuple[List[int], bool]:
        """Return after which steps to cut, and whether that was asked for."""
        cuts = [number for number, step in enumerate(chain.steps) if self._ends(step)]
        return [cut for cut in cuts if cut < len(chain.steps) - 1], bool(cuts)

    def wants(self, model: Any) -> bool:
        """Tell whether a boundary is somewhere inside."""
        graphs = model.everything if isinstance(model, Graph) else ()
        return any(self._ends(call.step) for graph in graphs for call in graph.calls)

    def _ends(self, step: Step) -> bool:
        return step.name in self._names or any(t.key in self._tensors for t in step.gives)
