"""The rows of the compatibility table: nox runs them, README lists them, ``info`` names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Versions = Mapping[str, str | None]

BACKENDS = ("tensorflow", "jax", "torch")  # of Keras 3
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")  # where everything runs


class Row(NamedTuple):
    """A row of the compatibility table: what is checked, in which session of nox, and how.

    Attributes:
        session: What ``nox -s`` takes.
        name: What the table calls it.
        what: What of perftricks runs there.
        python: The Python that is needed; None for the one that runs nox.
        groups: The dependency groups of pyproject.toml that are installed beside perftricks.
        requirements: What else is.
        bare: What is installed without what it depends on.
        env: Environment variables; they say to the tests which Keras is meant.
        packages: Whose versions the table shows.
        tests: What pytest runs.
    """

    session: str
    name: str
    what: str
    python: str | None = None
    groups: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    env: Mapping[str, str] = {}  # never changed
    packages: tuple[str, ...] = ()
    tests: str = "tests"

    @property
    def key(self) -> str:
        """What stands in the parentheses of its session."""
        return self.session.partition("(")[2].rstrip(")")


def _keras3(backend: str, name: str, package: str, python: str | None = None) -> Row:
    return Row(
        session=f"keras3({backend})",
        name=f"{name}, newest Keras 3",
        what="`recompute`",
        python=python,
        groups=(backend,),
        # All that the models of keras-hub need beside Keras. It asks for tensorflow-text as well,
        # and so for another build of TensorFlow, on JAX and torch too.
        requirements=("regex", "tokenizers"),
        bare=("keras-hub",),
        env={"KERAS_BACKEND": backend},
        packages=(package, "keras", "keras-hub"),
        tests="tests/recompute",
    )


def _keras2(
    key: str,
    tensorflow: str,
    keras: str,
    python: str = "3.7",
    *extra: str,
    name: str = "",
    **env: str,
) -> Row:
    """Return a row of Keras 2: ``keras`` 2.3.1, ``tf.keras`` or ``tf_keras``."""
    requirements: tuple[str, ...] = (tensorflow, "pytest-timeout", "pytest-xdist", *extra)
    packages: tuple[str, ...] = (tensorflow.partition("=")[0],)
    if python == "3.7":
        requirements += ("pytest<8", "h5py<3", "protobuf<3.21")
    if keras == "keras":
        requirements += ("keras==2.3.1",)
    if keras != "tf.keras":
        packages += (keras,)
        requirements += () if keras == "keras" else (keras,)
    own = {"keras": "keras 2.3.1", "tf.keras": "its own tf.keras", "tf_keras": "tf_keras"}[keras]
    return Row(
        session=f"keras2({key})",
        name=f"{name or 'TensorFlow ' + key.partition('-')[0][2:]}, {own}",
        what="`recompute`" + (", bert4keras" if _BERT in extra else ""),
        python=python,
        requirements=requirements,
        env={"PERFTRICKS_KERAS": keras, "KERAS_BACKEND": "tensorflow", **env},
        packages=packages,
        tests="tests/recompute/keras2",
    )


_BERT = "bert4keras==0.11.5"
_NEW = ("tensorflow-cpu", "tf_keras", "3.11", "pytest>=8")

KERAS3 = (
    _keras3("tensorflow", "newest TensorFlow", "tensorflow-cpu"),
    _keras3("jax", "newest JAX", "jax", "3.13"),  # newer than any for Python 3.11
    _keras3("torch", "newest torch", "torch"),
)
KERAS2 = (
    _keras2("tf1.14-keras", "tensorflow==1.14.0", "keras"),
    _keras2("tf1.15-keras", "tensorflow==1.15.5", "keras", "3.7", _BERT),
    _keras2("tf1.15-tf.keras", "tensorflow==1.15.5", "tf.keras"),
    _keras2("tf2.0-keras", "tensorflow==2.0.4", "keras"),
    _keras2("tf2.0-tf.keras", "tensorflow==2.0.4", "tf.keras"),
    _keras2("tf2.1-keras", "tensorflow==2.1.4", "keras", "3.7", _BERT),
    _keras2("tf2.1-tf.keras", "tensorflow==2.1.4", "tf.keras"),
    _keras2("tf2.15-tf.keras", "tensorflow-cpu==2.15.1", "tf.keras", "3.11", "pytest>=8"),
    _keras2("tf_keras", *_NEW, name="newest TensorFlow"),
    _keras2("tf_keras-graph", *_NEW, name="newest TensorFlow, v1 graphs", PERFTRICKS_GRAPH="1"),
)
FREE_THREADED = Row(
    "free_threaded",
    "Python 3.14, free-threaded",
    "`parallel`",
    "3.14t",
    # All that perftricks.parallel and its tests need: not every other dependency is built for it.
    requirements=(
        *("cloudpickle", "numpy", "psutil", "rich"),
        *("pytest", "pytest-timeout", "pytest-xdist"),
    ),
    env={"PYTHON_GIL": "0"},  # no module may switch it on again
    packages=("numpy",),
    tests="tests/parallel",
)
OLD_PYTHON = Row("py37", "Python 3.7", "installs; what needs 3.10 says so", "3.7")
ROWS = (
    *(Row(f"pythons-{python}", f"Python {python}", "everything", python) for python in PYTHONS),
    FREE_THREADED,
    OLD_PYTHON,
    *KERAS3,
    *KERAS2,
)


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
    version = f"{python[0]}.{python[1]}"
    if version in PYTHONS:
        rows.append(f"pythons-{version}: Python {version}")
    tensorflow = packages.get("tensorflow")
    if keras_backend in BACKENDS and (backend := packages.get(keras_backend)) is not None:
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
