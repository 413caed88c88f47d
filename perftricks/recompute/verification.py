"""``verify``: run a model plainly and recomputed from the same start, and compare everything."""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from perftricks.recompute import applying, choosing, models, switch
from perftricks.recompute.comparing import Difference, compare, same_bits
from perftricks.recompute.inspection import decorated_in, is_decorated
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.planning.notebook import as_html
from perftricks.recompute.planning.plans import readable_size
from perftricks.recompute.stacks import family_of, generation_of
from perftricks.recompute.structures import Structures

_ULPS = 64
_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Verification(NamedTuple):
    """What ``verify`` found. ``str(verification)`` is a report.

    Attributes:
        model: The name of the model.
        differences: One for the loss, each gradient and each state variable, of each step.
        tolerance: The relative difference up to which a quantity counts as equal.
        repeatable: Whether a second plain run gave the same bits as the first.
        plain_peak: Bytes at the peak of the plain run, or None if not measured.
        recomputed_peak: The same, recomputed.
        memory: How memory was measured, or why it was not.
        suspects: Layers that return something else when they are run again from the same state:
            their call is not deterministic in a way that can be replayed.
    """

    model: str
    differences: Tuple[Difference, ...]
    tolerance: float
    repeatable: bool
    plain_peak: Optional[int]
    recomputed_peak: Optional[int]
    memory: str
    suspects: Tuple[str, ...]

    @property
    def bitwise(self) -> bool:
        """Whether every bit is the same."""
        return all(difference.bitwise for difference in self.differences)

    @property
    def ok(self) -> bool:
        """Whether loss, gradients and state are the same, within ``tolerance``."""
        return all(
            difference.bitwise or difference.relative <= self.tolerance
            for difference in self.differences
        )

    def worst(self, kind: str) -> Optional[Difference]:
        """Return the largest difference of a kind (``loss``, ``gradient``, ``state``)."""
        some = [difference for difference in self.differences if difference.kind == kind]
        return max(some, key=lambda d: (not d.bitwise, d.relative), default=None)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        verdict = "the same, bit by bit" if self.bitwise else "NOT the same"
        if self.ok and not self.bitwise:
            verdict = "the same within rounding (relative tolerance %.1e)" % self.tolerance
        lines = ["%s, recomputed and plain: %s" % (self.model, verdict)]
        for kind in ("loss", "gradient", "state"):
            some = [difference for difference in self.differences if difference.kind == kind]
            worst = self.worst(kind)
            if worst is None:
                continue
            text = (
                "%-8s  %4d compared, %4d equal bit by bit; largest difference %.2g, relative %.2g"
            )
            equal = sum(difference.bitwise for difference in some)
            line = text % (kind, len(some), equal, worst.absolute, worst.relative)
            lines.append(line if worst.bitwise else "%s, in %s" % (line, worst.name))
        if self.plain_peak is None or self.recomputed_peak is None:
            lines.append("peak memory " + self.memory)
        else:
            lines.append(
                "peak memory %s plain, %s recomputed (%s)"
                % (
                    readable_size(self.plain_peak),
                    readable_size(self.recomputed_peak),
                    self.memory,
                )
            )
        if not self.repeatable:
            lines.append("two plain runs from the same state differ as well")
        if self.suspects:
            lines.append(
                "run twice from the same state, these return something else (do they use random "
                "numbers other than keras.random?): " + ", ".join(self.suspects)
            )
        return "\n".join(lines)


