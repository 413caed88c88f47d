"""What functions refer to is found without any framework."""

from __future__ import annotations

import functools
import types

from perftricks.recompute import recompute_grad
from perftricks.recompute.references import held_by, reached, referred, spread

GLOBAL = object()


def reached_by(*things):
    """Return what is reached from things, where a Layer is one that is above nothing."""
    return reached(things, lambda x: [x] if type(x).__name__ == "Layer" else [])


def uses_global():
    return (lambda: GLOBAL)()


def test_closures_and_globals():
    """What a closure holds, in containers too, and globals that only an inner function names."""
    inside = object()
    held = [{"a": (inside,)}]
    assert inside in referred(lambda: held)
    assert GLOBAL in referred(uses_global)


def test_through_functions():
    """Functions that a function refers to are followed, once each, through decorators."""
    inside = object()

    def helper():
        return inside, outer

    @recompute_grad
    def outer():
        return helper()

    found = reached_by(outer)
    assert inside in found
    assert len({id(x) for x in found}) == len(found)
    assert inside not in referred(outer)


def test_functions_of_modules():
    """What is called as an attribute of a module of the program is found, and what it refers to."""
    helper, thing = types.ModuleType("helper"), object()
    helper.thing = thing
    exec("def inner():\n    return thing\ndef other():\n    pass", vars(helper))
    names = {"helper": helper, "__name__": "program"}
    exec("def outer():\n    return helper.inner()", names)
    found = reached_by(names["outer"])
    assert helper.inner in found
    assert thing in found
    assert helper.other not in found


def test_attributes_and_methods():
    """Attributes of an object and of its classes, and what its methods of any kind refer to."""
    one, two, three, four = (object() for _ in range(4))

    class Base:
        shared = (one,)

        @staticmethod
        def static():
            return two

        @property
        def property(self):
            return three

    class Layer(Base):
        def __init__(self):
            self.attribute = {"x": four}

        def method(self):
            pass

    layer = Layer()
    assert one in spread(held_by(layer))
    for found in (
        reached_by(layer),
        reached_by({"x": [layer]}),
        reached_by(None, {"x": layer}),
        reached_by(layer.static, [layer]),
        reached_by(layer.method),
        reached_by(lambda method=layer.method: method),
        reached_by(functools.partial(print, layer)),
        reached_by(functools.partial(print, x=[layer])),
        reached_by(lambda: layer),
        reached_by(lambda x=layer: x),
        reached_by(lambda *, x=layer: x),
    ):
        assert all(x in found for x in (one, two, three, four))


def test_layers_below():
    """What is below a layer is reached with it, and each once."""
    one, two = object(), object()

    class Layer:
        pass

    inner, outer = Layer(), Layer()
    inner.attribute, outer.attribute = one, two
    found = reached([outer], lambda x: [outer, inner] if x is outer else [])
    assert {id(x) for x in found} >= {id(x) for x in (inner, outer, one, two)}
    assert len({id(x) for x in found}) == len(found)


def test_data_is_no_container():
    """A long list is data, and a list that contains itself ends."""
    inside = object()
    data, circle = [inside] * 2000, [inside]
    circle.append(circle)
    assert inside not in referred(lambda: data)
    assert referred(lambda: circle) == [inside]


def test_containers_that_add_up_in_their_own_way():
    """A list that is added from the right, as those of TensorFlow 2.1, is looked into."""

    class Listed(list):
        def __radd__(self, other):
            raise TypeError

    inside = object()
    held = [Listed([inside])]
    assert inside in referred(lambda: held)
    assert [x for x in spread([held]) if x is inside]
