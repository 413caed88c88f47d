"""Planning is arithmetic: outlines without any Keras, and plans as JSON."""

from __future__ import annotations

import html
import json

import pytest

from perftricks.recompute import Plan, Profile, Segment, Status, Verification
from perftricks.recompute.batch_sizes import LargestBatch, MaxBatchSize
from perftricks.recompute.inspection import Part
from perftricks.recompute.planning.chain import Step, Tensor
from perftricks.recompute.planning.costs import Facts, bytes_of, kept_bytes
from perftricks.recompute.planning.cutters import Boundaries, Cutter, Every
from perftricks.recompute.planning.outline import Below, Call, Graph, Layers, Outline
from perftricks.recompute.planning.planner import plan_layers, plan_segments
from perftricks.recompute.planning.plans import Pareto, Point

WIDTH = 100


def graph(sizes, *, nested=None, number=0, first=0, is_static=False, name="net"):
    """Return a chain of layers that keep so many bytes each; some are models, by their place."""
    calls = [
        Call(
            100 * number + place + 1,
            "Dense",
            Step(f"layer_{place}", (first + place,), (tensor(first + place + 1),), size),
            (nested or {}).get(place),
        )
        for place, size in enumerate(sizes)
    ]
    end = first + len(sizes)
    return Graph(name, number, [tensor(first)], calls, [end], is_static)


def tensor(key):
    return Tensor(key, WIDTH, True)


def outline(root):
    return Outline(root, ("Model",))


def steps_of(plan):
    return [segment.steps for segment in plan.segments]


def test_the_lowest_peak():
    """Of nine equal layers three segments of three; the last runs plainly."""
    plan = plan_segments(outline(graph([WIDTH] * 9)), Cutter())
    assert steps_of(plan) == [(0, 3), (3, 6), (6, 9)]
    assert [segment.recomputed for segment in plan.segments] == [True, True, False]
    assert (plan.plain, plan.peak) == (9 * WIDTH, 2 * WIDTH + 3 * WIDTH)
    assert plan.segments[1] == Segment(
        "net", ("layer_3", "layer_4", "layer_5"), 3 * WIDTH, WIDTH, True, 0, (3, 6)
    )


def test_what_is_asked_for():
    """Cuts at every second place, and after names and tensors; what saves nothing, too."""
    net = outline(graph([WIDTH] * 5))
    assert steps_of(plan_segments(net, Every(2))) == [(0, 2), (2, 4), (4, 5)]
    by_name = plan_segments(net, Boundaries({"layer_1"}, set()))
    assert steps_of(by_name) == [(0, 2), (2, 5)]
    assert plan_segments(net, Boundaries(set(), {2})) == by_name
    free = outline(graph([0, 0, 0]))
    assert [s.recomputed for s in plan_segments(free, Every(1)).segments] == [True, True, False]
    with pytest.raises(ValueError, match="nothing to segment in net"):
        plan_segments(free, Cutter())


def test_a_nested_model_is_cut_inside():
    """If it holds most of the memory, or a boundary is in it; one that is called twice once."""
    inner = graph([WIDTH] * 9, number=7, first=50, name="inner")
    around = outline(graph([10, 9 * WIDTH, 10, 9 * WIDTH], nested={1: inner, 3: inner}))
    plan = plan_segments(around, Cutter())
    inside = [segment for segment in plan.segments if segment.number == 7]
    assert len(inside) == len(set(inside)) > 1
    assert {segment.model for segment in inside} == {"inner"}
    assert plan.peak < plan.plain
    small = graph([1] * 4, number=7, first=50, name="inner")
    around = outline(graph([WIDTH] * 4, nested={1: small}))
    plan = plan_segments(around, Boundaries(set(), {52}))
    assert [s.steps for s in plan.segments if s.number == 7] == [(0, 2), (2, 4)]


def test_layers_with_a_call_of_their_own():
    """Each layer below is a segment, the model that is most of it is cut, the empty left out."""
    inner = graph([WIDTH] * 9, number=2, name="inner")
    below = [
        Below(1, "dense", 1, False, None),
        Below(2, "inner", 9, False, inner),
        Below(3, "dropout", 1, True, None),
    ]
    plan = plan_segments(outline(Layers("net", 11, below, False)), Cutter())
    assert plan.segments[0] == Segment("net", ("dense",), None, None, True, 1)
    assert {segment.model for segment in plan.segments[1:]} == {"inner"}
    with pytest.raises(ValueError, match="nothing to segment"):
        plan_segments(outline(Layers("net", 11, below, False)), Every(1))


def test_chosen_layers():
    """Each is a segment; in a graph that exists already its calls must be known."""
    plan = plan_layers(outline(graph([WIDTH] * 3)), {2: "layer_1", 3: "layer_2"})
    assert [(s.number, s.steps, s.recomputed) for s in plan.segments] == [
        (2, None, True),
        (3, None, True),
    ]
    static = outline(graph([WIDTH] * 3, is_static=True))
    assert plan_layers(static, {2: "layer_1"}).segments[0].recomputed
    with pytest.raises(ValueError, match="nothing to segment"):
        plan_layers(static, {3: "layer_2"})  # it gives the output
    with pytest.raises(ValueError, match="the calls of deep are hidden"):
        plan_layers(static, {9: "deep"})


