"""Which packages are installed, without importing any."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

# Name -> the distributions that provide it, the usual one first.
PACKAGES = {
    "numpy": ("numpy",),
    "jieba": ("jieba",),
    "numba": ("numba",),
    "llvmlite": ("llvmlite",),
    "keras": ("keras",),
    "tensorflow": (
        "tensorflow",
        "tensorflow-cpu",
        "tensorflow-gpu",
        "tensorflow-intel",
        "tf-nightly",
    ),
    "tf_keras": ("tf-keras", "tf-keras-nightly"),
    "jax": ("jax",),
    "torch": ("torch",),
    "matplotlib": ("matplotlib",),
}


def versions() -> dict[str, str | None]:
    """Return the versions of the packages perftricks works with; None for one that is missing."""
    return {name: _version(distributions) for name, distributions in PACKAGES.items()}


def _version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def keras_backend(keras_version: str | None) -> str | None:
    """Return the backend that Keras 3 will choose when it is imported.

    It looks, as Keras does, at ``KERAS_BACKEND``, then at the configuration file in ``KERAS_HOME``
    or ``~/.keras``.

    Args:
        keras_version: The version of Keras.

    Returns:
        The name of the backend; None without Keras, or with a Keras that has but one.

    >>> keras_backend(None) is None and keras_backend("2.15.0") is None
    True
    """
    if keras_version is None or int(keras_version.partition(".")[0]) < 3:
        return None
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    home = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))
    try:
        configured = json.loads((home / "keras.json").read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"
    return str(configured)