def verify(
    model: Any,
    x: Any,
    y: Any,
    *,
    loss: Any = None,
    sample_weight: Any = None,
    steps: int = 1,
    tolerance: Optional[float] = None,
) -> Verification:
    """Compare a recomputed run of a model with a plain one: loss, gradients, state and memory.

    Both start from the same weights, state and seeds, and run eagerly in training mode, operation
    by operation (on JAX too, where that is slow for a large model; models of Keras 2 in a graph
    with sessions run once, and both sets of gradients come out of that). The model and the random
    numbers are left as they were found. What is recomputed is what ``apply`` has chosen and what is
    decorated with ``recompute_grad``; where there is neither, the default of ``apply`` is used for
    the time of the run.

    Args:
        model: A built model of Keras 3 or Keras 2.
        x: One batch of its inputs: what ``model.train_on_batch`` takes.
        y: The targets.
        loss: A Keras loss, its name, or a function of ``y`` and of what the model returns. By
            default the loss the model is compiled with.
        sample_weight: Weights of the samples, shape ``(batch,)``.
        steps: Forward and backward passes in a row; the state is carried on, weights stay.
        tolerance: The largest relative difference that counts as equal. By default 64 units in the
            last place of the precision in which the model computes, but 4 in half precision.

    Returns:
        The differences; ``print`` it for a report, ask ``.ok`` for the verdict.

    Raises:
        TypeError: If ``model`` is no Keras model.
        ValueError: If it is not built, or there is no loss; or as ``apply``.

    Example:
        >>> from perftricks import recompute
        >>> assert recompute.verify(model, x, y, loss="mse").ok  # doctest: +SKIP
    """
    models.check(model, "verify")
    steps = choosing.check_count("steps", steps)
    if loss is None and not _is_compiled(model):
        raise ValueError(
            "verify needs a loss: pass loss='mse' or the like, or compile %s with one" % model.name
        )
    if generation_of(model) == 2:
        return _verify_keras2(model, x, y, loss, sample_weight, steps, tolerance)
    from perftricks.recompute.keras3.replicas import one_replica

    with one_replica():
        return _verify_keras3(model, x, y, loss, sample_weight, steps, tolerance)


def _verify_keras3(
    model: Any,
    x: Any,
    y: Any,
    loss: Any,
    sample_weight: Any,
    steps: int,
    tolerance: Optional[float],
) -> Verification:
    from perftricks.recompute.keras3 import trial as trials

    x, y, sample_weight = _tensors(x), _tensors(y), _tensors(sample_weight)
    compute_loss = _loss(model, loss, x, y, sample_weight)
    ours = not models.is_applied(model) and not is_decorated(model)
    before = models.compiled_functions(model)
    try:
        if ours:
            applying.apply(model)
        snapshot = trials.Snapshot(model)

        def run(on: bool, measure: bool = True) -> Any:
            try:
                with switch.recompute_scope(on):
                    return trials.run(model, compute_loss, x, steps, measure)
            finally:
                snapshot.restore()

        plain, again, recomputed = run(False), run(False, measure=False), run(True)
        differences = compare(plain.arrays, recomputed.arrays)
        allowed = _tolerance(str(model.compute_dtype)) if tolerance is None else tolerance
        exact = all(d.bitwise or d.relative <= allowed for d in differences)
        suspects: Tuple[str, ...] = ()
        if not exact:
            try:
                with switch.recompute_scope(False):
                    suspects = _suspects(model, x)
            finally:
                snapshot.restore()
    finally:
        if ours:
            applying.remove(model)
        models.put_back_compiled(before)
    return Verification(
        model.name,
        tuple(differences),
        allowed,
        all(d.bitwise for d in compare(plain.arrays, again.arrays)),
        plain.peak,
        recomputed.peak,
        recomputed.how,
        suspects,
    )


def _is_compiled(model: Any) -> bool:
    if generation_of(model) == 2:
        return getattr(model, "optimizer", None) is not None
    return bool(getattr(model, "compiled", False))


def _verify_keras2(
    model: Any,
    x: Any,
    y: Any,
    loss: Any,
    sample_weight: Any,
    steps: int,
    tolerance: Optional[float],
) -> Verification:
    from perftricks.recompute.keras2 import trial as trials

    ours = not models.is_applied(model) and not is_decorated(model)
    if not ours and not models.is_applied(model):
        _check_graph(model)
    try:
        if ours:
            applying.apply(model)
        trial = trials.run(model, x, y, loss, sample_weight, steps)
    finally:
        if ours:
            applying.remove(model)
    allowed = _tolerance(trials.precision_of(model)) if tolerance is None else tolerance
    return Verification(
        model.name,
        tuple(compare(trial.plain, trial.recomputed)),
        allowed,
        all(d.bitwise for d in compare(trial.plain, trial.again)),
        trial.plain_peak,
        trial.recomputed_peak,
        trial.how,
        (),
    )


