"""A plan for a budget: its step fits, it is the same step, and more memory is never slower."""

from __future__ import annotations

import itertools
import random

import keras
import numpy as np
import pytest
from keras import layers

from perftricks import recompute
from perftricks.recompute.budgeting import Setting, plan_for
from perftricks.recompute.measure.steps import counted_peak
from perftricks.recompute.measure.work import ceilings
from perftricks.recompute.outlining import Outlined
from tests.recompute.keras3.training import BACKEND, array, fresh_model, only_torch

WIDTH, BATCH, LENGTH = 32, 16, 24


def tokens():
    """Return a small transformer."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(50, WIDTH)(inputs)
    for _ in range(3):
        y = layers.MultiHeadAttention(2, WIDTH // 2)(x, x)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1, seed=1)(y))
        y = layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation="gelu")(x))
        x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def convolutions(filters=8):
    """Return what normalizes and activates between convolutions, for which policies differ."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(filters, 3, padding="same")(inputs)
    for _ in range(4):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x)))
        x = layers.Add()([x, layers.BatchNormalization()(y)])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def u_net():
    """Return what has no place through which everything flows."""
    inputs = keras.Input((16, 16, 3))
    x, skipped = inputs, []
    for filters in (4, 8):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        skipped.append(x)
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, padding="same", activation="gelu")(x))
    for filters, across in zip((8, 4), reversed(skipped)):
        x = layers.Concatenate()([layers.UpSampling2D()(x), across])
        x = layers.Conv2D(filters, 3, padding="same", activation="gelu")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1)(x))


def drawn_and_named(plans):
    """Return what a program draws and calls its layers, after it has planned or not."""
    keras.utils.set_random_seed(3)
    model = fresh_model(tokens)
    model.compile("adam", "sparse_categorical_crossentropy")
    if plans:
        recompute.plan(model, batch_size=4, length=8, budget="1GiB")
    names = [layers.Dense(1).name, layers.LayerNormalization().name]
    draws = [keras.random.uniform((3,)), layers.Dropout(0.5)(np.ones(20), training=True)]
    return names, random.random(), np.random.random(), *(array(x).tolist() for x in draws)


def test_a_plan_leaves_random_numbers_and_names():
    """What is drawn, and what layers are called, is what it would be without a plan."""
    ceilings.cache_clear()
    assert drawn_and_named(True) == drawn_and_named(False)


CASES = {
    tokens: (np.ones((BATCH, LENGTH), "int32"), np.ones(BATCH, "int32"), LENGTH),
    convolutions: (np.ones((BATCH, 16, 16, 3), "float32"), np.ones(BATCH, "int32"), None),
    u_net: (np.ones((BATCH, 16, 16, 3), "float32"), np.ones((BATCH, 16, 16, 1), "float32"), None),
}


def compiled(build):
    """Return a compiled model, and how to plan it."""
    model = fresh_model(build)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), "mse" if build is u_net else sparse)
    return model, {"batch_size": BATCH, "length": CASES[build][2]}


def ends(model, options):
    """Return the least that a step takes, and what a plain one does."""
    points = recompute.plan(model, budget="1TiB", **options).curve
    return points[0].peak, points[-1].peak


