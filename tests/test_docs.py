"""Every code block of README and docs/ is run."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's own, about its source and pkg_resources
    import jieba  # noqa: F401  # a block imports it once more, which then warns of nothing

ROOT = Path(__file__).parent.parent
# Below docs/; run by tests/recompute/keras3, where there is a Keras.
NEED_KERAS = {
    "recompute.md",
    "zh/recompute.md",
    "howto/my-layer.md",
    "howto/my-pretrained-model.md",
}
# Run by tests/recompute/keras2, where there is bert4keras.
NEED_BERT4KERAS = {"bert4keras.md", "zh/bert4keras.md"}
PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.relative_to(ROOT / "docs").as_posix() not in NEED_KERAS | NEED_BERT4KERAS
    ),
]


def run_console(example: Example) -> None:
    """Run the lines of a ``console`` block that begin with ``$``; each must succeed.

    Those of a page in Chinese that are in the English one too are run with that.
    """
    page = Path(example.path)
    english = page.parent.parent / page.name
    elsewhere = english.read_text(encoding="utf-8") if page.parent.name == "zh" else ""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for line in example.parsed.splitlines():
        if line.startswith("$ ") and f"\n{line}\n" not in elsewhere:
            done = subprocess.run(
                ["bash", "-c", line[2:]],
                capture_output=True,
                text=True,
                env=environment,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def needs_keras(example: Example) -> bool:
    """Whether a block of a page that others share is for an environment with Keras."""
    return example.parsed.startswith("import keras")


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser(language="console", evaluator=run_console),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks(page, tmp_path, monkeypatch, restored_jieba):
    """The blocks of a page run one after another, in a folder that has docs/samples."""
    samples = tmp_path / "docs" / "samples"
    shutil.copytree(ROOT / "docs" / "samples", samples)
    before = os.listdir(samples)
    monkeypatch.chdir(tmp_path)
    for example in SYBIL.parse(page).examples():
        if not needs_keras(example):
            example.evaluate()
    assert os.listdir(samples) == before  # what is counted next is the same


def test_the_check_can_fail(tmp_path):
    """A block that fails is noticed."""
    page = tmp_path / "page.md"
    page.write_text("```python\nassert 1 == 2\n```\n\n```console\n$ false\n```\n")
    for example in SYBIL.parse(page).examples():
        with pytest.raises(AssertionError):
            example.evaluate()


def test_copied_lines_have_no_prompt():
    """The button beside a console block copies commands, as they are to be typed."""
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    assert "sphinx_copybutton" in conf["extensions"]
    assert conf["copybutton_prompt_is_regexp"]
    assert conf["copybutton_only_copy_prompt_lines"]
    for page in (ROOT / "docs").rglob("*.md"):
        for block in re.findall(
            r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            lines = block.splitlines()
            copied = [line for line in lines if re.match(conf["copybutton_prompt_text"], line)]
            assert copied == lines, page  # no block shows what a command prints
            assert all(re.sub(conf["copybutton_prompt_text"], "", one)[0] != "$" for one in copied)


def test_no_page_is_forgotten():
    """There is documentation, and README has blocks that run."""
    assert len(PAGES) >= 3
    assert any(True for _ in SYBIL.parse(ROOT / "README.md").examples())


def test_picture_is_what_its_script_draws():
    """A change to the script that draws a picture is not forgotten to be drawn."""
    folder = ROOT / "docs" / "pictures"
    script = runpy.run_path(str(folder / "draw.py"))
    assert script["draw"]() == (folder / "recompute.svg").read_text(encoding="utf-8")
