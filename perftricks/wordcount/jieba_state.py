"""jieba as it is in this process: what a program has changed in it, and how that travels.

Programs add words to jieba, give it other regular expressions or tables, put functions of their own
in place of jieba's. A loop over ``jieba.lcut`` sees all of that, and so must every method:

* regular expressions, tables and words are data: the kernel's tables are made from them, and a
  worker that is no fork gets them;
* a function is not: the kernel steps aside, and a worker that is no fork gets the function, by name
  or by value.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import io
import itertools
import logging
import marshal
import math
import os
import pickle
import re
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from perftricks.wordcount.errors import OptionError, TokenizerError

# What cutting reads of each module and is no function.
_DATA = {
    "jieba": ("re_han_default", "re_skip_default", "re_eng", "re_userdict"),
    "jieba.finalseg": (
        "re_han",
        "re_skip",
        "start_P",
        "trans_P",
        "emit_P",
        "MIN_FLOAT",
        "PrevStatus",
        "Force_Split_Words",
    ),
}

# What cutting calls: attribute -> the module whose function of this name it is at first.
_FUNCTIONS = {
    "jieba": {"strdecode": "jieba._compat"},
    "jieba.finalseg": {
        "strdecode": "jieba._compat",
        "cut": "jieba.finalseg",
        "__cut": "jieba.finalseg",
        "viterbi": "jieba.finalseg",
    },
}
_METHODS = (
    "check_initialized",
    "calc",
    "get_DAG",
    "_Tokenizer__cut_all",
    "_Tokenizer__cut_DAG_NO_HMM",
    "_Tokenizer__cut_DAG",
    "cut",
    "cut_for_search",
    "lcut",
    "lcut_for_search",
)
_LOADING = (
    "initialize",
    "gen_pfdict",
    "get_dict_file",
    "add_word",
    "suggest_freq",
    "load_userdict",
)
_ROOTS = ("lcut", "lcut_for_search")

# The digest of the data of jieba 0.42 and 0.42.1 as installed, without words.
_PRISTINE = "68d78d96ca28951ae09c1633fabbf927"

_copies = itertools.count(1)

# What filters warnings does so for all threads, and two that do it at once leave it undone.
_importing = threading.RLock()


# ---------------------------------------------------------------------- jieba and copies of it


def import_jieba() -> Any:
    """Import jieba without what it has to say about its source."""
    with _importing:
        if "jieba" not in sys.modules:
            with warnings.catch_warnings(), quiet("jieba"), _without_pkg_resources():
                warnings.simplefilter("ignore")
                importlib.import_module("jieba")
    return sys.modules["jieba"]


def import_copy() -> Any:
    """Import jieba a second time, with state of its own, and return the module.

    A ``jieba.Tokenizer`` of its own is not enough for a dictionary that nobody else shall see: a
    word of frequency 0 also enters ``jieba.finalseg.Force_Split_Words``, which all tokenizers of
    the module share.
    """
    name = f"_perftricks_jieba_{next(_copies)}"
    found = importlib.util.find_spec("jieba")
    assert found is not None
    loader: Any = found.loader  # of a frozen application there are no files
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=found.origin)
    module.__spec__.submodule_search_locations = found.submodule_search_locations
    module.__package__, module.__file__ = name, found.origin
    module.__path__ = found.submodule_search_locations or []
    with _importing, quiet(name), warnings.catch_warnings(), _without_pkg_resources():
        warnings.simplefilter("ignore")
        sys.modules[name] = module  # for its relative imports
        try:
            exec(loader.get_code("jieba"), vars(module))
        finally:
            for key in [key for key in sys.modules if key.partition(".")[0] == name]:
                del sys.modules[key]  # who holds the copy keeps it alive, nobody else
    return module


@contextlib.contextmanager
def _without_pkg_resources() -> Iterator[None]:
    """Let jieba open the files beside it by itself, as it does where pkg_resources is missing.

    Importing pkg_resources for that takes longer than the rest of jieba.
    """
    name = "pkg_resources"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keep what a logger has to say about loading a dictionary off the screen."""
    logger = logging.getLogger(name)
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


# ---------------------------------------------------------------------- what was replaced


def original_tokenizer() -> Any:
    """Return the tokenizer that jieba made when it was imported; ``jieba.dt`` may be another."""
    jieba = import_jieba()
    owner = getattr(jieba.initialize, "__self__", None)
    return jieba.dt if owner is None else owner


def tokenizer_behind(name: str = "lcut") -> Any:
    """Return the tokenizer whose method ``jieba.lcut`` or ``jieba.lcut_for_search`` is.

    None if it is no such method, but a function that a program has put there.
    """
    jieba = import_jieba()
    if jieba.__name__ != "jieba":
        return None
    function = getattr(jieba, name)
    owner = getattr(function, "__self__", None)
    if not isinstance(function, types.MethodType) or not isinstance(owner, _tokenizer_class()):
        return None
    return owner