@pytest.mark.parametrize("build", CASES)
def test_budgets_from_the_least_to_plenty(build):
    """Each is kept, more is never slower, less is never larger; a plan with plenty does nothing."""
    model, options = compiled(build)
    least, plain = ends(model, options)
    assert least < plain
    plans = [
        recompute.plan(model, budget=least + (plain - least) * i // 3, **options) for i in range(4)
    ]
    assert all(p.step_peak <= p.budget for p in plans)
    for less, more in itertools.pairwise(plans):
        assert less.step_time >= more.step_time
        assert less.step_peak <= more.step_peak
    assert plans[0].step_peak <= least
    assert not any(segment.recomputed for segment in plans[-1].segments)
    assert [point.time for point in plans[0].curve] == sorted(
        (point.time for point in plans[0].curve), reverse=True
    )
    assert not recompute.status(model).parts  # the model is as it was


@pytest.mark.parametrize("build", CASES)
def test_the_same_step(build):
    """Loss, gradients and state under the plan are those of the plain run."""
    model, options = compiled(build)
    least, plain = ends(model, options)
    plan = recompute.apply(model, budget=(least + plain) // 2, **options)
    assert any(segment.recomputed for segment in plan.segments)
    x, y, _ = CASES[build]
    found = recompute.verify(model, np.random.default_rng(0).integers(0, 9, x.shape), y)
    assert found.ok, found


@pytest.mark.parametrize("build", CASES)
@pytest.mark.parametrize("share", [0, 0.2, 0.6, 1])
def test_forecast(build, share):
    """What is forecast without running a step is what the backend counts in one."""
    model, options = compiled(build)
    least, plain = ends(model, options)
    plan = recompute.plan(model, budget=int(least + share * (plain - least)), **options)
    x, y, _ = CASES[build]
    if any(segment.recomputed for segment in plan.segments):
        recompute.apply(model, plan=plan)
    found = counted_peak(model, x, y)
    # TensorFlow's kernels run side by side, in an order that is up to its threads, and need room
    # for themselves; for models as small as these, both are much. Large ones are nearer.
    near = {"torch": 0.02, "jax": 0.05, "tensorflow": 0.4}[BACKEND]
    assert found == pytest.approx(plan.step_peak, rel=near)


@only_torch
def test_forecast_of_one_channel():
    """Grey images are laid out as a convolution lays out others, which pooling copies then."""
    inputs = keras.Input((16, 12, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="gelu")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.MaxPooling2D()(x)))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    plan = recompute.plan(model, batch_size=BATCH, budget="1GiB")
    x, y = np.ones((BATCH, 16, 12, 1), "float32"), np.ones((BATCH, 8, 6, 3), "float32")
    assert counted_peak(model, x, y) == pytest.approx(plan.step_peak, rel=0.01)


@only_torch
def test_forecast_of_a_loss_without_alignment():
    """The device without memory has no CTC; what the real one keeps is counted."""
    model = keras.Sequential([keras.Input((LENGTH, 4)), layers.Dense(64, "gelu"), layers.Dense(7)])
    model.compile(keras.optimizers.SGD(0.01), keras.losses.CTC())
    x, y = np.ones((BATCH, LENGTH, 4), "float32"), np.ones((BATCH, 5), "int32")
    plan = recompute.plan(model, batch_size=BATCH, budget="1GiB", y=y)
    assert counted_peak(model, x, y) == pytest.approx(plan.step_peak, rel=0.03)


def test_what_is_split_at_places():
    """Keras on torch reads the places from a tensor; planning has none with numbers."""
    inputs = keras.Input((LENGTH, WIDTH))
    x = inputs
    for places in ([8], (8, 24), np.array([16])):
        parts = keras.ops.split(layers.Dense(WIDTH, activation="gelu")(x), places, axis=-1)
        x = layers.Concatenate()([*parts[1:], parts[0]])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    options = {"batch_size": BATCH, "loss": "mse"}
    curve = recompute.plan(model, budget="1TiB", **options).curve
    recompute.apply(model, budget=curve[0].peak, **options)
    x, y = np.ones((BATCH, LENGTH, WIDTH), "float32"), np.ones((BATCH, 2), "float32")
    assert recompute.verify(model, x, y, loss="mse").ok


def test_too_little():
    """The error says what the least is, and which batch would fit: that one does."""
    model, options = compiled(tokens)
    least, _ = ends(model, options)
    with pytest.raises(
        ValueError, match=r"with a batch of 16 takes at least .* a batch of"
    ) as info:
        recompute.plan(model, budget=int(0.8 * least), **options)
    batch = int(str(info.value).split("a batch of about ")[1].split()[0])
    assert 1 <= batch < BATCH
    smaller = recompute.plan(model, budget=int(0.82 * least), **{**options, "batch_size": batch})
    assert smaller.step_peak <= 0.82 * least
    with pytest.raises(ValueError, match="no batch would fit"):
        recompute.plan(model, budget=1000, **options)


def test_saved_and_printed(tmp_path):
    """A plan goes through a file to another model of the same structure, its curve with it."""
    model, options = compiled(convolutions)
    least, plain = ends(model, options)
    plan = recompute.plan(model, budget=(least + plain) // 2, **options)
    plan.save(tmp_path / "plan.json")
    loaded = recompute.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    recompute.apply(fresh_model(convolutions), plan=loaded)
    assert f"a step with a batch of {BATCH} takes" in str(plan)
    assert "chosen" in str(plan.pareto())
    plan.pareto().plot(tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="only a plan with a budget knows others"):
        recompute.plan(model).pareto()


def test_nothing_before_the_first_trained_weight():
    """What comes before is neither kept nor computed again."""
    model, options = compiled(convolutions)
    for layer in model.layers[: len(model.layers) // 2]:
        layer.trainable = False
    first = next(i for i, layer in enumerate(model.layers) if layer.trainable_variables)
    frozen = {layer.name for layer in model.layers[:first]}
    plan = recompute.plan(model, budget="1TiB", **options)
    plain = plan.curve[-1].peak
    plan = recompute.plan(model, budget=plan.curve[0].peak, **options)
    recomputed = [segment for segment in plan.segments if segment.recomputed]
    assert recomputed
    assert not any(frozen.intersection(segment.layers) for segment in recomputed)
    assert plain < 0.9 * ends(*compiled(convolutions))[1]


def named():
    """Return a model with two inputs and two outputs, each with a name."""
    a, b = keras.Input((20, 8), name="a"), keras.Input((20,), dtype="int32", name="b")
    x = layers.Dense(WIDTH)(a) + layers.Embedding(9, WIDTH)(b)
    for _ in range(3):
        y = layers.Dense(2 * WIDTH, activation="gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(WIDTH)(layers.Dropout(0.1, seed=2)(y)))
    q = layers.Dense(1, name="q")(layers.GlobalAveragePooling1D()(x))
    return keras.Model({"a": a, "b": b}, {"p": layers.Dense(3, name="p")(x), "q": q})


def test_inputs_and_outputs_with_names():
    """Each output has its loss, and its targets."""
    model = fresh_model(named)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"p": sparse, "q": "mse"})
    plan = recompute.plan(model, budget="1TiB", batch_size=BATCH)
    recompute.apply(model, budget=plan.curve[0].peak, batch_size=BATCH)
    x = {"a": np.ones((BATCH, 20, 8), "float32"), "b": np.ones((BATCH, 20), "int32")}
    y = {"p": np.ones((BATCH, 20), "int32"), "q": np.ones((BATCH, 1), "float32")}
    assert recompute.verify(model, x, y).ok
    assert np.isfinite(model.fit(x, y, batch_size=BATCH, verbose=0).history["loss"][0])


def test_low_rank_adaptation():
    """Only what adapts is trained: nothing before the first of it is recomputed."""
    model = fresh_model(named)
    for layer in model.layers:
        if isinstance(layer, layers.Dense) and layer.units == 2 * WIDTH:
            layer.enable_lora(4)
        elif layer.weights:
            layer.trainable = False
    options = {"batch_size": BATCH, "optimizer": "adam", "loss": ["mse", "mse"]}
    curve = recompute.plan(model, budget="1TiB", **options).curve
    assert curve[0].peak < 0.7 * curve[-1].peak
    plan = recompute.plan(model, budget=curve[0].peak, **options)
    first = next(layer.name for layer in model.layers if layer.trainable_variables)
    names = [segment.layers for segment in plan.segments if segment.recomputed]
    before = [layer.name for layer in model.layers[: model.layers.index(model.get_layer(first))]]
    assert names
    assert not set(before) & {name for some in names for name in some}


def test_inside_of_a_nested_model():
    """A backbone in a Sequential, as people build on a pretrained model, is planned inside."""
    backbone = fresh_model(convolutions)
    model = keras.Sequential([keras.Input((16, 16, 3)), backbone, layers.Dense(2)])
    options = {"batch_size": BATCH, "optimizer": "sgd"}
    least, plain = ends(model, options)
    assert least < 0.8 * plain
    plan = recompute.apply(model, budget=least, **options)
    assert {segment.model for segment in plan.segments if segment.recomputed} == {backbone.name}
    assert recompute.verify(model, CASES[convolutions][0], np.ones((BATCH, 2)), loss="mse").ok


def with_itself():
    """Return a model with a backbone that is called with its own inputs, as keras-hub's tasks."""
    backbone = convolutions()
    return keras.Model(backbone.input, layers.Dense(2)(backbone(backbone.input)))


def with_its_output():
    """Return a model that runs the layers of another twice, once as that model."""
    inputs = keras.Input((WIDTH,))
    inner = keras.Model(inputs, gelus(inputs))
    return keras.Model(inner.input, layers.Dense(2)(inner(inner.output)))


def with_tensors_of_each_other():
    """Return a model that calls two that were made of one input, one with what the other gives."""
    inputs = keras.Input((WIDTH,))
    one, other = (keras.Model(inputs, [gelus(inputs), inputs]) for _ in range(2))
    a, through = one(inputs)
    b, c = other(through)
    return keras.Model(inputs, layers.Dense(2)(a + b + c))


def gelus(x):
    for _ in range(4):
        x = x + layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation="gelu")(x))
    return x


