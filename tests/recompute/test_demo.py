"""The demo, as far as it goes without a framework; tests/recompute/keras3 runs it for real."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from typer.testing import CliRunner

from perftricks.cli.recompute_demo import Policy, app
from perftricks.cli.render import demo as render
from perftricks.recompute import demo, policies
from perftricks.recompute.demo import (
    Comparison,
    Config,
    Run,
    check,
    compare,
)
from perftricks.recompute.measure import batches, process
from perftricks.recompute.measure.process import OutOfMemoryError, RunError

ROOT = Path(__file__).parent.parent.parent


def comparison(**changes):
    runs = [
        Run(way, (2 - way) * 2**30, "resident set of the process", 1.0 + way / 4, [2.0, 1.5], 1234)
        for way in (False, True)
    ]
    differences = {"gradient_difference": 0.0, "state_difference": 0.0, "loss_difference": 0.0}
    return Comparison(Config(), *runs, **{**differences, **changes})


def finished(recompute, folder, gradient, *options):
    """Leave what a process of the demo leaves, a gradient of one number; return what it prints."""
    os.makedirs(folder)
    for kind in ("gradient", "variable"):
        np.save(f"{folder}/{kind}-0.npy", np.float32(gradient))
    if options:
        return {"gradient": 0.0, "state": 0.0, "loss": 0.0}
    record = comparison().to_dict()["recomputed" if recompute else "plain"]
    del record["recompute"]
    return record


def test_ratios():
    """Memory is plain over recomputed, time the other way round."""
    one = comparison()
    assert (one.memory_ratio, one.time_ratio, one.exact) == (2.0, 1.25, True)


@pytest.mark.parametrize("what", ["gradient_difference", "state_difference", "loss_difference"])
def test_any_difference_is_not_exact(what):
    """Equal means equal to the last bit."""
    assert not comparison(**{what: 1e-9}).exact


@pytest.mark.parametrize(
    ("error", "uncompiled", "exact"), [(2e-7, 0.0, True), (1e-2, 0.0, False), (2e-7, 1e-9, False)]
)
def test_rounding_of_a_compiler_is_told_apart(error, uncompiled, exact, capsys):
    """What XLA rounds is exact only if nothing differs without, and plain errors are as large."""
    one = comparison(
        gradient_difference=1e-7,
        by_operation={"gradient": uncompiled, "state": 0.0, "loss": 0.0},
        error={"plain": 1e-7, "recomputed": error},
    )
    assert (one.exact, one.bitwise) == (exact, False)
    render.show(one, None, None)
    shown = " ".join(capsys.readouterr().out.split())
    answer = "no" if uncompiled else "yes"
    assert f"gradients identical, operation by operation: {answer} (max" in shown
    words = "are NOT equal" if error > 1e-3 else "differ by rounding"
    assert f"they {words}: gradients 1e-07" in shown
    assert f"plain 1e-07, recomputed {error:.3g}" in shown


@pytest.mark.parametrize(("recomputed", "exact"), [(1.0 - 3e-6, True), (1.1, False)])
def test_rounding_is_measured(recomputed, exact, monkeypatch):
    """How far the plain program is from a step by operation says what may be rounding on JAX."""
    started = []

    def start(config, recompute, folder, *options):
        started.append((recompute, *options))
        gradient = 1.0 if options else recomputed if recompute else 1.0 + 1e-6
        return finished(recompute, folder, gradient, *options)

    monkeypatch.setattr(demo, "_start", start)
    assert compare(Config(backend="jax")).exact is exact
    assert started == [(False,), (True,), (True, "--by-operation")]
    assert not compare(Config(backend="tensorflow")).exact


@pytest.mark.parametrize(("rounds", "enough"), [(True, 4), (False, 4), (True, 0)])
def test_a_smaller_batch_is_compared_if_memory_is_short(rounds, enough, monkeypatch, capsys):
    """A step by operation takes more memory than a compiled one; that must not end the demo."""

    def start(config, recompute, folder, *options):
        if options and config.batch_size > enough:
            raise OutOfMemoryError("out of it")
        equal = not rounds and config.batch_size <= enough
        gradient = 1.0 if options or equal else 1.0 - 3e-6 if recompute else 1.0 + 1e-6
        return finished(recompute, folder, gradient, *options)

    monkeypatch.setattr(demo, "_start", start)
    config = Config(backend="jax", batch_size=18)
    if not enough:
        with pytest.raises(OutOfMemoryError):
            compare(config)
        return
    found = compare(config)
    assert (found.compared_batch, found.config) == (4, config)
    assert found.gradient_difference > 0
    assert found.rounding
    assert found.exact
    render.show(found, None, None)
    words = "gradients identical, operation by operation with a batch of 4: yes"
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("installed", "is_set"),
    [("0.4.35", True), ("0.10.2", True), ("0.11.0", True), ("0.11.1", False), ("0.12.0.1", False)],
)
def test_flags_of_xla(installed, is_set, monkeypatch):
    """Older versions hide the saving unless they are told not to; newer ones must not be told."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    assert bool(process.xla_flags()) is is_set


