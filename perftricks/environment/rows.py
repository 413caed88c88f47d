"""Which rows of the compatibility table an environment is."""

from __future__ import annotations

from collections.abc import Mapping

Versions = Mapping[str, str | None]

_PYTHON = ((3, 10), (3, 14))  # the rows of Python: everything but recompute's frameworks
_BACKENDS = ("tensorflow", "jax", "torch")


def matching_rows(
    python: tuple[int, int], packages: Versions, keras_backend: str | None
) -> tuple[str, ...]:
    """Return the rows: the session of nox that checks each, and what it is.

    The table's rows of Python 3.7 are not among them: the command line needs a newer one.

    Args:
        python: Major and minor version of Python.
        packages: Name -> version, None for what is missing.
        keras_backend: The backend of Keras 3, None without it.

    >>> have = {"tensorflow": "2.21.0", "keras": "3.15.1", "tf_keras": "2.21.0", "jax": None}
    >>> matching_rows((3, 11), have, "tensorflow")
    ('pythons-3.11: Python 3.11', 'keras3(tensorflow): Keras 3.15, TensorFlow 2.21', \
'keras2(tf_keras): TensorFlow 2.21, tf_keras')
    """
    rows = []
    if _PYTHON[0] <= python <= _PYTHON[1]:
        version = f"{python[0]}.{python[1]}"
        rows.append(f"pythons-{version}: Python {version}")
    tensorflow = packages.get("tensorflow")
    if keras_backend in _BACKENDS and (backend := packages.get(keras_backend)) is not None:
        title = {"tensorflow": "TensorFlow", "jax": "JAX"}.get(keras_backend, keras_backend)
        what = f"Keras {_short(packages['keras'])}, {title} {_short(backend)}"
        rows.append(f"keras3({keras_backend}): {what}")
    if tensorflow is not None:
        if _short(tensorflow) == "2.15":
            rows.append("keras2(tf2.15-tf.keras): TensorFlow 2.15, its own tf.keras")
        if packages.get("tf_keras") is not None:
            rows.append(f"keras2(tf_keras): TensorFlow {_short(tensorflow)}, tf_keras")
    return tuple(rows)


def _short(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])
