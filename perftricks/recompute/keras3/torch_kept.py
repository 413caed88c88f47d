"""torch: what operations give in the first run of a call, kept for the later ones.

Below autograd operations are intercepted. In the first run it is kept what operations of some kinds
give; in a later run the operation is not done again. Autograd takes what was kept for what the
operation gave, and saves it, or not, as ever.

Where kinds alone tell what is kept, operations of other kinds are not touched. Where names or a
function of the user tell, each operation passes a dispatch mode, for any may be what was named. So
it does beside other dispatch modes, which shall not be told of what is not done again.

Operations are counted by their kind: the third product of the second run is the third of the first.
What has been changed in place since, by an activation after a convolution for example, is computed
again. So is attention that draws a mask: the random numbers after it must be those that they were.

A mask is what ``bernoulli`` draws, as dropout on a CPU and that with a seed do. It is kept as a
byte a number, with the state of the generator after it, which a later run puts there. On a GPU,
where dropout without a seed is one operation and drawing costs next to nothing, it is drawn again.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perftricks.recompute.keras3 import private_torch
from perftricks.recompute.policies import ATTENTION, CONVOLUTION, MASK, MATMUL, Policy

_NAMES = {
    MATMUL: ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_int_mm", "_scaled_mm"),
    CONVOLUTION: ("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"),
    ATTENTION: (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    ),
}
# Variables are read by copies, casts and views, and not in each run by the same.
_OF_READS = {"_to_copy", "alias", "clone", "detach", "view", "_unsafe_view", "t"}
_local = threading.local()
_Do = Callable[[], Any]
_Place = Tuple[Any, int]  # an operation, and how many of it there were before


def _operations() -> Dict[Any, str]:
    """Return the kinds of operations, by the operations that this torch has."""
    return {
        getattr(torch.ops.aten, name).default: kind
        for kind, names in _NAMES.items()
        for name in names
        if hasattr(torch.ops.aten, name) and hasattr(getattr(torch.ops.aten, name), "default")
    }


_KINDS = _operations()
_MASKS = (torch.ops.aten.bernoulli_.float, torch.ops.aten.bernoulli.default)


class _Given(NamedTuple):
    """What an operation gave: tensors with their versions, and anything else."""

    results: Any
    versions: List[int]

    @classmethod
    def of(cls, results: Any) -> _Given:
        return cls(_aliases(results), [x._version for x in _tensors(results)])

    @property
    def is_unchanged(self) -> bool:
        return [x._version for x in _tensors(self.results)] == self.versions


def _tensors(results: Any) -> List[Any]:
    several = results if isinstance(results, (tuple, list)) else [results]
    return [x for x in several if isinstance(x, torch.Tensor)]


def _aliases(results: Any) -> Any:
    """Return the same numbers in other tensors, which autograd may make its own."""
    if isinstance(results, torch.Tensor):
        return results.detach()
    if isinstance(results, (tuple, list)):
        return type(results)(_aliases(x) for x in results)
    return results


class _Mask(NamedTuple):
    """Zeros and ones that were drawn, and the state that the generator was left in."""

    mask: Any
    state: Any

    @classmethod
    def of(cls, drawn: Any, generator: Any) -> _Mask:
        return cls(drawn.bool(), None if generator is None else generator.get_state())

    def again(self, func: Any, tensor: Any, generator: Any) -> Any:
        """Do to a tensor what the operation did that drew it."""
        if generator is not None:
            generator.set_state(self.state)
        if func is torch.ops.aten.bernoulli_.float:
            return tensor.copy_(self.mask)
        return self.mask.to(tensor.dtype)


def _generator(tensor: Any, kwargs: Optional[Dict[str, Any]]) -> Any:
    """Return the generator that an operation draws from; None where there are no numbers."""
    given = (kwargs or {}).get("generator")
    if given is not None or tensor.device.type == "meta":
        return given
    if tensor.device.type == "cuda":
        return torch.cuda.default_generators[tensor.device.index]
    return torch.default_generator if tensor.device.type == "cpu" else None


class Kept:
    """What the runs of one call keep and take.

    Args:
        policy: What is kept.
    """

    def __init__(self, policy: Policy) -> None:
        self._kinds = frozenset(op for op, kind in _KINDS.items() if policy.keeps(kind))
        self._masks = _MASKS if policy.keeps(MASK) else ()
        self._has_names = not isinstance(policy.given, str)
        self._given: Dict[_Place, Any] = {}

    def first(self) -> Any:
        """Return a context for the first run, in which things are kept."""
        return self._context(_First(self._kinds, self._masks, self._given, self._has_names))

    @property
    def storages(self) -> Dict[int, Any]:
        """Where what is kept is, each by what identifies it."""
        tensors = [x for given in self._given.values() for x in _tensors(given[0])]
        storages = [x.untyped_storage() for x in tensors]
        return {storage._cdata: storage for storage in storages}

    def again(self) -> Any:
        """Return a context for a later run, in which they are taken."""
        return self._context(_Again(self._given))

    def _context(self, run: _Run) -> Any:
        if self._has_names or private_torch.has_dispatch_modes() or _interception() is None:
            return _Mode(run)
        return _Intercepted(run)


def mark(x: Any, name: str) -> Any:
    """Keep a tensor in the first run of a call; nothing happens in later ones."""
    run = getattr(_local, "run", None)
    if run is not None and isinstance(x, torch.Tensor):
        run.mark(x)
    return x


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Neither keep nor take anything for a while, in whatever calls run in this thread."""
    runs, run = _runs(), getattr(_local, "run", None)
    waiting = runs[:]
    runs.clear()
    _local.run = None
    try:
        yield
    finally:
        runs[:] = waiting
        _local.run = run