def test_no_flags_without_xla(monkeypatch):
    """Where there is no XLA it needs no flags."""

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert process.xla_flags() == ""


@pytest.mark.parametrize("constant", [0, 50, 290])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("budget", [300, None])
def test_the_search_takes_few_runs(constant, known, budget, monkeypatch):
    """The peak of one batch says which to try next; the answer is right to within a sixteenth."""
    tried = []

    def run(config, recompute):
        tried.append(config.batch_size)
        peak = constant + config.batch_size
        if budget is None and peak > 300:
            raise OutOfMemoryError("out of it")
        free = 300 if budget is None else None
        return Run(recompute, peak, "a meter", 1.0, [1.0], 1, free_bytes=free)

    monkeypatch.setattr(demo, "train", run)
    first = run(Config(), True) if known and (budget or constant + 16 <= 300) else None
    tried.clear()
    found = demo.largest_batch(Config(), True, budget, known=first)[0]
    assert 300 - constant - (300 - constant) // 16 <= found <= 300 - constant
    assert len(tried) <= 5 - (first is not None)


def test_nan_is_nan():
    """A training that runs away does so both ways; one that does so one way only is not equal."""
    nan, one = np.float32([np.nan, 1]), np.float32([1, 1])
    assert demo._gap(nan, nan) == 0
    assert demo._gap(nan, one) == float("inf")
    assert demo._gap(one, np.float32([1, 1.5])) == 0.5


def test_record_is_json():
    """All figures can be written as JSON and are there."""
    record = json.loads(json.dumps(comparison().to_dict()))
    assert record["exact"] is True
    assert record["plain"]["peak_bytes"] == 2**31
    assert record["config"]["model"] == "transformer"


def test_screen(capsys):
    """The screen says how much less, how much longer, and that gradients are equal."""
    render.show(comparison(), (48, 144), 2**30)
    shown = capsys.readouterr().out
    for words in ("2.00x less", "1.25x", "3.00x", "gradients identical: yes (max difference 0)"):
        assert words in shown
    render.show(comparison(), (430, batches.LARGEST_TRIED), 2**30)
    assert "430 4096+ 9.53x" in " ".join(capsys.readouterr().out.split())
    render.show(comparison(gradient_difference=0.5), None, None)
    assert "gradients identical: no (max difference 0.5)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gpt-9"}, "model must be one of transformer"),
        ({"backend": "numpy"}, "backend must be one of tensorflow"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"model": "resnet50", "layers": 3}, "resnet50 has the layers it has"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"policy": "most"}, "policy must be one of full, save_masks"),
        ({"budget": 0}, "budget must be at least 1 byte, not 0"),
        ({"budget": 9, "policy": "save_masks"}, "leave policy='save_masks' out"),
    ],
)
def test_bad_configurations(options, message):
    """What cannot be trained is refused before a process is started."""
    with pytest.raises(ValueError, match=message):
        check(Config(**options))
    with pytest.raises(ValueError, match=message):
        compare(Config(**options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "1GiB"], "give both or neither"),
        (["--budget", "1GiB", "--max-batch"], "leave --max-batch out"),
        (["--budget", "lots"], "expected a size such as 500MB"),
        (["--json", "nowhere/x.json"], "folder 'nowhere' of 'nowhere/x.json' does not exist"),
        (["--json", "x.txt"], "--json 'x.txt': expected a file that ends in .json, or - for"),
        (["--plot", "."], "'.' is a folder; name a file in it"),
    ],
)
def test_bad_options(arguments, message, monkeypatch):
    """Wrong usage is one line on stderr and exit status 2."""
    monkeypatch.setattr("perftricks.cli.recompute_demo.installed", lambda backend: "jax")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_every_policy_can_be_chosen():
    """The command offers the policies that there are."""
    assert tuple(choice.value for choice in Policy) == policies.NAMES