def test_the_digest_is_of_the_structure():
    """Names and sizes do not count; classes, connections, and what is inside do."""
    net = outline(graph([WIDTH] * 3))
    assert net.digest() == outline(graph([5] * 3, name="other")).digest()
    others = [
        outline(graph([WIDTH] * 4)),
        Outline(net.root, ("Another",)),
        outline(graph([WIDTH] * 3, nested={1: graph([1])})),
        outline(net.root._replace(outputs=[2])),
        outline(Layers("net", 3, [], False)),
        outline(Layers("net", 3, [Below(1, "x", 1, False, None)], False)),
    ]
    assert len({x.digest() for x in [net, *others]}) == 1 + len(others)


def test_what_a_call_keeps():
    """By its class, its activation, what is below it and its attention scores."""
    plain = Facts("Dense", (40,), (80,), False, "linear", 1, None, None)
    assert kept_bytes(plain) == 80
    assert kept_bytes(plain._replace(activation="gelu")) == 160
    assert kept_bytes(plain._replace(kind="Reshape")) == 0
    assert kept_bytes(plain._replace(kind="Dropout", drops=True)) == 20
    assert kept_bytes(plain._replace(nested=500)) == 500
    attention = plain._replace(leaves=3, attention=(2, 5, 7, 4))
    assert kept_bytes(attention) == 3 * 80 + 2 * 2 * 5 * 7 * 4
    assert bytes_of((None, 3, None), "bfloat16") == 3 * 128 * 2


PLAN = Plan("net", (Segment("net", ("a", "b"), 9, None, False, 3, (1, 4)),), None, 7, "0f")


def test_a_plan_is_saved_whole(tmp_path):
    """It is read as it was written, whatever the names."""
    plan = PLAN._replace(model="网络")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(OSError, match="missing"):
        plan.save(tmp_path / "missing" / "plan.json")


def changed(**values):
    return json.dumps({**json.loads(PLAN.to_json()), **values})


def with_segment(**values):
    content = json.loads(PLAN.to_json())
    content["segments"][0].update(values)
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        PLAN.to_json()[:50],
        changed(segments=3),
        changed(peak="7"),
        changed(peak=-7),
        changed(model=None),
        changed(more=1),
        with_segment(steps=[4, 1]),
        with_segment(steps=[1, 2, 3]),
        with_segment(steps=["a", "b"]),
        with_segment(layers=[]),
        with_segment(layers=[3]),
        with_segment(recomputed=1),
        with_segment(kept=1.5),
        with_segment(number=None),
        with_segment(number=True),
        with_segment(more=1),
    ],
)
def test_what_is_no_plan(text, tmp_path):
    """It is refused with the name of the file."""
    (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"plan\.json: this is no plan that Plan\.save has written"
    ):
        Plan.load(tmp_path / "plan.json")


def test_a_plan_of_another_form():
    """A newer version's is not guessed at."""
    with pytest.raises(ValueError, match="the plan is of form 3, and this version"):
        Plan.from_json(changed(**{"perftricks plan": 3}))


def test_a_plan_of_the_form_before():
    """What was saved before there were budgets is read."""
    content = json.loads(PLAN.to_json())
    for name in ("batch_size", "budget", "step_peak", "step_time", "curve"):
        del content[name]
    assert Plan.from_json(json.dumps({**content, "perftricks plan": 1})) == PLAN


NAME = '<b title="x">net</b> & others'


@pytest.mark.parametrize(
    "thing",
    [
        Plan(NAME, (), None, None),
        Plan("net", (Segment(NAME, ("up", "down"), 4096, 512),), None, None),
        Pareto(NAME, 64, (Point(1024, 2.0), Point(2048, 1.0)), 1024),
        Profile(NAME, 64, "torch", 1, 2, 3, 4, 5, (), Plan(NAME, (), None, None)),
        Status(NAME, ()),
        Status("net", (Part(NAME, "apply", True, NAME),)),
        Verification(NAME, (), 1e-6, True, 2048, 1024, NAME, (NAME,)),
        MaxBatchSize(None, NAME, "gpu", (LargestBatch("plain", 8, 9, 1024, 0.5),)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_notebooks_show_tables(thing):
    """What is printed as a table is one in a notebook, in letters of one width, and no markup."""
    shown = thing._repr_html_()
    opened, text = shown.split(">", 1)
    assert opened.startswith('<pre style="font-family: monospace;')
    assert text.endswith("</pre>")
    assert not set('<>"') & set(text[: -len("</pre>")])
    assert html.unescape(text[: -len("</pre>")]) == str(thing)
    assert len(str(thing)) > 10