def replaced_functions() -> list[str]:
    """Name what ``jieba.lcut`` and ``jieba.lcut_for_search`` run that is not jieba's own.

    Nothing was replaced if jieba is not imported yet.
    """
    jieba = sys.modules.get("jieba")
    if jieba is None:
        return []
    if jieba.__name__ != "jieba":
        return [f"jieba itself, by {jieba.__name__}"]
    names = list(_replaced_in_modules())
    tokenizers: list[Any] = []
    for root in _ROOTS:
        owner = tokenizer_behind(root)
        if owner is None or not is_own(getattr(jieba, root).__func__, f"Tokenizer.{root}"):
            names.append(f"jieba.{root}")
        elif not tokenizers:
            tokenizers.append(owner)
            names.extend(_replaced_methods(owner, _METHODS))
        elif owner is not tokenizers[0]:
            names.append(f"jieba.{root}")
    return sorted(set(names))


def _replaced_in_modules() -> Iterator[str]:
    jieba: Any = sys.modules["jieba"]
    for module, functions in _FUNCTIONS.items():
        namespace = vars(sys.modules[module])
        for name, home in functions.items():
            if not is_own(namespace.get(name), name, home):
                yield f"{module}.{name}"
    if jieba.finalseg is not sys.modules["jieba.finalseg"]:
        yield "jieba.finalseg"
    for module in _DATA:
        if vars(sys.modules[module]).get("xrange") is not range:
            yield f"{module}.xrange"
    if vars(jieba).get("log") is not math.log:
        yield "jieba.log"


def _replaced_methods(tokenizer: Any, names: Iterable[str]) -> Iterator[str]:
    kind = type(tokenizer)
    for name in names:
        if name in vars(tokenizer):
            yield f"jieba.dt.{name}"
        elif not is_own(inspect.getattr_static(kind, name, None), _qualified(name)):
            yield f"jieba.{kind.__name__}.{name}"


def _qualified(method: str) -> str:
    alias = {"_lcut": "lcut", "_lcut_for_search": "lcut_for_search"}.get(method, method)
    return f"Tokenizer.{alias.removeprefix('_Tokenizer')}"


def is_own(function: Any, name: str, module: str = "jieba") -> bool:
    """Whether a function is the one that jieba defines under a name, with its code."""
    if isinstance(function, staticmethod):
        function = function.__func__
    if not isinstance(function, types.FunctionType):
        return False
    home: Any = sys.modules[module]
    file = function.__code__.co_filename
    return (
        function.__globals__ is vars(home)
        and function.__qualname__ == name
        and (file == home.__file__ or file == _file_in_code(module))  # not the code of another
    )


@functools.cache
def _file_in_code(module: str) -> str | None:
    """Return the file that a module's code names: not its own where it came without its source."""
    loader: Any = getattr(sys.modules[module].__spec__, "loader", None)
    try:
        code = loader.get_code(module)
    except (AttributeError, ImportError, OSError):
        return None
    return None if code is None else str(code.co_filename)


def _tokenizer_class() -> Any:
    jieba: Any = sys.modules["jieba"]
    return next(
        kind
        for kind in type(original_tokenizer()).__mro__
        if kind.__module__ == jieba.__name__ or kind is object
    )


def is_untouched() -> bool:
    """Whether jieba would load its own dictionary now, and cut with nothing but its own.

    Once the dictionary is loaded nobody can tell without looking at every word.
    """
    jieba = sys.modules.get("jieba")
    if jieba is None:
        return True
    if jieba.__name__ != "jieba":
        return False
    tokenizer = original_tokenizer()
    return (
        not tokenizer.initialized
        and tokenizer.dictionary is None
        and tokenizer.cache_file is None
        and tokenizer.tmp_dir is None
        and tokenizer is jieba.dt
        and not replaced_functions()
        and not any(_replaced_methods(tokenizer, _LOADING))
        and tokenizer_behind() is tokenizer
        and _data_digest() == _PRISTINE
    )


def _data(module: str) -> dict[str, Any]:
    """Return what cutting reads of a module, regular expressions of older versions included."""
    return {
        name: value
        for name, value in vars(sys.modules[module]).items()
        if name in _DATA[module] or isinstance(value, re.Pattern)
    }


def _data_digest() -> str | None:
    """Return a digest of the data that jieba cuts with, without its words; None if it is odd."""
    digest = hashlib.sha256()
    for module, names in _DATA.items():
        for name in names:
            part = _as_bytes(vars(sys.modules[module]).get(name))
            if part is None:
                return None
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()[:32]


