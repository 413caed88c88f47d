"""What trials of layers and of models write for readers."""

from __future__ import annotations

import json

import pytest

from bench.recompute import layer_table, zoo

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


def zoo_record(model, backend, **ways):
    return {"model": model, "backend": backend, "date": "2026-01-02", **ways}


def verdict(text, kept, detail="", different=()):
    found = {"verdict": text, "detail": detail, "kept_bytes": kept}
    return {**found, "different": list(different), "gradients": 9}


def test_zoo():
    """A row a model and way, bytes beside the verdict, each error once, what is missing named."""
    raises = {"verdict": "raises", "detail": ERROR}
    plain = {"kept_bytes": 2_000_000}
    rounded = verdict("exact but for rounding", 1000, "gradients 1e-07", ["a", "b"])
    page = zoo.render(
        [
            zoo_record("BERT", "torch", plain=plain, apply=verdict("exact", 500_000)),
            zoo_record("BERT", "torch", plain=plain, **{"keras.remat": raises}),
            zoo_record("BERT", "jax", plain=plain, apply=rounded),
            zoo_record("NASNetMobile", "torch", plain=raises),
            {"torch": "2.13", "budgets": {"0.1": dict(WRONG)}},
        ]
    )
    lines = page.splitlines()
    bits = "last bits (2 of 9 gradients; gradients 1e-07), 2.0 MB → 1 kB"
    assert f"| BERT | apply | not trained | {bits} | exact, 2.0 MB → 500 kB |" in lines
    assert "| BERT | keras.remat | not trained | not trained | raises (1) |" in lines
    assert "| NASNetMobile | apply | not trained | not trained | plainly raises (1) |" in lines
    assert "| 0.1 | the same | **wrong**: 3 of 9, by 50% |" in lines
    assert len([line for line in lines if line.startswith("1. `ValueError")]) == 1
    assert "- TensorFlow (): not trained yet." not in page
    assert "- TensorFlow: not trained yet." in lines


WRONG = {"same_loss": True, "different": 3, "gradients": 9, "largest": 0.5}


def test_zoo_is_listed():
    """The models are listed without importing a framework."""
    assert {"BERT", "VGG16", "Whisper"} <= set(zoo.models())


def test_zoo_is_resumed(tmp_path, monkeypatch):
    """What a file has is not trained again, what took too long is; results are there at once."""
    trained = []

    def trial(backend, name, ways, patience):
        trained.append(name)
        if name == "BERT":
            raise KeyboardInterrupt
        return None if name == "T5" else {"model": name, "plain": {}}

    monkeypatch.setattr(zoo, "trial", trial)
    file = tmp_path / "build" / "zoo.json"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            zoo.train("torch", file, ["VGG16", "T5", "BERT", "ViT"], [], 1)
    assert trained == ["VGG16", "T5", "BERT", "T5", "BERT"]
    assert [record["model"] for record in zoo.read(file)] == ["VGG16"]