def test_a_policy_and_a_plan_are_named(capsys):
    """What blocks keep is said, and what a plan takes of its budget."""
    render.show(comparison(), None, None)
    assert "policy" not in capsys.readouterr().out
    one = comparison()
    render.show(replace(one, config=Config(policy="save_masks")), None, None)
    assert "policy    save_masks" in capsys.readouterr().out
    recomputed = replace(one.recomputed, planned_bytes=3 * 2**20)
    planned = replace(one, config=Config(budget=4 * 2**20), recomputed=recomputed)
    render.show(planned, None, None)
    assert "a whole step takes 3 MiB, of a budget of 4 MiB" in capsys.readouterr().out


def test_nothing_installed(monkeypatch):
    """Without a framework the command says which extra to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["--backend", "jax"])
    assert result.exit_code == 2
    assert "pip install 'perftricks[jax]'" in result.stderr


MANY_LINES = """I0000 a line of a log
Traceback (most recent call last):
  File "run.py", line 1, in <module>
ValueError: cannot use [[0. 0.]
 [0. 0.]] here
Exception ignored in: <function f>
"""


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (MANY_LINES, "ValueError: cannot use [[0. 0.]"),
        ("a\njax sees no GPU\n\n", "jax sees no GPU"),
    ],
)
def test_reason_of_a_failure(monkeypatch, stderr, reason):
    """Of an error of many lines the first is shown, not the last."""
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(process.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(RunError) as error:
        compare(Config())
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("peaks", "words"),
    [
        ((2**30, 2**29), "1,024 MiB 512 MiB 2.00x less"),
        ((81 * 2**20, 100 * 2**20), "81.0 MiB 100 MiB 1.23x more"),
        ((2**20, 2**20), "1.0 MiB 1.0 MiB no less"),
        ((0, 0), "0.0 MiB 0.0 MiB no less"),
    ],
)
def test_a_saving_is_never_a_fraction(peaks, words, capsys):
    """What takes more is said to take more, and that nothing is saved at this size."""
    one = comparison()
    plain, recomputed = (
        replace(run, peak_bytes=peak)
        for run, peak in zip((one.plain, one.recomputed), peaks, strict=True)
    )
    render.show(replace(one, plain=plain, recomputed=recomputed), None, None)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"peak memory {words} " in shown
    assert ("Nothing is saved at this size" in shown) == (
        "less" not in words.replace("no less", "")
    )


def test_tries_are_told():
    """Each batch that is tried says what it took and whether that fits, the first one included."""
    first = replace(comparison().plain, peak_bytes=400 * 2**20)
    peaks = {32: 816, 40: 1016, 41: None, 42: 1066}  # MiB; None: out of memory
    begun, tried = [], []

    def train(config, recompute):
        peak = peaks.get(config.batch_size, 25 * config.batch_size)
        if peak is None:
            raise OutOfMemoryError("out of it")
        return replace(first, peak_bytes=peak * 2**20, recompute=recompute)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "train", train)
        found, _ = demo.largest_batch(
            Config(), False, 2**30, begun.append, known=first, tried=tried.append
        )
    assert found == 40
    assert tried[0] == "batch 16 without recompute: 400 MiB, fits"
    assert [line.partition(":")[0] for line in tried[1:]] == begun
    for line in tried:
        size, answer = line.split(": ")[1].rsplit(", ", 1)
        fits = size != "out of memory" and float(size.split()[0].replace(",", "")) <= 1024
        assert answer == ("fits" if fits else "does not fit")
    assert any(line.endswith("does not fit") for line in tried)


class TestCommand:
    """The command from its options to what it prints, with no framework to train in."""

    @pytest.fixture
    def invoke(self, monkeypatch):
        monkeypatch.setattr("perftricks.cli.recompute_demo.installed", lambda backend: "torch")

        def start(config, recompute, folder=None, *options):
            if folder is None:
                record = comparison().to_dict()["recomputed" if recompute else "plain"]
                del record["recompute"]
                return {**record, "peak_bytes": config.batch_size * 2**26}
            return finished(recompute, folder, 1.0, *options)

        monkeypatch.setattr(demo, "_start", start)
        return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))

    def test_steps_without_a_terminal(self, invoke):
        """Where stderr is no terminal, each step is a plain line on it."""
        result = invoke()
        assert result.exit_code == 0
        assert result.stderr.splitlines() == [
            "training without recompute",
            "training with recompute",
            "comparing gradients and variables",
        ]
        assert "\x1b" not in result.output

    def test_json(self, invoke, tmp_path):
        """Figures on the standard output stand alone there; a file comes beside what is shown."""
        alone = invoke("--json", "-")
        record = json.loads(alone.stdout)
        assert (record["exact"], record["max_batch"]) == (True, None)
        path = tmp_path / "图.json"
        beside = invoke("--json", path)
        assert "gradients identical: yes" in beside.stdout
        assert json.loads(path.read_text(encoding="utf-8")) == record
        assert alone.stderr == beside.stderr

    def test_tries(self, invoke):
        """--max-batch shows what each batch took, both ways."""
        lines = invoke("--max-batch", "--memory", "2GiB").stderr.splitlines()
        assert "batch 16 with recompute: 1,024 MiB, fits" in lines
        assert "batch 16 without recompute: 2,048 MiB, fits" in lines
        assert "batch 32 with recompute" in lines
        assert "batch 32 with recompute: 2,048 MiB, fits" in lines


def test_labels_do_not_touch():
    """No text of a picture lies on another, nor over the edge."""
    one = comparison()
    for pair in ((0, 0), (7, 7), (1, 2**30), (2**31, 2**30), (99 * 2**20, 100 * 2**20)):
        runs = (
            replace(run, peak_bytes=peak, step_seconds=peak / 2**30)
            for run, peak in zip((one.plain, one.recomputed), pair, strict=True)
        )
        figure = render._figure(
            replace(one, **dict(zip(("plain", "recomputed"), runs, strict=True)))
        )
        figure.canvas.draw()
        boxes = [
            (text.get_text(), text.get_window_extent())
            for text in figure.findobj(lambda artist: isinstance(artist, Text))
            if text.get_visible() and text.get_text()
        ]
        inside = figure.bbox
        for number, (name, box) in enumerate(boxes):
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, name
            assert inside.y0 <= box.y0 <= box.y1 <= inside.y1, name
            for other, other_box in boxes[:number]:
                assert not box.overlaps(other_box), (pair, name, other)


STUBBED = """
import sys
sys.argv = ["perftricks"]
from perftricks import cli
from perftricks.cli import recompute_demo
from perftricks.recompute import demo
from tests.recompute.test_demo import finished
recompute_demo.installed = lambda backend: "torch"
demo._start = lambda config, on, folder, *more: finished(on, folder, 1.0, *more)
sys.exit(cli.main(["recompute-demo", *{arguments!r}]))
"""


@pytest.mark.parametrize("arguments", [[], ["--json", "-"]])
def test_reader_that_leaves(arguments):
    """A reader that has seen enough, such as head, is no error, as in the other commands."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", STUBBED.format(arguments=arguments)],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (
        0,
        ["comparing gradients and variables"],
    )
