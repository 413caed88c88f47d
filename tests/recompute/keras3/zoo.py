"""Models of other people, small and with random weights: what ``apply`` must be exact on.

Every family of ``keras.applications`` (its smallest member, small images) and families of
keras-hub at tiny sizes, some with LoRA, frozen layers, int8 weights, tied embeddings. Nothing is
downloaded. Bound to tests here, to a table by ``bench.recompute.zoo``.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, NamedTuple, Tuple

import keras
import numpy as np

BATCH = 4
LENGTH, VOCABULARY, WIDTH = 24, 31, 16
CLASSES = 4


class Case(NamedTuple):
    """A model and what it is trained on.

    Attributes:
        build: Returns the model.
        data: Returns the inputs and the targets of one batch.
        loss: What it is compiled with.
        blocks: The names of the classes of its blocks, if it is made of such.
    """

    build: Callable[[], Any]
    data: Callable[[], Tuple[Any, Any]]
    loss: Any = "mse"
    blocks: Tuple[str, ...] = ()

    def is_block(self, layer: Any) -> bool:
        """Tell whether a layer is a block; keras-hub exports few of their classes."""
        return type(layer).__name__ in self.blocks


def _random() -> np.random.Generator:
    return np.random.default_rng(7)


def images(size: int, channels: int = 3) -> np.ndarray:
    """Return a batch of square images."""
    return _random().normal(size=(BATCH, size, size, channels)).astype("float32")


def _pictures(size: int) -> Tuple[Any, Any]:
    classes = _random().integers(0, CLASSES, BATCH)
    return images(size), np.eye(CLASSES, dtype="float32")[classes]


def _application(make: str, size: int, **options: Any) -> Any:
    shape = (size, size, 3)
    if make.startswith("VGG"):  # its own head has a hundred million weights
        base = getattr(keras.applications, make)(
            include_top=False, pooling="avg", weights=None, input_shape=shape
        )
        x = keras.layers.Dropout(0.2)(base.output)
        return keras.Model(base.input, keras.layers.Dense(CLASSES, activation="softmax")(x))
    return getattr(keras.applications, make)(
        weights=None, input_shape=shape, classes=CLASSES, **options
    )


def application(make: str, size: int = 32, **options: Any) -> Case:
    """Return a classifier of ``keras.applications``, with its softmax."""
    return Case(
        functools.partial(_application, make, size, **options),
        functools.partial(_pictures, size),
        "categorical_crossentropy",
    )


def _frozen_application(make: str) -> Any:
    """Build a classifier whose first half is frozen."""
    model = _application(make, 32)
    for layer in model.layers[: len(model.layers) // 2]:
        layer.trainable = False
    return model


def _fine_tuned() -> Any:
    """Build the usual fine-tuning: augmentation, a nested base without a head, a head."""
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(base(x))
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(x))


def _tokens(*more: str) -> Dict[str, np.ndarray]:
    ids = _random().integers(1, VOCABULARY, (BATCH, LENGTH)).astype("int32")
    padding = np.ones_like(ids)
    padding[::2, LENGTH - 5 :] = 0
    x = {"token_ids": ids * padding, "padding_mask": padding}
    if "segment_ids" in more:
        x["segment_ids"] = np.repeat([[0, 1]], LENGTH // 2, 1).repeat(BATCH, 0).astype("int32")
    return x


def _encoder_data(*more: str) -> Tuple[Any, Any]:
    return _tokens(*more), np.arange(BATCH, dtype="int32") % CLASSES


def _language_data() -> Tuple[Any, Any]:
    x = _tokens()
    return x, np.roll(x["token_ids"], -1, 1)


def _pair_data(suffix: str = "s") -> Tuple[Any, Any]:
    """Return tokens of an encoder and of a decoder, and what comes next."""
    x = _tokens()
    y = np.roll(x["token_ids"], -1, 1)
    return {
        "encoder_token_ids": x["token_ids"],
        "encoder_padding_mask": x["padding_mask"],
        "decoder_token_ids": x["token_ids"][:, ::-1].copy(),
        "decoder_padding_mask": x["padding_mask"][:, ::-1].copy(),
    }, y


SPARSE = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)
_ENCODER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 4,
    "num_heads": 2,
    "hidden_dim": WIDTH,
    "intermediate_dim": 4 * WIDTH,
    "dropout": 0.1,
    "max_sequence_length": LENGTH,
}
_DECODER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 4,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": WIDTH,
    "intermediate_dim": 4 * WIDTH,
    "dropout": 0.1,
}


def _hub() -> Any:
    import keras_hub

    return keras_hub.models


def _plain(task: Any) -> Any:
    """Return a task of keras-hub as a plain model; its own ``fit`` wants tf.data or grain."""
    return keras.Model(task.input, task.output)


def _classifier(family: str, treat: Callable[[Any], None] = id, **sizes: Any) -> Any:
    backbone = getattr(_hub(), family + "Backbone")(**{**_ENCODER, **sizes})
    task = getattr(_hub(), family + "TextClassifier")
    model = task(backbone, num_classes=CLASSES, activation="softmax", preprocessor=None)
    treat(model)
    return _plain(model)


def _masked_lm() -> Any:
    """Build BERT with the head of masked language models, which shares the embedding."""
    return _plain(_hub().BertMaskedLM(_hub().BertBackbone(**_ENCODER), preprocessor=None))


def _masked_lm_data() -> Tuple[Any, Any]:
    x = _tokens("segment_ids")
    positions = np.repeat([[1, 4, 9]], BATCH, 0).astype("int32")
    return {**x, "mask_positions": positions}, np.take_along_axis(x["token_ids"], positions, 1)


def _causal_lm(family: str, sizes: Dict[str, Any], treat: Callable[[Any], None] = id) -> Any:
    backbone = getattr(_hub(), family + "Backbone")(**sizes)
    model = getattr(_hub(), family + "CausalLM")(backbone, preprocessor=None)
    treat(model)
    return _plain(model)


def _lora(model: Any) -> None:
    model.backbone.enable_lora(2)


def _int8_lora(model: Any) -> None:
    model.quantize("int8")
    model.backbone.enable_lora(2)


def _frozen(model: Any) -> None:
    """Freeze the embedding and the first half of the blocks."""
    below = model.backbone.layers
    for layer in below[: len(below) // 2]:
        layer.trainable = False


def _t5() -> Any:
    sizes = {k: v for k, v in _ENCODER.items() if k != "max_sequence_length"}
    model = _hub().T5Backbone(**sizes)
    logits = keras.layers.Dense(VOCABULARY)(model.output["decoder_sequence_output"])
    return keras.Model(model.inputs, logits)


def _bart() -> Any:
    return _plain(_hub().BartSeq2SeqLM(_hub().BartBackbone(**_ENCODER), preprocessor=None))


def _vit() -> Any:
    backbone = _hub().ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=4,
        num_heads=2,
        hidden_dim=WIDTH,
        mlp_dim=4 * WIDTH,
        dropout_rate=0.1,
        attention_dropout=0.1,
    )
    task = _hub().ViTImageClassifier
    return _plain(task(backbone, num_classes=CLASSES, activation="softmax", preprocessor=None))


def _sam() -> Any:
    import keras_hub

    size = 64
    image_encoder = _hub().ViTDetBackbone(
        hidden_size=WIDTH,
        num_layers=4,
        intermediate_dim=4 * WIDTH,
        num_heads=4,
        global_attention_layer_indices=[1, 3],
        patch_size=8,
        num_output_channels=8,
        window_size=2,
        image_shape=(size, size, 3),
    )
    prompt_encoder = keras_hub.layers.SAMPromptEncoder(
        hidden_size=8,
        image_embedding_size=(8, 8),
        input_image_size=(size, size),
        mask_in_channels=16,
    )
    mask_decoder = keras_hub.layers.SAMMaskDecoder(
        num_layers=2,
        hidden_size=8,
        intermediate_dim=32,
        num_heads=4,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=8,
    )
    backbone = _hub().SAMBackbone(image_encoder, prompt_encoder, mask_decoder)
    model = _hub().SAMImageSegmenter(backbone, preprocessor=None)
    return keras.Model(model.input, model.output["masks"])


def _sam_data() -> Tuple[Any, Any]:
    size = 64
    x = {
        "images": images(size),
        "points": np.full((BATCH, 1, 2), 20, "float32"),
        "labels": np.ones((BATCH, 1), "float32"),
        "boxes": np.tile(np.array([[8, 8], [40, 40]], "float32"), (BATCH, 1, 1, 1)),
        "masks": np.zeros((BATCH, 0, size, size, 1), "float32"),
    }
    return x, _random().normal(size=(BATCH, 4, 32, 32)).astype("float32")


def _stable_diffusion_3() -> Any:
    """Build the transformer of Stable Diffusion 3: two streams that attend to each other."""
    from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiT

    return MMDiT(
        patch_size=2,
        hidden_dim=WIDTH,
        num_layers=4,
        num_heads=2,
        position_size=16,
        qk_norm="rms_norm",
        dual_attention_indices=(1,),
        latent_shape=(16, 16, 4),
        context_shape=(LENGTH, WIDTH),
        pooled_projection_shape=(WIDTH,),
    )


def _stable_diffusion_3_data() -> Tuple[Any, Any]:
    random = _random()
    x = {
        "latent": random.normal(size=(BATCH, 16, 16, 4)),
        "context": random.normal(size=(BATCH, LENGTH, WIDTH)),
        "pooled_projection": random.normal(size=(BATCH, WIDTH)),
        "timestep": random.uniform(0, 1000, size=(BATCH, 1)),
    }
    x = {name: a.astype("float32") for name, a in x.items()}
    return x, random.normal(size=(BATCH, 16, 16, 4)).astype("float32")


def _flux() -> Any:
    return _hub().FluxBackbone(
        input_channels=8,
        hidden_size=WIDTH,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        depth_single_blocks=2,
        axes_dim=[2, 2, 4],
        theta=10_000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(16, 8),
        text_shape=(LENGTH, WIDTH),
        image_ids_shape=(16, 3),
        text_ids_shape=(LENGTH, 3),
        y_shape=(WIDTH,),
    )


def _vae() -> Any:
    """Build the autoencoder of Stable Diffusion: a U of ResNet blocks and attention."""
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone  # of which no name is public

    return VAEBackbone(
        encoder_num_filters=[32, 32],
        encoder_num_blocks=[1, 1],
        decoder_num_filters=[32, 32],
        decoder_num_blocks=[1, 1],
        sample_channels=4,
    )


def _whisper() -> Any:
    model = _hub().WhisperBackbone(
        **{k: v for k, v in _ENCODER.items() if k != "max_sequence_length"},
        num_mels=8,
        max_encoder_sequence_length=2 * LENGTH,
        max_decoder_sequence_length=LENGTH,
    )
    logits = keras.layers.Dense(VOCABULARY)(model.output["decoder_sequence_output"])
    return keras.Model(model.inputs, logits)


def _whisper_data() -> Tuple[Any, Any]:
    x = _tokens()
    sound = _random().normal(size=(BATCH, 2 * LENGTH, 8)).astype("float32")
    return {
        "encoder_features": sound,
        "decoder_token_ids": x["token_ids"],
        "decoder_padding_mask": x["padding_mask"],
    }, np.roll(x["token_ids"], -1, 1)


def _unet(size: int = 32, width: int = 16, time: int = 16) -> Any:
    """Build a diffusion U-Net: time embedding, residual blocks, attention below, skips across.

    keras-hub has none; it is Keras' own example of denoising diffusion, with group normalization.
    """
    layers = keras.layers
    image, noise = keras.Input((size, size, 3), name="image"), keras.Input((1,), name="noise")
    embedding = layers.Dense(4 * time, activation="silu")(layers.Dense(time)(noise))

    def block(x: Any, width: int) -> Any:
        short = x if x.shape[-1] == width else layers.Conv2D(width, 1)(x)
        y = layers.Conv2D(width, 3, padding="same")(
            layers.Activation("silu")(layers.GroupNormalization(4)(x))
            if x.shape[-1] % 4 == 0
            else x
        )
        y = y + layers.Reshape((1, 1, width))(layers.Dense(width)(embedding))
        y = layers.Dropout(0.1)(layers.Activation("silu")(layers.GroupNormalization(4)(y)))
        return layers.Add()([short, layers.Conv2D(width, 3, padding="same")(y)])

    x = layers.Conv2D(width, 1)(image)
    skips = []
    for level in (1, 2):
        for _ in range(2):
            x = block(x, level * width)
            skips.append(x)
        x = layers.AveragePooling2D(2)(x)
    x = block(x, 4 * width)
    flat = layers.Reshape((-1, 4 * width))(layers.GroupNormalization(4)(x))
    flat = layers.MultiHeadAttention(2, 16)(flat, flat)
    x = x + layers.Reshape(x.shape[1:])(flat)
    for level in (2, 1):
        x = layers.UpSampling2D(interpolation="bilinear")(x)
        for _ in range(2):
            x = block(layers.Concatenate()([x, skips.pop()]), level * width)
    return keras.Model([image, noise], layers.Conv2D(3, 1)(x))


def _unet_data() -> Tuple[Any, Any]:
    noise = np.linspace(0, 1, BATCH, dtype="float32")[:, None]
    return [images(32), noise], images(32)[::-1].copy()


def _flux_data() -> Tuple[Any, Any]:
    random = _random()
    x = {
        "image": random.normal(size=(BATCH, 16, 8)),
        "image_ids": random.normal(size=(BATCH, 16, 3)),
        "text": random.normal(size=(BATCH, LENGTH, WIDTH)),
        "text_ids": random.normal(size=(BATCH, LENGTH, 3)),
        "y": random.normal(size=(BATCH, WIDTH)),
        "timesteps": random.uniform(size=(BATCH,)),
        "guidance": random.uniform(size=(BATCH,)),
    }
    x = {name: a.astype("float32") for name, a in x.items()}
    return x, random.normal(size=(BATCH, 16, 8)).astype("float32")


def _lm_case(family: str, block: str, treat: Callable[[Any], None] = id, **sizes: Any) -> Case:
    sizes = {**_DECODER, **sizes}
    build = functools.partial(_causal_lm, family, sizes, treat)
    return Case(build, _language_data, SPARSE, (block,))


_GPT2 = functools.partial(_causal_lm, "GPT2", _ENCODER)
_GEMMA = {"head_dim": 8, "intermediate_dim": 8 * WIDTH}
_LLAMA = {"tie_word_embeddings": False}
_MOE = {
    "num_experts": 4,
    "top_k": 2,
    "moe_intermediate_dim": 2 * WIDTH,
    "shared_expert_intermediate_dim": 2 * WIDTH,
}
_CLASSES_LOSS = "sparse_categorical_crossentropy"
_BERT_DATA = functools.partial(_encoder_data, "segment_ids")

CASES: Dict[str, Case] = {
    "ConvNeXtTiny": application("ConvNeXtTiny"),
    "DenseNet121": application("DenseNet121"),
    "EfficientNetB0": application("EfficientNetB0"),
    "EfficientNetV2B0": application("EfficientNetV2B0"),
    "InceptionResNetV2": application("InceptionResNetV2", 75),
    "InceptionV3": application("InceptionV3", 75),
    "MobileNet": application("MobileNet"),
    "MobileNetV2": application("MobileNetV2"),
    "MobileNetV3Small": application("MobileNetV3Small"),
    "NASNetMobile": application("NASNetMobile"),
    "ResNet50": application("ResNet50"),
    "ResNet50V2": application("ResNet50V2"),
    "VGG16": application("VGG16"),
    "VGG19": application("VGG19"),
    "Xception": application("Xception", 71),
    "ResNet50, half frozen": application("ResNet50")._replace(
        build=functools.partial(_frozen_application, "ResNet50")
    ),
    "MobileNetV2 under a new head": application("MobileNetV2")._replace(build=_fine_tuned),
    "BERT": Case(
        functools.partial(_classifier, "Bert"), _BERT_DATA, _CLASSES_LOSS, ("TransformerEncoder",)
    ),
    "BERT, half frozen": Case(
        functools.partial(_classifier, "Bert", _frozen),
        _BERT_DATA,
        _CLASSES_LOSS,
        ("TransformerEncoder",),
    ),
    "BERT, masked LM, tied": Case(
        _masked_lm, _masked_lm_data, _CLASSES_LOSS, ("TransformerEncoder",)
    ),
    "RoBERTa": Case(
        functools.partial(_classifier, "Roberta", max_sequence_length=LENGTH + 2),
        _encoder_data,
        _CLASSES_LOSS,
        ("TransformerEncoder",),
    ),
    "DeBERTa-v3": Case(
        functools.partial(_classifier, "DebertaV3", bucket_size=8),
        _encoder_data,
        _CLASSES_LOSS,
        ("DisentangledAttentionEncoder",),
    ),
    "T5": Case(_t5, _pair_data, SPARSE, ("T5TransformerLayer",)),
    "BART, tied": Case(_bart, _pair_data, SPARSE, ("TransformerEncoder", "TransformerDecoder")),
    "GPT-2, tied": Case(_GPT2, _language_data, SPARSE, ("TransformerDecoder",)),
    "GPT-2, LoRA": Case(
        functools.partial(_GPT2, _lora), _language_data, SPARSE, ("TransformerDecoder",)
    ),
    "Gemma, tied": _lm_case("Gemma", "GemmaDecoderBlock", **_GEMMA),
    "Gemma, LoRA": _lm_case("Gemma", "GemmaDecoderBlock", _lora, **_GEMMA),
    "Gemma, int8 and LoRA": _lm_case("Gemma", "GemmaDecoderBlock", _int8_lora, **_GEMMA),
    "Llama": _lm_case("Llama", "LlamaTransformerDecoder", **_LLAMA),
    "Llama, half frozen": _lm_case("Llama", "LlamaTransformerDecoder", _frozen, **_LLAMA),
    "Llama, int8 and LoRA": _lm_case("Llama", "LlamaTransformerDecoder", _int8_lora, **_LLAMA),
    "Mixtral": _lm_case("Mixtral", "MixtralTransformerDecoder", num_experts=4),
    "Qwen-MoE": _lm_case("QwenMoe", "QwenMoeTransformerDecoder", **_MOE),
    "ViT": Case(
        _vit, functools.partial(_pictures, 32), "categorical_crossentropy", ("ViTEncoderBlock",)
    ),
    "SAM": Case(_sam, _sam_data, "mse", ("WindowedTransformerEncoder", "TwoWayAttentionBlock")),
    "Stable Diffusion 3 (MMDiT)": Case(
        _stable_diffusion_3, _stable_diffusion_3_data, "mse", ("MMDiTBlock",)
    ),
    "Flux": Case(_flux, _flux_data, "mse", ("DoubleStreamBlock", "SingleStreamBlock")),
    "VAE of Stable Diffusion": Case(
        _vae, lambda: (images(16), images(16)), "mse", ("ResNetBlock", "VAEAttention")
    ),
    "diffusion U-Net": Case(_unet, _unet_data),
    "Whisper": Case(_whisper, _whisper_data, SPARSE, ("WhisperEncoder", "WhisperDecoder")),
}
