"""How operations are copied, written down so that an operation of the graph can carry it."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import tensorflow as tf

from perftricks.recompute.keras2 import private_graphs
from perftricks.recompute.keras2.purity import BRANCHES, FUNCTIONS

v1 = tf.compat.v1


class Recipe:
    """How to copy some operations, as something that can be an attribute of an operation.

    Attributes:
        starts: The names of the tensors that stand for what is not copied.
        outputs: The names of the tensors that are wanted.
        waits: The names of operations that start from nothing, and have to wait all the same.
        kept: The names of tensors that the first run gives in the place of the copy.
        measured: Likewise of tensors whose shapes it gives.

    Args:
        versions: The versions of the graph.
    """

    def __init__(self, versions: Any) -> None:
        self.starts: List[str] = []
        self.outputs: List[str] = []
        self.waits: List[str] = []
        self.kept: List[str] = []
        self.measured: List[str] = []
        self.graph_def = v1.GraphDef()
        self.graph_def.versions.CopyFrom(versions)
        self.contexts: List[bytes] = []
        self.shapes: Dict[str, Any] = {}

    def add(self, op: Any, control: Sequence[str], renamed: Dict[str, str], waits: bool) -> None:
        """Add an operation.

        Args:
            op: The operation.
            control: The names of those it waits for.
            renamed: The names of inputs that have others in the copy, by their names in the graph.
            waits: Whether it starts from nothing.
        """
        node = self.graph_def.node.add()
        node.CopyFrom(op.node_def)
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(renamed.get(name if ":" in name else name + ":0", name) for name in data)
        node.input.extend("^" + name for name in control)
        if waits:
            self.waits.append(op.name)
        if op.type in FUNCTIONS:
            node.attr["_gradient_op_type"].s = tf.compat.as_bytes(private_graphs.gradient_name(op))
        if "_class" in node.attr:
            del node.attr["_class"]
        for tensor in op.outputs:
            self.shapes[tensor.name] = tensor.shape

    def divide(
        self, op: Any, functions: Sequence[str], used: Sequence[int], takes: Sequence[Any]
    ) -> None:
        """Let the functional ``If`` that was added last call other functions, without state.

        Args:
            op: What it is in the graph.
            functions: The names of the other branches.
            used: The numbers of its outputs that they give.
            takes: What it takes now: the predicate and the inputs of the branches.
        """
        node = self.graph_def.node[-1]
        node.op = "StatelessIf"
        names = dict(zip((x.name for x in op.inputs), node.input))
        control = [name for name in node.input if name.startswith("^")]
        del node.input[:]
        node.input.extend([*(names.get(x.name, x.name) for x in takes), *control])
        node.attr.pop("_read_only_resource_inputs", None)
        for attribute, function in zip(("then_branch", "else_branch"), functions):
            node.attr[attribute].func.name = function
        for output in op.outputs:
            self.shapes.pop(output.name, None)
        taken, given = node.attr["Tin"].list, node.attr["Tout"].list
        shapes = node.attr["output_shapes"].list
        del taken.type[:], given.type[:], shapes.shape[:]
        taken.type.extend(x.dtype.as_datatype_enum for x in takes[1:])
        for position, number in enumerate(used):
            output = op.outputs[number]
            given.type.append(output.dtype.as_datatype_enum)
            shapes.shape.add().CopyFrom(output.shape.as_proto())
            self.shapes["%s:%d" % (op.name, position)] = output.shape

    def add_switch(self, name: str, source: str, predicate: str, dtype: Any) -> None:
        """Add a switch that leads a tensor into a branch."""
        node = self.graph_def.node.add()
        node.name = name
        node.op = "Switch"
        node.input.extend([source, predicate])
        node.attr["T"].type = dtype.base_dtype.as_datatype_enum

    def add_context(self, proto: Any) -> None:
        """Add a context of control flow."""
        self.contexts.append(proto.SerializeToString())

    def SerializeToString(self) -> bytes:  # noqa: N802, the name that messages have
        """Return it as bytes."""
        message = v1.MetaGraphDef()
        message.graph_def.CopyFrom(self.graph_def)
        collections = message.collection_def
        collections["starts"].node_list.value.extend(self.starts)
        collections["outputs"].node_list.value.extend(self.outputs)
        collections["shaped"].node_list.value.extend(self.shapes)
        collections["shapes"].bytes_list.value.extend(
            shape.as_proto().SerializeToString() for shape in self.shapes.values()
        )
        collections["contexts"].bytes_list.value.extend(self.contexts)
        collections["waits"].node_list.value.extend(self.waits)
        collections["kept"].node_list.value.extend(self.kept)
        collections["measured"].node_list.value.extend(self.measured)
        return bytes(message.SerializeToString())


def parse_recipe(data: bytes) -> Recipe:
    """Return a recipe from bytes."""
    message = v1.MetaGraphDef.FromString(data)
    recipe = Recipe(message.graph_def.versions)
    recipe.graph_def = message.graph_def
    collections = message.collection_def
    recipe.starts.extend(collections["starts"].node_list.value)
    recipe.outputs.extend(collections["outputs"].node_list.value)
    recipe.contexts.extend(collections["contexts"].bytes_list.value)
    recipe.waits.extend(collections["waits"].node_list.value)
    recipe.kept.extend(collections["kept"].node_list.value)
    recipe.measured.extend(collections["measured"].node_list.value)
    shapes = map(private_graphs.parse_shape, collections["shapes"].bytes_list.value)
    recipe.shapes.update(zip(collections["shaped"].node_list.value, shapes))
    return recipe


def import_recipe(graph: Any, recipe: Recipe, starts: Sequence[Any]) -> List[Any]:
    """Copy operations into a graph; return the outputs, and copies of what is kept or measured.

    Args:
        graph: The graph.
        recipe: The recipe.
        starts: What they start from.
    """
    wanted = [*recipe.outputs, *recipe.kept, *recipe.measured]
    names = [*wanted, *recipe.shapes]
    inputs = dict(zip(recipe.starts, starts))
    # TensorFlow 1 tells the gradients of TensorArrays apart by the last "gradients" in their names,
    # so there must be none in the names of what is differentiated.
    with v1.name_scope(None):
        tensors = tf.import_graph_def(
            recipe.graph_def, input_map=inputs, return_elements=names, name="recompute"
        )
    for tensor, shape in zip(tensors[len(wanted) :], recipe.shapes.values()):
        tensor.set_shape(shape)
    prefix = tensors[0].name[: -len(names[0]) - 1]
    for name in recipe.waits:
        graph.get_operation_by_name("%s/%s" % (prefix, name))._add_control_input(starts[0].op)
    for data in recipe.contexts:
        private_graphs.restore_context(data, prefix)
    for node in recipe.graph_def.node:
        if node.op in BRANCHES:
            private_graphs.name_functions(
                graph.get_operation_by_name("%s/%s" % (prefix, node.name))
            )
        if private_graphs.MARK in node.attr:
            private_graphs.restore_gradients(
                [graph.get_operation_by_name("%s/%s" % (prefix, node.name))]
            )
    return list(tensors[: len(wanted)])
