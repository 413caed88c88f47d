"""Which module knows the private parts of a model: one for Keras 3, one for Keras 2.

Both have the same functions, so that planning is written once.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from perftricks.recompute.engines import generation_of


def family_of(layer: Any) -> ModuleType:
    """Return the module for a layer or a model."""
    if generation_of(layer) == 2:
        from perftricks.recompute.families import keras2

        return keras2
    from perftricks.recompute.families import keras3

    return keras3
