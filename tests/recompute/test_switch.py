"""RECOMPUTE and recompute_scope; no framework is needed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perftricks.recompute import recompute_scope, switch


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("RECOMPUTE", raising=False)


@pytest.mark.parametrize("word", ["1", "true", "T", "Yes", "y", "ON", " on "])
def test_words_for_on(monkeypatch, word):
    """Each accepted word, in any case, switches decorated functions on."""
    monkeypatch.setenv("RECOMPUTE", word)
    assert switch.enabled(default=False) is True


@pytest.mark.parametrize("word", ["0", "False", "f", "NO", "n", "off"])
def test_words_for_off(monkeypatch, word):
    """Each accepted word, in any case, switches off even what is on by default."""
    monkeypatch.setenv("RECOMPUTE", word)
    assert switch.enabled(default=True) is False


@pytest.mark.parametrize("default", [True, False])
def test_unset_is_the_default(default):
    """Without a word the default holds: off for decorators, on for apply."""
    assert switch.enabled(default) is default


@pytest.mark.parametrize("word", ["", "2", "maybe"])
def test_any_other_word_is_an_error(monkeypatch, word):
    """The error lists what is accepted and says what was found."""
    monkeypatch.setenv("RECOMPUTE", word)
    with pytest.raises(ValueError, match=r"1/true/t/yes/y/on.*0/false/f/no/n/off") as caught:
        switch.enabled(default=False)
    assert repr(word) in str(caught.value)


def test_a_scope_beats_the_variable(monkeypatch):
    """Scopes nest, win over the variable, even an invalid one, and end with an exception."""
    monkeypatch.setenv("RECOMPUTE", "1")
    with recompute_scope(False):
        assert not switch.enabled(default=True)
        monkeypatch.setenv("RECOMPUTE", "nonsense")
        with recompute_scope(True):
            assert switch.enabled(default=False)
        with pytest.raises(KeyError), recompute_scope(True):
            raise KeyError
        assert not switch.enabled(default=True)


def test_a_scope_expects_a_bool():
    """A word in the place of a bool is refused: "off" would be true."""
    with pytest.raises(TypeError, match="expects True or False, got 'off'"), recompute_scope("off"):
        pass


def test_a_scope_belongs_to_its_thread():
    """Another thread does not see it, except one that runs a replica of MirroredStrategy."""
    seen = []

    class _MirroredReplicaThread(threading.Thread):
        pass

    with recompute_scope(True):
        for kind in (threading.Thread, _MirroredReplicaThread):
            thread = kind(target=lambda: seen.append(switch.enabled(default=False)))
            thread.start()
            thread.join()
    assert seen == [False, True]


def test_a_scope_belongs_to_its_task():
    """Tasks that take turns on one thread keep their own scopes."""

    async def ask(value):
        with recompute_scope(value):
            await asyncio.sleep(0)
            return switch.enabled(default=not value)

    async def both():
        return await asyncio.gather(ask(True), ask(False))

    assert asyncio.run(both()) == [True, False]