@pytest.mark.parametrize("build", [with_itself, with_its_output, with_tensors_of_each_other])
def test_models_that_share_tensors(build):
    """A tensor that means one thing here and another there is not taken for one."""
    model = fresh_model(build)
    options = {"batch_size": BATCH, "optimizer": "sgd"}
    least, plain = ends(model, options)
    assert least < plain
    recompute.apply(model, budget=least, **options)
    x = CASES[convolutions][0] if build is with_itself else np.ones((BATCH, WIDTH))
    assert recompute.verify(model, x, np.ones((BATCH, 2)), loss="mse").ok


def test_a_plan_in_force_stays():
    """Planning changes nothing about what was applied before."""
    model, options = compiled(tokens)
    before = recompute.apply(model)
    recompute.plan(model, budget="1GiB", **options)
    assert str(before.segments[0].name) in str(recompute.status(model))
    recompute.remove(model)
    assert not recompute.status(model).parts


def test_what_cannot_be_planned():
    """Each is one line that says what to do."""
    model, options = compiled(tokens)
    for wrong, message in (
        ({"budget": "much", **options}, "expected a size such as"),
        ({"budget": "1GiB"}, "with a budget, give batch_size"),
        ({"budget": "1GiB", "batch_size": 2}, "give length="),
        ({"budget": -1, **options}, "budget must be a whole number of at least 1"),
        ({"budget": "1GiB", "every": 2, **options}, "a budget chooses segments and policies"),
        ({"batch_size": 2}, "batch_size: given with a budget only"),
        (
            {"budget": "1GiB", "loss": ["mse"] * 2, **options},
            "returns 1 tensors, and there are 2",
        ),
        ({"budget": "1GiB", "loss": {"score": "mse"}, **options}, "there is a loss for score, and"),
        ({"budget": "1GiB", **options, "optimizer": keras.optimizers.Adam}, "optimizer identifier"),
    ):
        with pytest.raises(ValueError, match=message):
            recompute.plan(model, **wrong)

    with pytest.raises(ValueError, match="optimizer identifier"):
        recompute.profile(model, batch_size=2, length=LENGTH, optimizer=keras.optimizers.Adam)

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    own(np.ones((2, 3)))
    with pytest.raises(ValueError, match="has a call of its own, so what it takes is not known"):
        recompute.plan(own, budget="1GiB", batch_size=2)
    assert plan_for(model, Outlined(model), 2**40, Setting(2, LENGTH, None, None)).step_peak > 0


