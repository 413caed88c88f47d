"""Whether a worker counts as the client would: the same package, jieba and dictionary."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any, NamedTuple

import perftricks
from perftricks.parallel.errors import ClusterError
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.methods.compiled import load_engine, why_not
from perftricks.wordcount.tagging import tags_digest
from perftricks.wordcount.tokenizers import TokenizerSpec

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import Engine

_ROOMS = ("wordcount", "parallel")


class Tokenizing(NamedTuple):
    """What a process counts with.

    Attributes:
        engine: The kernel with its tables; None for a tokenizer that is not jieba.
        identity: What it is -> its version or digest.
    """

    engine: Engine | None
    identity: Mapping[str, str]


def tokenizing(spec: TokenizerSpec) -> Tokenizing:
    """Load what a process counts with, and tell what it is.

    Raises:
        OptionError: If it cannot count with this tokenizer.
    """
    identity = {
        "perftricks": perftricks.__version__,
        "perftricks' sources": _sources(),
        "Python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    }
    if not spec.uses_jieba:
        return Tokenizing(None, {**identity, "the tokenizer's module": _module_digest(spec)})
    reason = why_not(spec)
    if reason is not None:
        raise OptionError(
            f"a cluster counts with method 'compiled', which cannot be used: {reason}"
        )
    engine = load_engine(spec)
    words = hashlib.sha256()
    for array in engine.lexicon:
        words.update(array.tobytes())
    identity["jieba"] = metadata.version("jieba")
    # It holds the words, their frequencies, the HMM: all that decides where text is cut.
    identity["jieba's dictionary"] = words.hexdigest()[:16]
    if spec.pos:
        identity["jieba's tags"] = tags_digest(spec.posseg_tokenizer())
    return Tokenizing(engine, identity)


def agreed(spec: TokenizerSpec, expected: Mapping[str, str], where: str) -> Tokenizing:
    """Return what a worker counts with.

    Args:
        spec: The tokenizer.
        expected: What the client counts with.
        where: The worker's address.

    Raises:
        ClusterError: If that is not the same.
    """
    try:
        found = _kept(spec)
    except OptionError as error:
        raise ClusterError(f"the worker {where} cannot count: {error}") from None
    for name, value in expected.items():
        here = found.identity.get(name)
        if here != value:
            raise ClusterError(
                f"the worker {where} has another {name} ({here or 'none'}) than the client "
                f"({value}), and would not count the same; install the same on all"
            )
    return found


# Of a worker: what jieba is does not change there, and loading it takes a while.
_kept = functools.lru_cache(maxsize=4)(tokenizing)


@functools.cache
def _sources() -> str:
    """Return a digest of the sources that counting runs."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for name, source in _sources_in(resources.files("perftricks") / room, room):
            digest.update(name.encode())
            digest.update(source)
    return digest.hexdigest()[:16]


def _sources_in(room: Any, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the sources in a folder, which may be in a zip file, with their names."""
    for entry in sorted(room.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources_in(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{name}/{entry.name}", entry.read_bytes()


def _module_digest(spec: TokenizerSpec) -> str:
    """Return a digest of the file of a tokenizer that is named; functions travel by value."""
    if not (spec.is_own and isinstance(spec.tokenizer, str)):
        return ""
    spec.load()
    module = sys.modules[spec.tokenizer.partition(":")[0]]
    file = getattr(module, "__file__", None)
    read = getattr(getattr(module, "__loader__", None), "get_data", None)
    return "" if file is None or read is None else hashlib.sha256(read(file)).hexdigest()[:16]
