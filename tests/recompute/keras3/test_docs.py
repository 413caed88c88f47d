"""The pages of the documentation whose code blocks need Keras."""

from __future__ import annotations

import pytest

from tests.test_docs import NEED_KERAS, ROOT, SYBIL, needs_keras


@pytest.mark.parametrize("name", sorted(NEED_KERAS))
def test_code_blocks(name, tmp_path, monkeypatch):
    """The blocks of the page run one after another, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    examples = list(SYBIL.parse(ROOT / "docs" / name).examples())
    assert examples
    for example in examples:
        example.evaluate()


def test_blocks_of_readme():
    """README shows how to begin with a model."""
    examples = list(filter(needs_keras, SYBIL.parse(ROOT / "README.md").examples()))
    assert len(examples) == 1
    examples[0].evaluate()