def test_whole_numbers_of_numpy(tmp_path):
    """A batch, a length or a budget that numpy has counted is the same as Python's."""
    model, _ = compiled(tokens)
    counts = {"batch_size": np.int64(2), "length": np.int32(LENGTH), "budget": np.int64(2**30)}
    plan = recompute.plan(model, **counts)
    assert plan == recompute.plan(model, **{name: int(n) for name, n in counts.items()})
    plan.save(tmp_path / "plan.json")
    assert recompute.Plan.load(tmp_path / "plan.json") == plan
    assert recompute.plan(model, every=np.int64(2)) == recompute.plan(model, every=2)


def test_samples_show_what_a_graph_does_not_know():
    """A length that samples have is taken from them; another one is refused."""
    model, _ = compiled(tokens)
    shown = np.zeros((3, LENGTH), "int32")
    options = {"batch_size": 2, "budget": "1GiB"}
    known = recompute.plan(model, length=LENGTH, **options)
    for x in (shown, {model.inputs[0].name: shown}):
        assert recompute.plan(model, x=x, **options) == known
    at_length = recompute.profile(model, batch_size=2, length=LENGTH)
    assert recompute.profile(model, batch_size=2, x=shown) == at_length
    with pytest.raises(
        ValueError, match=r"length is %d, and x shows \(%d,\)" % (LENGTH + 1, LENGTH)
    ):
        recompute.plan(model, x=shown, length=LENGTH + 1, **options)
    with pytest.raises(ValueError, match="takes 1 tensors, and there are 2 in x"):
        recompute.plan(model, x=[shown, shown], **options)


