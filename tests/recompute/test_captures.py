"""What functions refer to is found without any framework."""

from __future__ import annotations

from perftricks.recompute import recompute_grad
from perftricks.recompute.engines.captures import held_by, reached, referred

GLOBAL = object()


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

    found = reached([outer])
    assert inside in found
    assert len({id(x) for x in found}) == len(found)
    assert inside not in referred(outer)


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

    found = reached(held_by(Layer()))
    assert all(x in found for x in (one, two, three, four))


def test_data_is_no_container():
    """A long list is data, and a list that contains itself ends."""
    inside = object()
    data, circle = [inside] * 2000, [inside]
    circle.append(circle)
    assert inside not in referred(lambda: data)
    assert referred(lambda: circle) == [inside]
