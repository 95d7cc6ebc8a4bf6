"""Every field of `config.json` and `preprocessor_config.json`: all backends give PyTorch's masks, or it is refused."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiny import random_model, tiny_config
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from mixqsam.artifact.manifest import Manifest
from mixqsam.deployed.backends import BACKENDS
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import InputError, ModelError
from mixqsam.prediction import Predictor
from mixqsam.sam.load import default_processor, load_sam
from mixqsam.sam.predictor import SamPredictor

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

from mixqsam.exporting.activations import ACTIVATIONS
from mixqsam.exporting.files import ExportOptions, export

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
FORMATS = [name for name, backend in BACKENDS.items() if backend.is_installed]
VISION, PROMPTS, DECODER = "vision_config", "prompt_encoder_config", "mask_decoder_config"
CLASSES = {VISION: SamVisionConfig, PROMPTS: SamPromptEncoderConfig, DECODER: SamMaskDecoderConfig}

# Part → field → another value, with what has to change with it.
WORKS: dict[str, dict[str, Any]] = {
    VISION: {
        "hidden_size": {VISION: {"hidden_size": 32}},
        "output_channels": {VISION: {"output_channels": 24, "num_pos_feats": 12}, PROMPTS: {"hidden_size": 24},
                            DECODER: {"hidden_size": 24}},
        "num_hidden_layers": {VISION: {"num_hidden_layers": 3}},
        "num_attention_heads": {VISION: {"num_attention_heads": 4}},
        "image_size": {VISION: {"image_size": 96}, PROMPTS: {"image_size": 96}},
        "patch_size": {VISION: {"patch_size": 20}, PROMPTS: {"patch_size": 20}},
        "hidden_act": {VISION: {"hidden_act": "relu"}},
        "layer_norm_eps": {VISION: {"layer_norm_eps": 0.1}},
        "attention_dropout": {VISION: {"attention_dropout": 0.5}},
        "qkv_bias": {VISION: {"qkv_bias": False}},
        "mlp_ratio": {VISION: {"mlp_ratio": 2.0, "mlp_dim": None}},
        "use_abs_pos": {VISION: {"use_abs_pos": False}},
        "use_rel_pos": {VISION: {"use_rel_pos": False}},
        "window_size": {VISION: {"window_size": 0}},
        "global_attn_indexes": {VISION: {"global_attn_indexes": []}},
        "mlp_dim": {VISION: {"mlp_dim": 40}},
    },
    PROMPTS: {
        "mask_input_channels": {PROMPTS: {"mask_input_channels": 16}},
        "num_point_embeddings": {PROMPTS: {"num_point_embeddings": 5}},
        "hidden_act": {PROMPTS: {"hidden_act": "silu"}},
        "layer_norm_eps": {PROMPTS: {"layer_norm_eps": 0.1}},
    },
    DECODER: {
        "hidden_act": {DECODER: {"hidden_act": "gelu_new"}},
        "mlp_dim": {DECODER: {"mlp_dim": 40}},
        "num_hidden_layers": {DECODER: {"num_hidden_layers": 1}},
        "num_attention_heads": {DECODER: {"num_attention_heads": 4}},
        "attention_downsample_rate": {DECODER: {"attention_downsample_rate": 4}},
        "num_multimask_outputs": {DECODER: {"num_multimask_outputs": 5}},
        "iou_head_depth": {DECODER: {"iou_head_depth": 4}},
        "iou_head_hidden_dim": {DECODER: {"iou_head_hidden_dim": 8}},
        "layer_norm_eps": {DECODER: {"layer_norm_eps": 0.1}},
    },
}  # fmt: skip
# Part → field → a value that fits nothing else, and what the message names.
REFUSED: dict[str, dict[str, tuple[Any, str]]] = {
    VISION: {
        "output_channels": (24, "vision_config.output_channels is 24, but prompt_encoder_config.hidden_size is 16"),
        "num_attention_heads": (5, "vision_config.hidden_size is 24, which vision_config.num_attention_heads"),
        "num_channels": (1, "vision_config.num_channels is 1"),
        "image_size": (48, "vision_config.image_size is 48, but prompt_encoder_config.image_size is 80"),
        "patch_size": (7, "vision_config.image_size/patch_size is 80/7"),
        "hidden_act": ("none", "vision_config.hidden_act is 'none'"),
        "num_pos_feats": (4, "2·vision_config.num_pos_feats is 8, but prompt_encoder_config.hidden_size is 16"),
        "hidden_size": (0, "vision_config.hidden_size is 0"),
    },
    PROMPTS: {
        "hidden_size": (24, "vision_config.output_channels is 16, but prompt_encoder_config.hidden_size is 24"),
        "image_size": (1024, "vision_config.image_size is 80, but prompt_encoder_config.image_size is 1024"),
        "patch_size": (8, r"prompt_encoder_config.image_embedding_size \(image_size/patch_size\) is 10"),
        "mask_input_channels": (6, "prompt_encoder_config.mask_input_channels is 6"),
        "num_point_embeddings": (2, "prompt_encoder_config.num_point_embeddings is 2"),
    },
    DECODER: {
        "hidden_size": (24, "mask_decoder_config.hidden_size is 24, but prompt_encoder_config.hidden_size is 16"),
        "attention_downsample_rate": (3, "mask_decoder_config.hidden_size is 16, which .*attention_downsample_rate"),
        "num_attention_heads": (16, "hidden_size/attention_downsample_rate is 8, which .*num_attention_heads"),
    },
}
# Of what draws random weights, which are read here.
WITHOUT_EFFECT = {"initializer_range"}
PROCESSOR: dict[str, list[Any]] = {
    "do_normalize": [False],
    "do_rescale": [False],
    "rescale_factor": [1 / 128],
    "image_mean": [[0.1, 0.2, 0.3], 0.5],
    "image_std": [[0.1, 0.2, 0.3]],
    "resample": [0, 1, 3, 4, 5],
    "size": [{"longest_edge": 64}, {"longest_edge": 33}],
    "do_convert_rgb": [False],
    "mask_size": [{"longest_edge": 16}],
    "mask_pad_size": [{"height": 16, "width": 16}],
}
PROCESSOR_REFUSED: dict[str, list[tuple[Any, str]]] = {
    "do_resize": [(False, "do_resize is false"), ("yes", "do_resize is 'yes'")],
    "do_pad": [(False, "do_pad is false"), (None, "do_pad is false")],
    "do_normalize": [("false", "do_normalize is 'false'")],
    "do_rescale": [(0, "do_rescale is 0")],
    "rescale_factor": [(-1, "rescale_factor is -1"), ("1/255", "rescale_factor is '1/255'")],
    "image_mean": [([0.1, 0.2], "image_mean has 2 values"), ("x", "image_mean is 'x'")],
    "image_std": [([0.1, 0.2, 0], "image_std is"), (None, "image_std is None")],
    "resample": [(17, "resample is 17"), ("bilinear", "resample is 'bilinear'")],
    "size": [({"longest_edge": 128}, "size is"), ({"height": 80, "width": 80}, "size is"), (7.5, "size")],
    "pad_size": [({"height": 96, "width": 80}, "pad_size is"), ({"height": 64, "width": 64}, "pad_size is")],
    "do_center_crop": [(True, "do_center_crop is true")],
    "data_format": [("channels_last", "data_format is not channels_first")],
}


def changed(changes: dict[str, dict[str, Any]]) -> SamConfig:
    values = tiny_config().to_dict()
    for part, fields in changes.items():
        values[part] |= fields
    # Derived from the others.
    del values[PROMPTS]["image_embedding_size"]
    del values[VISION]["scale"]
    return SamConfig(**{part: values[part] for part in CLASSES})


def write(folder: Path, config: SamConfig, processor: dict[str, Any] | None = None) -> Path:
    model: SamModel = random_model(config)
    model.save_pretrained(folder)
    default_processor(config).save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (processor or {})))
    return folder


def predictors(
    directory: Path, folder: Path, formats: Sequence[str] = FORMATS, **options: bool
) -> dict[str, Predictor]:
    sam = load_sam(directory)
    manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
    found: dict[str, Predictor] = {"torch": SamPredictor(sam)}
    for name in formats:
        target = folder / name
        target.mkdir(parents=True)
        export(sam, manifest, target, backend=BACKENDS[name], options=ExportOptions(**options))
        found[name] = ExportedPredictor(target, backend=name, precision="f32")
    return found


def check_alike(found: dict[str, Predictor]) -> None:
    answers: dict[str, list[np.ndarray]] = {}
    for name, predictor in found.items():
        predictor.set_image(IMAGE)
        box = predictor.predict(box=[5, 8, 40, 50])
        point = predictor.predict(
            point_coords=[[40, 30]], point_labels=[1], mask_input=box[2][:1], multimask_output=False, return_logits=True
        )
        answers[name] = [box[1], box[2], *point]
    expected = answers.pop("torch")
    assert answers
    for values in answers.values():
        for mine, theirs in zip(values, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("part", "field"), [(part, field) for part, fields in WORKS.items() for field in fields])
def test_a_field_of_the_configuration_reaches_every_backend(tmp_path: Path, part: str, field: str) -> None:
    check_alike(predictors(write(tmp_path / "sam", changed(WORKS[part][field])), tmp_path))


@pytest.mark.parametrize(("part", "field"), [(part, field) for part, fields in REFUSED.items() for field in fields])
def test_a_field_that_does_not_fit_is_named(tmp_path: Path, part: str, field: str) -> None:
    value, message = REFUSED[part][field]
    folder = write(tmp_path / "sam", tiny_config())
    values = json.loads((folder / "config.json").read_text())
    values[part][field] = value
    values[PROMPTS].pop("image_embedding_size", None)
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message) as caught:
        load_sam(folder)
    assert str(folder) in str(caught.value)


def test_no_field_of_the_configuration_is_left_out() -> None:
    for part, kind in CLASSES.items():
        own = {field.name for field in dataclasses.fields(kind)} - {f.name for f in dataclasses.fields(kind.__base__)}
        assert own - WITHOUT_EFFECT == WORKS[part].keys() | REFUSED[part].keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_functions_are_transformers(tmp_path: Path, name: str) -> None:
    from transformers.activations import ACT2FN

    from mixqsam.exporting.graph import Graph, tensor

    graph = Graph()
    graph.add("Identity", ACTIVATIONS[name](graph, "x"), outputs=["y"])
    model = graph.model("activation", [tensor("x", 200)], [tensor("y", 200)], metadata={})
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = torch.linspace(-8, 8, 200)
    expected = ACT2FN[name](values).numpy()
    np.testing.assert_allclose(session.run(None, {"x": values.numpy()})[0], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("part", CLASSES)
def test_an_activation_that_cannot_be_written_is_refused(tmp_path: Path, part: str) -> None:
    folder = write(tmp_path / "sam", changed({part: {"hidden_act": "laplace"}}))
    with pytest.raises(InputError, match=f"{part}.hidden_act is 'laplace'"):
        predictors(folder, tmp_path)


@pytest.mark.parametrize("raw_image", [False, True])
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in PROCESSOR.items() for value in values]
)
def test_a_setting_of_the_processor_reaches_every_backend(
    tmp_path: Path, field: str, value: Any, raw_image: bool
) -> None:
    directory = write(tmp_path / "sam", tiny_config(), {field: value})
    check_alike(predictors(directory, tmp_path, FORMATS[: 1 if raw_image else None], raw_image=raw_image))


@pytest.mark.parametrize(
    ("field", "value", "message"), [(field, *case) for field, cases in PROCESSOR_REFUSED.items() for case in cases]
)
def test_a_setting_that_cannot_be_carried_is_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    directory = write(tmp_path / "sam", tiny_config(), {field: value})
    with pytest.raises(ModelError, match=rf"preprocessor_config.json cannot be used: .*{message}"):
        load_sam(directory)


def test_no_setting_of_the_processor_is_left_out() -> None:
    own = SamImageProcessorPil().to_dict().keys() - {"image_processor_type"}
    assert own <= PROCESSOR.keys() | PROCESSOR_REFUSED.keys()


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', '{"size": 3, "image_mean": {}}'])
@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_a_broken_processor_is_named(tmp_path: Path, name: str, content: str) -> None:
    directory = write(tmp_path / "sam", tiny_config())
    if name == "processor_config.json" and content.startswith('{"'):
        content = f'{{"image_processor": {content}}}'
    (directory / name).write_text(content)
    with pytest.raises(ModelError, match=name):
        load_sam(directory)


def test_coordinates_of_clients_are_those_of_the_resized_image(tmp_path: Path) -> None:
    directory = write(tmp_path / "sam", tiny_config(), {"size": {"longest_edge": 64}, "resample": 0})
    for predictor in predictors(directory, tmp_path).values():
        predictor.set_image(IMAGE)
        assert predictor.input_size == (43, 64)
        embedding = predictor.get_image_embedding()
        resized = torch.as_tensor(predictor.transform.apply_image(IMAGE)).permute(2, 0, 1)[None]
        predictor.set_torch_image(resized, IMAGE.shape[:2])
        torch.testing.assert_close(predictor.get_image_embedding(), embedding, rtol=1e-3, atol=1e-3)
