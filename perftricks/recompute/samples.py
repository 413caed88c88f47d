"""What a model of Keras 3 is called with in a training step, as shapes and types.

A graph of layers knows what it takes. A model with a ``call`` of its own does not: a caller shows
some samples, arrays or symbols, nested as the model takes them, and any number of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from perftricks.recompute.outlining import Outlined

if TYPE_CHECKING:
    from perftricks.recompute.measure.kept import Spec


class NoSamplesError(ValueError):
    """A model has a call of its own, and nobody has shown what it takes."""


class Samples:
    """A batch without numbers.

    Attributes:
        inputs: What the model is called with.
        targets: What the loss compares with; None if the caller has shown none.
        structure: The inputs, nested as the model takes them.

    Args:
        model: A model of Keras 3.
        outlined: What planning sees of it.
        batch_size: Samples in a batch.
        length: What stands for other dimensions that are not known; None if there are none.
        x: Samples of what it is called with; None if it is a graph of layers.
        y: Samples of the targets, or None.

    Raises:
        ValueError: If the inputs are not known.
    """

    def __init__(
        self,
        model: Any,
        outlined: Outlined,
        batch_size: int,
        length: Optional[int],
        x: Any = None,
        y: Any = None,
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._length = length
        self._shapes: Dict[int, Tuple[Any, ...]] = {}  # of the tensors of graphs, by their ids
        root = outlined.root
        if root is not None:
            self.structure = root.functional._inputs_struct
            leaves = root.functional.inputs
            self._know_shapes(root.functional, _sizes_of(model, leaves, length, x))
        elif x is None:
            raise NoSamplesError(
                "%s has a call of its own, so what it takes is not known: give x=, samples as fit "
                "takes them (arrays, or keras.Input of their shape and type)" % model.name
            )
        else:
            self.structure = x
            leaves = symbols_of(x, "x")
        self.inputs: List[Spec] = list(map(self.spec, leaves))
        self.targets: Optional[List[Spec]] = None
        if y is not None:
            self.targets = list(map(self.spec, symbols_of(y, "y")))

    def _know_shapes(self, functional: Any, sizes: Sequence[Sequence[Any]]) -> None:
        """Find the shapes of the tensors of a graph.

        Args:
            functional: The model that runs it.
            sizes: Those of the other dimensions of each of its inputs.
        """
        from perftricks.recompute.keras3 import layers as keras3

        given = [
            self._filled((symbol.shape[0], *others), symbol.name)
            for symbol, others in zip(functional.inputs, sizes)
        ]
        try:
            self._shapes = keras3.known_shapes(functional, given)
        except Exception:  # a layer may refuse to tell, in any way; the graph itself tells most
            self._shapes = dict(zip(map(id, functional.inputs), given))

    def _filled(self, shape: Sequence[Optional[int]], name: str) -> Tuple[int, ...]:
        """Return a shape with what stands for dimensions that are not known.

        Raises:
            ValueError: If nothing does.
        """
        first, *others = shape
        if None in others and self._length is None:
            raise ValueError(
                "the tensor %s has the shape %s; give length=, what to take for the dimensions "
                "that are not known, or x=, samples that show them" % (name, tuple(shape))
            )
        filled = [self._batch_size if first is None else first]
        return (*filled, *(self._length or 0 if size is None else size for size in others))

    def spec(self, symbol: Any, is_trained: bool = False) -> Spec:
        """Return a symbolic tensor as one of the batch.

        Args:
            symbol: The tensor.
            is_trained: Whether gradients flow into it, if it has floating-point numbers.

        Raises:
            ValueError: If a dimension is not known.
        """
        from perftricks.recompute.measure.kept import Spec

        shape = self._filled(self._shapes.get(id(symbol), symbol.shape), symbol.name)
        return Spec(shape, symbol.dtype, is_trained and "float" in symbol.dtype)

    def call(self, tensors: List[Any]) -> Any:
        """Call the model on a batch as ``fit`` does; return what it returns."""
        import keras

        from perftricks.recompute.keras3 import private

        x = keras.tree.pack_sequence_as(self.structure, list(tensors))
        return private.in_training(self._model)(x)


def _sizes_of(
    model: Any, inputs: Sequence[Any], length: Optional[int], x: Any
) -> List[Sequence[Any]]:
    """Return the dimensions of inputs of a graph but the first, by the samples where they show."""
    import keras

    sizes: List[Sequence[Any]] = [tuple(symbol.shape[1:]) for symbol in inputs]
    if x is None or not any(None in some for some in sizes):
        return sizes
    if isinstance(x, dict) and all(symbol.name in x for symbol in inputs):
        x = [x[symbol.name] for symbol in inputs]
    shown = keras.tree.flatten(x)
    if len(shown) != len(inputs):
        raise ValueError(
            "%s takes %d tensors, and there are %d in x" % (model.name, len(inputs), len(shown))
        )
    for number, sample in enumerate(shown):
        others = tuple(getattr(sample, "shape", ())[1:])
        if len(others) == len(sizes[number]):
            pairs = zip(sizes[number], others)
            sizes[number] = [size if known is None else known for known, size in pairs]
            found = {size for known, size in zip(inputs[number].shape[1:], others) if known is None}
            if length is not None and found - {length, None}:
                raise ValueError(
                    "the length is %d, and x shows %s for dimensions that %s does not know; give "
                    "one of them" % (length, others, model.name)
                )
    return sizes


def check_batch(model: Any, outlined: Outlined, batch_size: int) -> None:
    """Refuse a batch that is none of those that a graph takes.

    Args:
        model: A model of Keras 3.
        outlined: What planning sees of it.
        batch_size: Samples in a batch.

    Raises:
        ValueError: If the graph is made for batches of another size.
    """
    if outlined.root is None:
        return
    sizes = {symbol.shape[0] for symbol in outlined.root.functional.inputs}
    if None not in sizes and batch_size not in sizes:
        raise ValueError(
            "%s takes batches of %s samples (batch_shape), and batch_size is %d"
            % (model.name, " or ".join(map(str, sorted(sizes))), batch_size)
        )


def symbols_of(samples: Any, name: str) -> List[Any]:
    """List samples as symbolic tensors with any number of them.

    Args:
        samples: Arrays, tensors or symbolic tensors, nested.
        name: What to call them in an error.

    Raises:
        ValueError: If something else is among them.
    """
    import keras

    found = []
    for leaf in keras.tree.flatten(samples):
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if not shape or dtype is None:
            raise ValueError(
                "%s must be samples: arrays, tensors or keras.Input, nested as the model takes "
                "them; there is %r among them" % (name, leaf)
            )
        found.append(keras.KerasTensor((None, *shape[1:]), _type_of(leaf), name=name))
    return found


def _type_of(leaf: Any) -> str:
    """Return the type in which Keras would hand an array to a model."""
    import keras

    dtype = str(keras.backend.standardize_dtype(leaf.dtype))
    is_array = type(leaf).__module__ == "numpy"
    if is_array and "float" in dtype:
        return str(keras.config.floatx())
    if keras.config.backend() == "jax" and not _has_64_bits():
        return dtype.replace("64", "32")
    return dtype


def _has_64_bits() -> bool:
    import jax

    return bool(jax.config.jax_enable_x64)


def build(model: Any, x: Any) -> None:
    """Build a model that is not built yet, as a call on samples would; nothing is computed.

    Args:
        model: A model of Keras 3.
        x: Samples of what it is called with.
    """
    import keras

    from perftricks.recompute.keras3 import private

    symbols = [keras.KerasTensor((1, *s.shape[1:]), s.dtype) for s in symbols_of(x, "x")]
    private.in_training(model)(keras.tree.pack_sequence_as(x, symbols))
