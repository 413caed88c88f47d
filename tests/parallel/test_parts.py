"""The parts that can be wrong by themselves."""

from __future__ import annotations

import ctypes
import io
import os
import random
import subprocess
import sys
import threading
import types

import numpy.random  # loaded, so that it is seeded
import pytest

from perftricks.parallel import available_cores, parallel_apply, seeds
from perftricks.parallel.cores import _cgroup_cores
from perftricks.parallel.errors import describe_exit
from perftricks.parallel.progress import byte_progress, reporter
from perftricks.parallel.seeds import generators_preserved, seed_generators, seed_of
from perftricks.parallel.window import BatchSizer


def test_sizer_grows_until_a_batch_takes_its_time():
    """Batches of quick items grow, but not in one leap and not beyond the limit."""
    sizer = BatchSizer(None, limit=500, budget=None)
    sizes = []
    for _ in range(8):
        sizes.append(sizer.size)
        sizer.record(sizer.size, sizer.size * 1e-6)
    assert sizes == [1, 4, 16, 64, 256, 500, 500, 500]


def test_sizer_settles_at_the_target():
    """Items of 10 ms make batches of ten."""
    sizer = BatchSizer(None, limit=500, budget=None)
    for _ in range(5):
        sizer.record(sizer.size, sizer.size * 0.01)
    assert sizer.size == 10


def test_sizer_shrinks_to_single_items():
    """Items slower than the target go one by one."""
    sizer = BatchSizer(None, limit=500, budget=None)
    sizer.record(1, 1e-6)
    sizer.record(4, 40.0)
    assert sizer.size == 1


def test_sizer_keeps_a_given_size():
    """A size that was asked for is not changed."""
    sizer = BatchSizer(7, limit=500, budget=None)
    sizer.record(7, 100.0)
    assert sizer.size == 7


def test_seeds_do_not_collide_nearby():
    """Neighbouring roots and indices have different seeds."""
    assert len({seed_of(root, index) for root in range(100) for index in range(100)}) == 10_000


def test_seeds_are_what_they_were():
    """Seeds are part of a result's identity: they must not change between versions."""
    assert (seed_of(0, 0), seed_of(2**64 + 5, 3)) == (seed_of(2**64, 0), seed_of(5, 3))
    assert seed_of(0, 0) == 0x379C1E9F8D23AF2A
    assert seed_of(5, 3) == 0xCC68E2817B58F480


def states():
    """Return the states of both generators, and some of what they draw next."""
    name, key, position, *gauss = numpy.random.get_state()
    found = [random.getstate(), name, key.tobytes(), position, gauss]
    drawn = [random.random(), random.gauss(0, 1), numpy.random.randint(0, 99, 5).tolist()]
    return found + drawn + [numpy.random.standard_normal(3).tolist()]  # odd: half a pair stays


def seeded_by_themselves(seed):
    """Seed both generators by their own functions, as documented."""
    random.seed(seed)
    numpy.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    return states()


SEEDS = [0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1, *map(seed_of, [3] * 300, range(300))]


def test_both_generators_are_seeded_as_by_their_own_functions():
    """Bit for bit, whatever was drawn before, for seeds of every size."""
    with generators_preserved():
        for seed in SEEDS:
            seed_generators(seed)
            assert states() == seeded_by_themselves(seed), seed


def test_states_are_copied_only_where_they_are_as_expected(monkeypatch):
    """A Python that keeps its state elsewhere changes nothing but the time it takes."""
    monkeypatch.setattr(seeds, "_copier", None)
    monkeypatch.setattr(ctypes, "string_at", lambda address, size: bytes(size))
    with generators_preserved():
        for seed in SEEDS[-9:]:
            seed_generators(seed)
            assert states() == seeded_by_themselves(seed), seed


def test_a_generator_that_the_program_has_chosen_is_seeded(monkeypatch):
    """numpy.random on another kind of bits draws what seeding it gives, before and after."""
    usual = numpy.random.get_bit_generator()
    with generators_preserved():
        for bits in (numpy.random.PCG64(), usual):
            numpy.random.set_bit_generator(bits)
            drawn = []
            for seed in SEEDS[-2:]:
                seed_generators(seed)
                drawn.append(numpy.random.rand(3).tolist())
                numpy.random.seed([seed & 0xFFFFFFFF, seed >> 32])
                assert drawn[-1] == numpy.random.rand(3).tolist()
            assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ({}, None),
    ],
)
def test_quota_of_the_control_group(tmp_path, files, expected):
    """Both versions are read, and the tightest limit on the way up counts."""
    for name, content in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert _cgroup_cores(tmp_path / "fs", membership) == expected


