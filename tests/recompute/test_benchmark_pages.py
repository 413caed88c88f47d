"""What trials of layers write for readers."""

from __future__ import annotations

import json

import pytest

from bench.recompute import layer_table

ERROR = "ValueError: no `keywords` here, " + "and on it goes " * 20


def record(name, *verdicts):
    cells = [{"verdict": verdict, "detail": detail} for verdict, detail in verdicts]
    return {"layer": name, **dict(zip(layer_table.TOOLS, cells))}


RECORDS = [
    {"versions": {"keras": "3.15", "jax": "0.10"}},
    record("Dense", ("exact", ""), ("raises", ERROR), ("exact", "")),
    record("Dropout", ("exact", ""), ("raises", ERROR), ("wrong gradients", "gradients 1e+00")),
]


def test_table():
    """A row a layer, wrong ones in bold, each error once, and a summary of all backends."""
    page = layer_table.render({"jax": RECORDS}, "2026-01-02", "a machine")
    lines = page.splitlines()
    assert lines[0] == "Trained on 2026-01-02; a machine."
    assert "| JAX | 2 exact | 2 raises | 1 exact, 1 wrong gradients |" in lines
    assert "| torch | not measured: not installed" in page
    assert "| Dense | exact | raises (1) | exact |" in lines
    assert "| Dropout | exact | raises (1) | **wrong gradients** |" in lines
    notes = [line for line in lines if line.startswith("1. ")]
    assert len(notes) == 1
    assert notes[0].startswith("1. `ValueError: no 'keywords' here, and on")
    assert notes[0].endswith(" ...`")


def test_results_of_several_runs(tmp_path):
    """A file to which a resumed run has added its versions again is read as one."""
    file = tmp_path / "jax.jsonl"
    records = [RECORDS[0], RECORDS[1], RECORDS[0], RECORDS[2]]
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    assert layer_table.read(file) == RECORDS


def test_page_without_markers(tmp_path, monkeypatch):
    """A page that has no place for the table is refused before anything is trained."""
    page = tmp_path / "page.md"
    page.write_text("nothing\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["layer_table", str(page)])
    with pytest.raises(SystemExit, match="expected the lines"):
        layer_table.main()