def translation():
    """Return what reads a text of one length and writes one of another."""
    source, target = (keras.Input((None, WIDTH), name=name) for name in ("source", "target"))
    x, y = gelus(source), gelus(target)
    x = x + layers.MultiHeadAttention(2, WIDTH // 2)(x, x)
    return keras.Model([source, target], y + layers.MultiHeadAttention(2, WIDTH // 2)(y, x))


def any_image(*size):
    """Return a U-Net that takes images of any size, whose inner maps are smaller."""
    inputs = keras.Input((*(size or (None, None)), 3))
    across = layers.Conv2D(4, 3, padding="same", activation="gelu")(inputs)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="gelu")(across)
    for _ in range(2):
        x = layers.Conv2D(16, 3, padding="same", activation="gelu")(x)
    return keras.Model(inputs, layers.Concatenate()([layers.UpSampling2D()(x), across]))


def merged():
    """Return what works on all steps of all samples as if they were samples."""
    inputs = keras.Input((6, WIDTH))
    x = gelus(keras.ops.reshape(inputs, (-1, WIDTH)))
    return keras.Model(inputs, layers.Dense(2)(keras.ops.reshape(x, (-1, 6 * WIDTH))))


class Joined(layers.Layer):
    """Puts two sequences one after the other, and tells less of its shape than is known."""

    def call(self, x, y):
        return keras.ops.concatenate([x, y], axis=1)

    def compute_output_shape(self, x_shape, y_shape):
        return x_shape[0], None, x_shape[2]


def joined():
    """Return what reads two texts as one."""
    texts = [keras.Input((None, WIDTH)) for _ in range(2)]
    return keras.Model(texts, gelus(Joined()(*map(gelus, texts))))


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (translation, [(12, WIDTH), (7, WIDTH)]),
        (any_image, [(12, 20, 3)]),
        (lambda: keras.Sequential([any_image(), layers.ReLU()]), [(20, 20, 3)]),
        (merged, [(6, WIDTH)]),
        (joined, [(12, WIDTH), (7, WIDTH)]),
    ],
    ids=["translation", "any_image", "nested", "merged", "joined"],
)
def test_shapes_that_a_graph_does_not_tell(build, shapes):
    """Each input has its own; those inside follow, where a stride or a reshape changes them."""
    model = fresh_model(build)
    x = [np.ones((BATCH, *shape), "float32") for shape in shapes]
    x = x if len(x) > 1 else x[0]
    y = array(model(x))
    model.compile("sgd", "mse")
    options = {"batch_size": BATCH, "x": x}
    curve = recompute.plan(model, budget="1TiB", **options).curve
    assert curve[0].peak < 0.9 * curve[-1].peak
    plan = recompute.apply(model, budget=(curve[0].peak + curve[-1].peak) // 2, **options)
    assert recompute.verify(model, x, y).ok
    if BACKEND == "torch":
        assert counted_peak(model, x, y) == pytest.approx(plan.step_peak, rel=0.05)


def test_images_of_any_size():
    """A model that takes images of any size is planned as one that takes those it is shown."""
    peaks = [
        [point.peak for point in recompute.plan(model, budget="1TiB", **options).curve]
        for model, x in ((any_image(), np.ones((2, 12, 20, 3))), (any_image(12, 20), None))
        for options in [{"batch_size": BATCH, "x": x, "loss": "mse"}]
    ]
    assert peaks[0] == peaks[1]


def test_a_batch_that_the_model_does_not_take():
    """A graph that is made for batches of one size is planned for no other."""
    inputs = keras.Input(batch_shape=(4, 3, 8))
    x = layers.LSTM(8, stateful=True)(inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(8, "tanh")(x)))
    assert recompute.plan(model, batch_size=4, budget="1GiB").batch_size == 4
    for ask in (recompute.plan, recompute.profile):
        options = {"budget": "1GiB"} if ask is recompute.plan else {}
        with pytest.raises(ValueError, match="takes batches of 4 samples"):
            ask(model, batch_size=8, **options)


@only_torch
@pytest.mark.parametrize("batch", [8, 256])
def test_the_least_is_what_can_be_had(batch):
    """The least that a refusal names fits, and nothing below it does."""
    keras.config.set_dtype_policy("mixed_bfloat16")  # the sums are far out for these casts
    block = [
        layers.Conv2D(4, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2DTranspose(4, 2, 2),
        layers.GroupNormalization(2),
    ]
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3)(keras.Sequential(block)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))
    with pytest.raises(recompute.BudgetError) as error:
        recompute.plan(model, batch_size=batch, budget=1)
    least = error.value.least
    assert recompute.plan(model, batch_size=batch, budget=least).step_peak == least
    with pytest.raises(recompute.BudgetError):
        recompute.plan(model, batch_size=batch, budget=least - 1)