def _as_bytes(value: Any) -> bytes | None:
    if isinstance(value, re.Pattern):
        return repr((value.pattern, value.flags)).encode("utf-8", "backslashreplace")
    if isinstance(value, set):
        value = sorted(value)
    try:
        return marshal.dumps(value, 2)  # from version 3 on it depends on who else holds the parts
    except ValueError:
        return None


def state_digest() -> str | None:
    """Return a digest of all that jieba cuts with, words included; loads the dictionary.

    None if there is something in it that is no plain data.
    """
    tokenizer = ready(tokenizer_behind())
    if tokenizer is None or replaced_functions():
        return None
    data, words = _data_digest(), _as_bytes((tokenizer.FREQ, tokenizer.total))
    if data is None or words is None:
        return None
    return hashlib.sha256(data.encode() + words).hexdigest()[:32]


def ready(tokenizer: Any) -> Any:
    """Let a tokenizer load its dictionary, if it has not, and return it."""
    if tokenizer is not None:
        with quiet("jieba"), somewhere_to_keep_it(tokenizer):
            tokenizer.check_initialized()
    return tokenizer


@contextlib.contextmanager
def somewhere_to_keep_it(tokenizer: Any) -> Iterator[None]:
    """Let a tokenizer of jieba's load its dictionary also where no folder can be written to.

    It keeps a file in the temporary folder. That this fails it survives, but not that there is no
    such folder, as :mod:`tempfile` has it on a full disk.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        pass
    else:
        yield
        return
    given, tokenizer.tmp_dir = tokenizer.tmp_dir, tokenizer.tmp_dir or os.devnull
    try:
        yield
    finally:
        tokenizer.tmp_dir = given


def check_functions() -> None:
    """Check that a copy of jieba cuts as jieba does.

    Raises:
        OptionError: If functions of jieba were replaced: their place is jieba itself.
    """
    names = replaced_functions()
    if names:
        raise OptionError(
            f"this program has replaced {', '.join(names)}, so that a dictionary cannot be used "
            "for one count only; load it into jieba (jieba.load_userdict, jieba.set_dictionary)"
        )


def copy_of_jieba(*, words: bool) -> Any:
    """Return a copy of jieba with the data of the jieba of this process.

    Args:
        words: Whether its tokenizer, ``dt``, has the words too; they are loaded if they were not.

    Raises:
        OptionError: If functions of jieba were replaced: their place is jieba itself.
    """
    check_functions()
    copy = import_copy()
    if "jieba" not in sys.modules:
        return copy
    vars(copy).update(_data("jieba"))
    for name, value in _data("jieba.finalseg").items():
        setattr(copy.finalseg, name, set(value) if isinstance(value, set) else value)
    if words and not is_untouched():
        tokenizer = ready(tokenizer_behind())
        copy.dt.FREQ, copy.dt.total = dict(tokenizer.FREQ), tokenizer.total
        copy.dt.initialized = True
    return copy


# ---------------------------------------------------------------------- how it travels


def why_it_stays() -> str | None:
    """Say what of jieba cannot be sent to a fresh worker; None if everything can.

    Looks at functions; data always can.
    """
    names = replaced_functions()
    if not names:
        return None
    try:
        if len(names) == 1 and names[0].startswith("jieba itself"):
            raise TokenizerError("it is another module")
        _dumps(_functions())
    except Exception as error:
        return f"{', '.join(names)} cannot be sent to a fresh process: {error}"
    return None


def dump_state(*, posseg: bool = False) -> bytes:
    """Return all that cutting depends on in this process, for :func:`restore_state` in another.

    Args:
        posseg: Whether jieba.posseg is meant too, if it was imported.

    Raises:
        TokenizerError: If a function that was put in place of jieba's cannot be sent.
    """
    jieba = import_jieba()
    if jieba.__name__ != "jieba":
        raise TokenizerError(
            f"in place of jieba there is {jieba.__name__}, which a fresh process does not know; "
            "use method 'batched', or start_method 'fork'"
        )
    ready(tokenizer_behind())
    replaced = replaced_functions()
    state = {
        "replaced": replaced,
        "tokenizer": _tokenizer_state(original_tokenizer()),
        "data": {module: _data(module) for module in _DATA},
        "functions": _functions(),
        "posseg": _posseg_state() if posseg else None,
    }
    try:
        return _dumps(state)
    except Exception as error:
        names = ", ".join(replaced) or "jieba"
        raise TokenizerError(
            f"this program has replaced {names}, which cannot be sent to a fresh process: {error}; "
            "use method 'batched', or start_method 'fork'"
        ) from error


def restore_state(state: bytes) -> None:
    """Make jieba in this process what it is in another.

    Raises:
        TokenizerError: If a function of jieba was replaced in this process only.
    """
    jieba = import_jieba()
    content = pickle.loads(state)
    _set_state(original_tokenizer(), content["tokenizer"])
    for path, attributes in [*content["data"].items(), *content["functions"].items()]:
        target: Any = _tokenizer_class() if path == "class" else sys.modules[path]
        for name, value in attributes.items():
            setattr(target, name, value)
    if content["posseg"] is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its source
            importlib.import_module("jieba.posseg")
        data, words = content["posseg"]
        vars(jieba.posseg).update(data)
        vars(jieba.posseg.dt).update(words)
    here, there = replaced_functions(), content["replaced"]
    if here != there:
        raise TokenizerError(
            f"in this worker {', '.join(here) or 'nothing'} of jieba is replaced, in the calling "
            f"process {', '.join(there) or 'nothing'}; replace it where a module is imported"
        )


def let_tokenizers_travel(function: Any) -> None:
    """Let a function that holds a ``jieba.Tokenizer`` be pickled; its lock alone prevents that.

    The function may be a method of a tokenizer of another class that is derived from jieba's.
    """
    jieba = sys.modules.get("jieba")
    if jieba is None or jieba.__name__ != "jieba":
        return
    kind = _tokenizer_class()
    for one in {kind, type(getattr(function, "__self__", None))}:
        if issubclass(one, kind) and one not in copyreg.dispatch_table:
            copyreg.pickle(one, _reduce_tokenizer)


def _functions() -> dict[str, dict[str, Any]]:
    """Return what is not jieba's own: module, or "class" -> name -> value."""
    jieba: Any = sys.modules["jieba"]
    kind = _tokenizer_class()
    methods = _names_of_methods(kind)
    found: dict[str, dict[str, Any]] = {module: {} for module in _FUNCTIONS}
    for path in _replaced_in_modules():
        module, _, name = path.rpartition(".")
        found[module][name] = getattr(sys.modules[module], name)
    for name in sorted({"dt", "Tokenizer", *methods} & vars(jieba).keys()):
        value = getattr(jieba, name)
        if not _is_as_imported(name, value, kind):
            found["jieba"][name] = value
    found["class"] = {
        name: vars(kind)[name] for name in methods if not is_own(vars(kind)[name], _qualified(name))
    }
    return found