def _check_graph(model: Any) -> None:
    """Refuse a model whose decorated layers are plain in the graph that was built of them."""
    parts = decorated_in(model)
    if family_of(model).is_static(model) and not any(part.on for part in parts):
        raise ValueError(
            "nothing of %s is recomputed, so there is nothing to verify; %s: %s"
            % (model.name, parts[0].name, parts[0].why)
        )


def _tensors(structure: Any) -> Any:
    import keras

    return Structures(keras.tree.flatten, keras.tree.pack_sequence_as).map(
        lambda leaf: leaf if leaf is None else keras.ops.convert_to_tensor(leaf), structure
    )


def _loss(model: Any, loss: Any, x: Any, y: Any, sample_weight: Any) -> Callable[[Any], Any]:
    import keras

    if loss is None:
        return lambda outputs: model.compute_loss(
            x=x, y=y, y_pred=outputs, sample_weight=sample_weight
        )
    function = keras.losses.get(loss)

    def compute(outputs: Any) -> Any:
        if isinstance(function, keras.losses.Loss):
            value = function(y, outputs, sample_weight=sample_weight)
        else:
            each = function(y, outputs)
            value = keras.ops.mean(each if sample_weight is None else each * sample_weight)
        for extra in model.losses:
            value = value + keras.ops.cast(keras.ops.sum(extra), value.dtype)
        return value

    return compute


def _tolerance(precision: str) -> float:
    return _EPSILON.get(precision, 2.0**-23) * (4 if precision.endswith("16") else _ULPS)


def _suspects(model: Any, x: Any) -> Tuple[str, ...]:
    """Run each layer of a forward pass twice from the same state; name those that differ."""
    import keras

    from perftricks.recompute.keras3.trial import TorchState, to_array, torch_modules
    from perftricks.recompute.python_state import Attributes

    flagged: List[Any] = []
    probing: List[Any] = []
    owners = [
        layer
        for layer in keras3.everything_in(model)
        if layer is not model and not isinstance(layer, keras.layers.InputLayer)
    ]

    def probe(layer: Any) -> Callable[..., Any]:
        plain = layer.call
        modules = torch_modules(layer)
        attributes = Attributes([*keras3.everything_in(layer), *modules])

        def twice(*args: Any, **kwargs: Any) -> Any:
            if probing:
                return plain(*args, **kwargs)
            probing.append(layer)
            results = []
            torch_state = TorchState(modules)  # replayed too; Keras' dropout uses it there
            try:
                for _ in range(2):
                    with keras.StatelessScope():
                        outputs = keras.tree.flatten(plain(*args, **kwargs))
                    results.append([to_array(t) for t in outputs if keras.ops.is_tensor(t)])
                    attributes.restore()
                    torch_state.restore()
            finally:
                probing.pop()
            first, second = results
            if len(first) != len(second) or not all(map(same_bits, first, second)):
                flagged.append(layer)
            return plain(*args, **kwargs)

        return twice

    saved = [(vars(layer), vars(layer).get("call")) for layer in owners]
    for layer in owners:
        replacement = probe(layer)
        vars(layer)["call"] = replacement
    try:
        model(x, training=True)
    finally:
        for namespace, call in saved:
            namespace.pop("call", None)
            if call is not None:
                namespace["call"] = call
    inner = [
        layer
        for layer in flagged
        if not any(below is not layer and _in(below, flagged) for below in _below(layer))
    ]
    return tuple(dict.fromkeys("%s (%s)" % (x.name, type(x).__name__) for x in inner))


def _below(layer: Any) -> List[Any]:
    return keras3.everything_in(layer)


def _in(x: Any, things: List[Any]) -> bool:
    return any(x is thing for thing in things)
