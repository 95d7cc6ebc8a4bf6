"""A family in one file: what docs/extending.md says to write, for a model that nobody else has."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from mixqsam.families.attention_hook import hook_attentions
from mixqsam.families.family import BlockPath, Family, Maps, PromptTensors
from mixqsam.families.square import HALVES, square_framing
from mixqsam.plan import Part

# The model, as transformers would have it.


class ToyConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "toy"
    side: int = 48
    width: int = 16
    depth: int = 2


class Attention(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config, self.is_causal, self.num_attention_heads, self.scaling = config, False, 2, 0.4
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (
            one.unflatten(-1, (2, -1)).transpose(1, 2) for one in (self.to_q(tokens), self.to_k(seen), self.to_v(seen))
        )
        function = AttentionInterface().get_interface(self.config._attn_implementation, plainly)
        mixed, _ = function(self, q, k, v, attention_mask=None, scaling=self.scaling)
        out: Tensor = self.out(mixed.flatten(2))
        return out


def plainly(_: Any, q: Tensor, k: Tensor, v: Tensor, *, scaling: float, **__: Any) -> tuple[Tensor, None]:
    """Without the engine."""
    return ((q @ k.transpose(-2, -1) * scaling).softmax(-1) @ v).transpose(1, 2), None


class Layer(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.look, self.wide, self.narrow = Attention(config), nn.Linear(config.width, 24), nn.Linear(24, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.look(tokens, tokens)
        out: Tensor = tokens + self.narrow(functional.gelu(self.wide(tokens)))
        return out


class ToyModel(PreTrainedModel):  # type: ignore[misc]
    config_class = ToyConfig
    config: ToyConfig
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.width, 8, 8)
        self.stem = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.corners = nn.Linear(4, 4 * config.width)
        self.ask = Attention(config)
        self.post_init()


# What mixqsam has to know of it.


def part(name: str) -> Part | None:
    """Patches and corners stay float."""
    return "encoder" if name.startswith("stem.") else "decoder" if name.startswith("ask.") else None


def blocks(config: ToyConfig) -> list[BlockPath]:
    return [*(BlockPath(f"stem.{index}", is_global=True) for index in range(config.depth)), BlockPath("ask")]


def check(values: Any) -> None:
    if not 0 < values.get("width", 16) < 1024:
        raise ValueError(f"width is {values['width']}, where a toy has 1 to 1023")


def encode(model: Any, pixels: Tensor) -> Maps:
    maps = model.patches(pixels)
    tokens = maps.flatten(2).transpose(1, 2)
    for layer in model.stem:
        tokens = layer(tokens)
    return {"embedding": tokens.transpose(1, 2).reshape(maps.shape)}


def embed(model: Any, prompts: PromptTensors) -> Maps:
    boxes = prompts.boxes if prompts.boxes is not None else torch.cat([prompts.points[:, :, 0]] * 2, dim=-1)  # type: ignore[index]
    return {"asked": model.corners(boxes / model.config.side).unflatten(-1, (4, -1))}


def decode(model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
    embedding, count = maps["embedding"], prompts["asked"].shape[1]
    tokens = embedding.flatten(2).transpose(1, 2).repeat_interleave(count, 0)
    asked = prompts["asked"].expand(len(embedding), -1, -1, -1).flatten(0, 1)
    found = asked + model.ask(asked, tokens)
    masks = (found @ tokens.transpose(1, 2)).reshape(len(embedding), count, 4, *embedding.shape[2:])
    logits = functional.interpolate(masks.flatten(0, 1), scale_factor=4.0).unflatten(0, (len(embedding), count))
    chosen = slice(1, None) if multimask else slice(1)
    return logits[:, :, chosen], found.mean(-1).unflatten(0, (len(embedding), count))[..., chosen]


def forward(self: Any, pixel_values: Tensor, input_boxes: Tensor, multimask_output: bool = True) -> SimpleNamespace:
    prompts = embed(self, PromptTensors(input_boxes, None, None))
    logits, scores = decode(self, encode(self, pixel_values), prompts, multimask=multimask_output)
    return SimpleNamespace(pred_masks=logits, iou_scores=scores)


ToyModel.forward = forward

TOY = Family(
    name="toy",
    title="toy",
    model=ToyModel,
    config=ToyConfig,
    part=part,
    roles={
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "qk": "scores",
        "av": "mixing",
        "out": "projection",
        "wide": "mlp-in",
        "narrow": "mlp-out",
    },
    block=lambda name: name.split(".")[1] if name.startswith("stem.") else "ask",
    blocks=blocks,
    image_tokens=("ask", 0),
    tied={},
    check=check,
    prepare=lambda model: hook_attentions(model, Attention),
    framing=square_framing(lambda config: int(config.side), public="ToyProcessor", statistics=HALVES),
    encode=encode,
    embed=embed,
    decode=decode,
    sample=ToyConfig,
)
