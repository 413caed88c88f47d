"""``apply`` and ``remove``: recompute segments of a model that exists, and undo it.

::

    model ──outlining──▶ Outline: names, numbers, bytes ──planning──▶ Plan
      ▲                                                                │
      └──────────────────────────── hooks ◀────────────────────────────┘
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Union

from perftricks.recompute import choosing
from perftricks.recompute.hooks import put_in, take_out
from perftricks.recompute.models import check
from perftricks.recompute.outlining import Outlined
from perftricks.recompute.planning.plans import Plan
from perftricks.recompute.policies import Given


def apply(
    model: Any,
    *,
    plan: Optional[Plan] = None,
    every: Optional[int] = None,
    layers: Any = None,
    boundaries: Any = None,
    policy: Optional[Given] = None,
    budget: Union[int, str, None] = None,
    batch_size: Optional[int] = None,
    length: Optional[int] = None,
    loss: Any = None,
    optimizer: Any = None,
    x: Any = None,
    y: Any = None,
) -> Plan:
    """Recompute the activations of a built model in the backward pass, segment by segment.

    The model is changed in place and keeps its weights, layers, configuration and compiled state;
    what it computes, and its gradients, stay the same. It is saved as it was, and loads without
    perftricks. Without an option, a graph of layers (Functional, Sequential) is cut where
    everything flows through a single tensor, into as many segments as give the lowest peak by the
    shapes of its tensors; in a nested model that holds most of the memory the same is done inside.
    The last segment runs plainly: the backward pass begins with it, so to forget it saves nothing.
    In a model with a ``call`` of its own each direct sub-layer that has weights or sub-layers is a
    segment.

    It is on unless ``RECOMPUTE=0`` or ``recompute_scope(False)`` says otherwise when the model
    runs or is traced. Applying again replaces the plan. If the model is part of a larger one that
    has been compiled, compile that again, or apply to the larger one. Adding layers to a Sequential
    discards the plan. In a graph with sessions (keras 2.3.1, TensorFlow 1) it is what gradients
    that are built from then on do.

    Args:
        model: A built model of Keras 3 or Keras 2.
        plan: What ``plan`` has chosen, for this model or for another one of the same structure;
            then the other options are not given.
        every: Make a segment of as many steps between cut points (1 for the most segments).
        layers: Instead of segments of a graph, recompute each of these layers on its own, wherever
            in the model they are: a class, the name of a layer, a function of a layer that returns
            a bool, or several of them. A layer inside one that is chosen is not chosen again.
        boundaries: Cut a graph after these: names of layers, layers, symbolic tensors, or one.
        policy: What is kept beside the inputs of segments: None or "full" for nothing; "save_masks"
            for masks of dropout, "save_matmuls" for these and what matrix products and convolutions
            give, "save_attention" for what a fused attention operation gives; a list of names that
            ``keep`` has given to tensors (a RuntimeWarning tells of those that it gives nowhere);
            or a function of the kind of an operation and its name, which returns True to keep what
            it gives; on JAX also one of ``jax.checkpoint_policies``.
        budget: What a training step may take: bytes, or a size such as "6GiB". It chooses segments
            and policies, so none of the options above is given. For models of Keras 3.
        batch_size: With a budget: samples in a batch.
        length: With a budget: what to take for each other dimension of the inputs that is not
            known: the tokens of a text, the sides of an image.
        loss: With a budget: a Keras loss, its name, or a list of them, one for each output. None
            for what the model is compiled with; if it is not, the mean squared error. A model with
            a ``train_step`` or ``compute_loss`` of its own needs it, for a step with that loss.
        optimizer: With a budget: the optimizer or its name; None for that of the model, if it is
            compiled.
        x: For a model with a ``call`` of its own, with a budget: samples of what it is called with,
            arrays or ``keras.Input`` nested as ``fit`` takes them. Only shapes and types are looked
            at, and ``batch_size`` says how many there are. A model that is not built is built.
            A graph of layers needs none; dimensions that it does not know are taken from them.
        y: With a budget: samples of the targets; None for what goes with the outputs and the loss.

    Returns:
        The plan; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model, or an option has the wrong type.
        ValueError: If the model is not built, a name is unknown, there is nothing to segment, or
            the plan was made for a model of another structure.

    Example:
        >>> from perftricks import recompute
        >>> model = keras.applications.ResNet50()  # doctest: +SKIP
        >>> print(recompute.apply(model))  # doctest: +SKIP

    Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
    """
    check(model, "apply", x)
    outlined = Outlined(model)
    options = {
        **{"every": every, "layers": layers, "boundaries": boundaries, "policy": policy},
        **{"budget": budget, "batch_size": batch_size, "length": length},
        **{"loss": loss, "optimizer": optimizer, "x": x, "y": y},
    }
    if plan is None:
        plan = choosing.plan(model, **options)
    else:
        _check_plan(plan, outlined, model, options)
    put_in(model, outlined, plan)
    return plan


def remove(model: Any) -> None:
    """Undo ``apply``: the model, and every layer in it, is as it was before.

    A model to which nothing was applied stays as it is.

    Args:
        model: A Keras model.

    Raises:
        TypeError: If ``model`` is no Keras model.
    """
    check(model, "remove")
    take_out(model)


def _check_plan(plan: Any, outlined: Outlined, model: Any, options: Dict[str, Any]) -> None:
    if not isinstance(plan, Plan):
        raise TypeError("plan must be what recompute.plan or Plan.load returns, got %r" % (plan,))
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError("with a plan, which has chosen, %s cannot be given" % ", ".join(given))
    fits = plan.digest == outlined.outline.digest() and all(
        segment.number < len(outlined.layers)
        if segment.steps is None
        else segment.number in outlined.graphs
        and segment.steps[1] <= len(outlined.graphs[segment.number].nodes)
        for segment in plan.segments
    )
    if not fits:
        raise ValueError(
            "the plan was made for %s, whose layers or their connections are not those of %s; make "
            "one for this model: recompute.plan(model)" % (plan.model, model.name)
        )
