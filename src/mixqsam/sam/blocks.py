"""SAM cut into the blocks that reconstruction works on, each a function from one state to the next.

A state is what flows between blocks for one image. In the encoder: `hidden` [1, h, w, C], after the neck `embedding`
[1, C, h, w]. In the decoder, with P prompts of T tokens: `queries` and `points` (the tokens' own embedding)
[P, 1, T, C], and `keys` [P, 1, h·w, C].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixqsam.sam.forward import Frame, PromptTensors, embed_prompts
from mixqsam.sam.load import Sam
from mixqsam.sam.units import unit_names

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Block:
    """A piece of the model.

    Attributes:
        name: path of its module.
        units: its units, in the order in which the data flows.
        run: how a model (float or quantized) takes a state through the piece.
        outputs: the parts of the state that the piece changes.
        is_global: an encoder block that attends to the whole image.
    """

    name: str
    units: tuple[str, ...]
    run: Callable[[Sam, State], State]
    outputs: tuple[str, ...]
    is_global: bool = False


def encoder_blocks(sam: Sam) -> list[Block]:
    """The encoder's layers, then its neck."""
    names = unit_names(sam.config)
    found = []
    for index, layer in enumerate(sam.model.vision_encoder.layers):
        name = f"vision_encoder.layers.{index}"
        found.append(Block(name, _within(names, name), _layer(index), ("hidden",), is_global=layer.window_size == 0))
    neck = "vision_encoder.neck"
    return [*found, Block(neck, _within(names, neck), _neck, ("embedding",))]


def decoder_blocks(sam: Sam) -> list[Block]:
    """The layers of the two-way transformer, then its final attention."""
    names, root = unit_names(sam.config), "mask_decoder.transformer"
    found = []
    for index in range(len(sam.model.mask_decoder.transformer.layers)):
        name = f"{root}.layers.{index}"
        found.append(Block(name, _within(names, name), _two_way(index), ("queries", "keys")))
    final = f"{root}.final_attn_token_to_image"
    return [*found, Block(final, _within(names, final), _final, ("queries",))]


def stages(blocks: Sequence[Block]) -> list[Block]:
    """Encoder blocks joined up to a global-attention block each; what follows the last one stays apart."""
    found: list[Block] = []
    open_: list[Block] = []
    for block in blocks:
        open_.append(block)
        if block.is_global:
            found.append(_join(open_))
            open_ = []
    return found + open_


def _join(blocks: Sequence[Block]) -> Block:
    parts = tuple(blocks)

    def run(sam: Sam, state: State) -> State:
        for block in parts:
            state = block.run(sam, state)
        return state

    name = parts[0].name if len(parts) == 1 else f"{parts[0].name}-{parts[-1].name.rpartition('.')[2]}"
    units = tuple(unit for block in parts for unit in block.units)
    return Block(name, units, run, parts[-1].outputs, is_global=True)


@torch.no_grad()
def start_encoder(sam: Sam, frame: Frame) -> State:
    """The state before the first block: patches with their positions."""
    encoder = sam.model.vision_encoder
    hidden = encoder.patch_embed(frame.pixels)
    return {"hidden": hidden if encoder.pos_embed is None else hidden + encoder.pos_embed}


def start_decoder(sam: Sam, embedding: Tensor, prompts: PromptTensors) -> State:
    """The state before the two-way transformer: an image's embedding [1, C, h, w], once for each prompt."""
    decoder = sam.model.mask_decoder
    sparse, dense = embed_prompts(sam, prompts)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    points = torch.cat([tokens.expand(sparse.shape[1], 1, -1, -1), sparse[0][:, None]], dim=2)
    keys = (embedding + dense).flatten(2).transpose(1, 2)
    return {"queries": points, "points": points, "keys": keys.expand(len(points), -1, -1)[:, None]}


def _within(names: Sequence[str], block: str) -> tuple[str, ...]:
    return tuple(name for name in names if name.startswith(f"{block}."))


def _layer(index: int) -> Callable[[Sam, State], State]:
    def run(sam: Sam, state: State) -> State:
        return {"hidden": sam.model.vision_encoder.layers[index](state["hidden"])}

    return run


def _neck(sam: Sam, state: State) -> State:
    return {"embedding": sam.model.vision_encoder.neck(state["hidden"])}


def _positions(sam: Sam) -> Tensor:
    positions: Tensor = sam.model.get_image_wide_positional_embeddings()
    return positions.flatten(2).transpose(1, 2)[:, None]


def _two_way(index: int) -> Callable[[Sam, State], State]:
    def run(sam: Sam, state: State) -> State:
        queries, keys, _ = sam.model.mask_decoder.transformer.layers[index](
            queries=state["queries"],
            keys=state["keys"],
            query_point_embedding=state["points"],
            key_point_embedding=_positions(sam),
            attention_similarity=None,
        )
        return {"queries": queries, "keys": keys, "points": state["points"]}

    return run


def _final(sam: Sam, state: State) -> State:
    transformer = sam.model.mask_decoder.transformer
    attended, _ = transformer.final_attn_token_to_image(
        query=state["queries"] + state["points"], key=state["keys"] + _positions(sam), value=state["keys"]
    )
    queries = transformer.layer_norm_final_attn(state["queries"] + attended)
    return {"queries": queries, "keys": state["keys"], "points": state["points"]}
