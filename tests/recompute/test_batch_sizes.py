"""How ``max_batch_size`` searches, with a stand-in for the processes that train."""

from __future__ import annotations

import threading

import pytest

from perftricks import recompute
from perftricks.recompute.batch_trial import Trial
from perftricks.recompute.measure import process

ROOM = 1000  # bytes of a device


def build():
    raise AssertionError("is not called here")


class Device:
    """Trains by arithmetic.

    Args:
        promised: The share of what a plan takes that it is forecast to take.
        patience: Steps after which as many bytes more are taken.
    """

    def __init__(self, promised=1.0, patience=100, more=0):
        self.promised = promised
        self.patience = patience
        self.more = more
        self.trials = []

    def run(self, program, arguments, given, environment):
        trial = Trial(**given)
        self.trials.append(trial)
        room = ROOM if trial.memory is None else trial.memory
        size = trial.batch_size
        plain, full, least = 10 + 10 * size, 20 + 3 * size, 20 + 2 * size
        outcome = {"free_bytes": ROOM, "measured": "arithmetic", "device": "gpu", "seconds": 2.0}
        if trial.way == "planned" and least > room * trial.share:
            return {**outcome, "peak": least, "least_bytes": least, "seconds": None}
        planned = min(plain, int(room * trial.share / self.promised))
        peak = {"plain": plain, "full": full, "planned": planned}[trial.way]
        peak += self.more * (trial.steps >= self.patience)
        if peak > ROOM:
            raise process.OutOfMemoryError("no more")
        return {**outcome, "peak": peak, "least_bytes": least if trial.way == "planned" else peak}


def search(monkeypatch, device, **options):
    monkeypatch.setattr(process, "run", device.run)
    return recompute.max_batch_size(build, **options)


@pytest.mark.parametrize("memory", [None, 500])
@pytest.mark.parametrize("promised", [1.0, 0.96])
def test_largest(monkeypatch, memory, promised):
    """The largest batches are right to within a sixteenth, also where plans promise too little."""
    device = Device(promised)
    found = search(monkeypatch, device, memory=memory)
    room = memory or ROOM
    for way, right in (("plain", (room - 10) / 10), ("full", (room - 20) / 3)):
        assert right * 15 / 16 - 1 <= found[way].batch_size <= right
        assert found[way].batch_size < found[way].too_large <= found[way].batch_size * 17 / 16 + 1
        assert found[way].sample_seconds == 2 / found[way].batch_size
    planned = found["planned"]
    assert (room * 0.9 - 20) / 2 * 15 / 16 - 1 <= planned.batch_size <= (room - 20) / 2
    assert all(way.peak <= room for way in found.ways)
    assert len(device.trials) <= 30
    assert found.memory == memory


def test_more_steps_take_more(monkeypatch):
    """What a few steps fit into, and many do not, is not what is found."""
    device = Device(patience=20, more=100)
    found = search(monkeypatch, device, ways=["plain"], steps=20)
    assert 80 <= found["plain"].batch_size <= 89
    assert found["plain"].peak <= ROOM
    assert device.trials[-1].steps == 20


def test_nothing_fits(monkeypatch):
    """Where not even one sample fits, the answer is 0."""
    found = search(monkeypatch, Device(), memory=5)
    assert [(way.batch_size, way.too_large) for way in found.ways] == [(0, 1)] * 3
    assert "plain           0          1           -            -" in str(found)
    with pytest.raises(KeyError):
        found["other"]


def test_all_fit(monkeypatch):
    """Where the limit fits, nothing is known to be too large."""
    found = search(monkeypatch, Device(), limit=16, ways=["full"])
    assert (found["full"].batch_size, found["full"].too_large) == (16, None)
    assert "the memory of the device (gpu, arithmetic)" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": ["fast"]}, "ways must be some of 'plain', 'full', 'planned', got"),
        ({"ways": "plain"}, "ways must be some of"),
        ({"ways": []}, "ways must be some of"),
        ({"memory": 0}, "memory must be a whole number of at least 1, got 0"),
        ({"memory": "much"}, "expected a size"),
        ({"start": 0}, "start must be"),
        ({"limit": 1.5}, "limit must be"),
        ({"steps": True}, "steps must be"),
        ({"length": 0}, "length must be"),
    ],
)
def test_options(options, message):
    """Options out of range are refused before anything is started."""
    with pytest.raises(ValueError, match=message):
        recompute.max_batch_size(build, **options)


def test_build_cannot_be_sent():
    """A function that holds what cannot be pickled is refused, and so is what is none."""
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be pickled"):
        recompute.max_batch_size(lambda: lock, memory="1GiB")
    with pytest.raises(TypeError, match="must be a function"):
        recompute.max_batch_size(7, memory="1GiB")