class _Mode(TorchDispatchMode):  # type: ignore[misc]
    """Has each operation pass a run."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def __enter__(self) -> Any:
        self._outer = getattr(_local, "run", None)
        _local.run = self._run
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _local.run = self._outer

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        kwargs = kwargs or {}
        return self._run.operation(func, lambda: func(*args, **kwargs), args, kwargs)


class _Intercepted:
    """Has the operations that may be kept pass a run."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        _runs().append(self._run)
        self._guard = _interception().within()  # type: ignore[union-attr]
        self._guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._guard.__exit__(*error)
        _runs().remove(self._run)


def _runs() -> List[_Run]:
    """List the runs in this thread that are inside of each other, the innermost last."""
    found: List[_Run] = vars(_local).setdefault("runs", [])
    return found


_made: List[Optional[private_torch.Interception]] = []
_lock = threading.Lock()


def _interception() -> Optional[private_torch.Interception]:
    """Return what intercepts operations that may be kept; None where this torch cannot."""
    if not _made:
        with _lock:
            if not _made:
                try:
                    _made.append(private_torch.Interception((*_KINDS, *_MASKS), _stand_in))
                except (AttributeError, RuntimeError, TypeError):
                    _made.append(None)
    return _made[0]


def _stand_in(func: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
    """Do an operation as the innermost run has it, which may do it as the next one has it."""
    runs = _runs()
    if not runs:
        with _interception().without():  # type: ignore[union-attr]
            return func(*args, **kwargs)
    run = runs.pop()
    try:
        return run.operation(func, lambda: _stand_in(func, args, kwargs), args, kwargs)
    finally:
        runs.append(run)


class _Run:
    """Counts operations of each kind."""

    def __init__(self) -> None:
        self._counts: Dict[Any, int] = {}

    def operation(self, func: Any, do: _Do, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Return what an operation gives; ``do`` does it."""
        raise NotImplementedError

    def mark(self, x: Any) -> None:
        """Take notice of a tensor that is to be kept."""

    def _place(self, operation: Any) -> _Place:
        number = self._counts.get(operation, 0)
        self._counts[operation] = number + 1
        return operation, number


class _First(_Run):
    """Keeps what the operations give that a policy names."""

    def __init__(self, kinds: Any, masks: Any, given: Dict[_Place, Any], has_names: bool) -> None:
        super().__init__()
        self._kinds = kinds
        self._masks = masks
        self._given = given
        self._has_names = has_names
        self._made: Dict[Any, _Place] = {}

    def operation(self, func: Any, do: _Do, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Do it, and keep what it gives, or not."""
        results = do()
        if func in self._kinds:
            place = self._place(func)
            if not _draws(func, args, kwargs):
                self._given[place] = _Given.of(results)
        elif func in self._masks:
            place = self._place(func)
            generator = _generator(args[0], kwargs)
            if generator is not None or args[0].device.type == "meta":
                self._given[place] = _Mask.of(results, generator)
        elif self._has_names:
            place = self._place(func)
        else:
            return results
        if self._has_names:
            self._note(func, place, results)
        return results

    def _note(self, func: Any, place: _Place, results: Any) -> None:
        """Note which operation has made a tensor, for ``mark``."""
        is_read = func._schema.name.partition("::")[2] in _OF_READS
        is_maker = not (is_read or func._schema.is_mutable or _draws(func, (), None))
        for x in _tensors(results):
            if is_maker:
                self._made[_identity(x)] = place
            else:
                self._made.pop(_identity(x), None)

    def mark(self, x: Any) -> None:
        """Keep a tensor, if one operation has just made it."""
        place = self._made.get(_identity(x))
        if place is not None:
            self._given[place] = _Given.of(x)


class _Again(_Run):
    """Gives what was kept in place of what operations would give."""

    def __init__(self, given: Dict[_Place, Any]) -> None:
        super().__init__()
        self._given = given
        self._of = {operation for operation, _ in given}

    def operation(self, func: Any, do: _Do, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Give what was kept, or do it."""
        if func in self._of:
            given = self._given.get(self._place(func))
            if isinstance(given, _Mask):
                return given.again(func, args[0], _generator(args[0], kwargs))
            if given is not None and given.is_unchanged:
                return _aliases(given.results)
        return do()


def _identity(x: Any) -> Tuple[Any, ...]:
    """Return what tells a tensor from others that are alive."""
    return x.data_ptr(), tuple(x.shape), x.dtype


def _draws(func: Any, args: Any, kwargs: Optional[Dict[str, Any]]) -> bool:
    """Tell whether an operation draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    if _KINDS.get(func) != ATTENTION:
        return True
    names = [argument.name for argument in func._schema.arguments]
    rate = {**dict(zip(names, args)), **(kwargs or {})}.get("dropout_p", 0.0)
    return bool(rate)