def test_affinity_counts():
    """A process bound to one core has one."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from perftricks.parallel import available_cores; print(available_cores())"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=env) == "1\n"
    assert available_cores() >= 1


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-11, "was killed by SIGSEGV"),
        (-99, "was killed by signal 99"),
        (None, "disappeared"),
    ],
)
def test_exit_codes_in_words(exitcode, words):
    """The cause of death is told as a person would."""
    assert describe_exit(exitcode) == words


def test_progress_bar_stays_silent_off_a_terminal(capsys):
    """progress=True writes nothing where nobody watches."""
    with reporter(True, range(3)) as report:
        report.done(3)
    assert capsys.readouterr() == ("", "")


def test_progress_bar_on_a_terminal(monkeypatch, capsys):
    """progress=True draws on stderr, and takes the bar away at the end."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with reporter(True, range(3)) as report:
        report.done(2)
        print("result")
    captured = capsys.readouterr()
    assert captured.out == "result\n"  # what the caller prints goes where it always goes
    assert "2/3" in captured.err


def fail(*arguments):
    raise OSError(5, "Input/output error")


CLOSED = io.StringIO()
CLOSED.close()
GONE = types.SimpleNamespace(isatty=lambda: True, write=fail, flush=fail, encoding="utf-8")


@pytest.mark.parametrize(
    "stream", [None, CLOSED, object(), GONE], ids=["none", "closed", "odd", "gone"]
)
def test_progress_bar_needs_no_stderr(monkeypatch, stream):
    """A stderr that is not there, closed, odd, or a terminal that went away disturbs no run."""
    monkeypatch.setattr(sys, "stderr", stream)
    results = parallel_apply(abs, range(5), 2, 5, dummy=True, unordered=False, progress=True)
    assert results == [0, 1, 2, 3, 4]


def test_progress_bar_starts_no_thread(monkeypatch, capsys):
    """A thread of the bar's would be there while workers are forked."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = threading.active_count()
    with reporter(True, range(3)) as report:
        report.done(1)
        assert threading.active_count() == before


class Unknowable:
    """Has items, and an error where its length is asked for, as data sets without end have."""

    def __iter__(self):
        return iter(range(3))

    def __len__(self):
        raise NotImplementedError("endless")


def test_progress_bar_without_a_length(monkeypatch, capsys):
    """An iterable that cannot tell its length gets a bar without an end."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert parallel_apply(abs, Unknowable(), 2, 5, dummy=True, progress=True) is not None
    assert "3/?" in capsys.readouterr().err


class Notebook:
    """Stands for IPython in the kernel of a notebook: keeps what is displayed."""

    def __init__(self):
        self.kernel = self  # a shell that has one is a notebook's
        self.shown = []

    def get_ipython(self):
        """Return the shell."""
        return self

    def display(self, data, *, raw, display_id):
        """Show something; return what updates it."""
        assert raw
        assert display_id
        self.shown.append(data)
        return self

    def update(self, data, *, raw):
        """Show something else in its place."""
        assert raw
        self.shown.append(data)


def test_progress_bar_in_a_notebook(monkeypatch, capsys):
    """In a notebook the bar is part of the cell's output, and stands at the end at the last."""
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    parallel_apply(abs, range(2000), 2, 5, dummy=True, progress=True)
    assert notebook.shown[0]["text/plain"] == "0 of 2,000"
    assert notebook.shown[-1]["text/plain"] == "2,000 of 2,000"
    assert 'value="2000" max="2000"' in notebook.shown[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_bytes_in_a_notebook(monkeypatch, capsys):
    """A count shows the bytes done, of how many where that is known."""
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    with byte_progress(True) as tell:
        tell(1_500_000, None)
        tell(3_000_000, 12_000_000)
    assert notebook.shown[0]["text/plain"] == "0 bytes"
    assert notebook.shown[1]["text/plain"] == "1.5 MB"
    assert notebook.shown[-1] == {
        "text/plain": "3.0 MB of 12.0 MB",
        "text/html": '<progress style="width: 20em" value="3000000" max="12000000"></progress> '
        "3.0 MB of 12.0 MB",
    }
    assert capsys.readouterr() == ("", "")


def test_the_end_in_a_notebook(monkeypatch):
    """A bar of unknown length looks busy while the run goes on, and not after it."""
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    parallel_apply(abs, (n for n in range(20)), 2, 5, dummy=True, progress=True)
    assert notebook.shown[0]["text/html"] == '<progress style="width: 20em"></progress> 0'
    assert notebook.shown[-1] == {
        "text/plain": "20",
        "text/html": '<progress style="width: 20em" value="20" max="20"></progress> 20',
    }


def test_bytes_that_nobody_sees(capsys):
    """Without a terminal or notebook nothing is shown; a function is used as it is."""
    told = []
    for progress, expected in (
        (True, None),
        (False, None),
        (None, None),
        (told.append, told.append),
    ):
        with byte_progress(progress) as tell:
            assert tell == expected
    assert capsys.readouterr() == ("", "")
    message = "progress must be True, False or a function of two ints"
    with pytest.raises(TypeError, match=message), byte_progress("yes"):
        pass


def test_a_notebook_that_takes_no_output_disturbs_no_run(monkeypatch):
    """An update that fails is left out."""
    notebook = Notebook()
    notebook.update = None
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    assert len(parallel_apply(abs, range(5), 2, 5, dummy=True, progress=True)) == 5