def _is_as_imported(name: str, value: Any, kind: Any) -> bool:
    """Whether a name of the module jieba means what it does in a process that imports it."""
    original = original_tokenizer()
    if isinstance(value, types.MethodType):
        return value.__self__ is original and is_own(value.__func__, _qualified(name))
    # jieba's own functions: jieba.enable_parallel puts them in place of others
    own = getattr(value, "__globals__", None) is vars(sys.modules["jieba"])
    return own or value is original or value is kind


def _names_of_methods(kind: Any) -> set[str]:
    return {
        name
        for name, value in vars(kind).items()
        if not name.startswith("__") and (callable(value) or isinstance(value, staticmethod))
    }


def _posseg_state() -> tuple[dict[str, Any], dict[str, Any]] | None:
    posseg = sys.modules.get("jieba.posseg")
    if posseg is None:
        return None
    patterns = {k: v for k, v in vars(posseg).items() if isinstance(v, re.Pattern)}
    return patterns, dict(vars(posseg.dt))


def _dumps(value: Any) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, _tokenizer_class()):
                return _reduce_tokenizer(obj)
            return super().reducer_override(obj)

    with io.BytesIO() as buffer:
        Pickler(buffer).dump(value)
        return buffer.getvalue()


def _reduce_tokenizer(tokenizer: Any) -> Any:
    if tokenizer is original_tokenizer():
        return original_tokenizer, ()  # its state has been sent by then
    return _new_tokenizer, (type(tokenizer),), _tokenizer_state(tokenizer), None, None, _set_state


def _new_tokenizer(kind: Any) -> Any:
    return kind.__new__(kind)


def _tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    state = {name: value for name, value in vars(tokenizer).items() if name != "lock"}
    words = state.get("FREQ")
    if type(words) is dict:
        with contextlib.suppress(ValueError):  # marshal is several times as fast as pickle
            state["FREQ"] = marshal.dumps(words)
    return state


def _set_state(tokenizer: Any, state: dict[str, Any]) -> None:
    words = state.get("FREQ")
    if isinstance(words, bytes):
        state = {**state, "FREQ": marshal.loads(words)}
    for name in vars(tokenizer).keys() - state.keys() - {"lock"}:
        delattr(tokenizer, name)
    vars(tokenizer).update(state)
    vars(tokenizer).setdefault("lock", threading.RLock())
