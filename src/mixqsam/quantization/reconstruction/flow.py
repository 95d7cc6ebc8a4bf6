"""What flows between blocks while they are fitted: in the float model and in the draft, image by image, on disk."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mixqsam.data.samples import Sample
from mixqsam.families.family import Maps, PromptTensors
from mixqsam.plan import Part
from mixqsam.quantization.reconstruction.states import States
from mixqsam.sam.calls import State
from mixqsam.sam.forward import embed_prompts, encode, make_frame, prompt_tensors
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import Block, output_maps, record

_STREAMS = ("float", "quantized")

# Values after a block, and the image → what is fitted.
Readout = Callable[[State, int], State]


class Flow:
    """The streams `float` and `quantized`: the input of the block that is fitted next.

    Args:
        states: where they are kept.
        samples: the images.
        models: stream → its model; the draft of `quantized` changes from block to block.
    """

    def __init__(self, states: States, samples: Sequence[Sample], models: Mapping[str, Sam]) -> None:
        self._states, self._samples, self._models = states, samples, models
        self._prompts: dict[int, PromptTensors] = {}

    def start(self, first: Block) -> None:
        """Fill both streams with the input of a part's first block."""
        for stream in _STREAMS:
            self._states.fill(stream, partial(self._arrive, stream, first, 0))

    def advance_float(self, block: Block, readout: Readout) -> None:
        """Fill `target` with what the block is fitted to, and `next` with what the float model has after it."""
        self._states.fill("next", partial(self._pass_float, block, readout))

    def advance_quantized(self, block: Block) -> None:
        """Take both streams behind a block that is finished."""
        self._states.fill("quantized", partial(self._pass, "quantized", block))
        self._states.rename("next", "float")

    def finish_encoder(self, last: Block) -> None:
        """Keep what both encoders give, for the decoder."""
        for stream in _STREAMS:
            self._states.fill(f"{stream} maps", partial(self._maps, stream, last))

    def prompts(self, index: int) -> Maps:
        """An image's prompts as the decoder takes them."""
        sample, sam = self._samples[index], self._models["float"]
        if index not in self._prompts:
            self._prompts[index] = prompt_tensors(sam, sample.prompts, make_frame(sam, sample.open()))
        return embed_prompts(sam, self._prompts[index])

    def _pass_float(self, block: Block, readout: Readout, index: int) -> State:
        values = block.run(self._models["float"], self._states.get("float", index))
        self._states.put("target", index, readout(values, index))
        return block.after(values) if block.leads_on() else self._arrive("float", block, block.stop, index)

    def _pass(self, stream: str, block: Block, index: int) -> State:
        if not block.leads_on():
            return self._arrive(stream, block, block.stop, index)
        return block.after(block.run(self._models[stream], self._states.get(stream, index)))

    def _arrive(self, stream: str, block: Block, place: int, index: int) -> State:
        """What flows before a place in a block's chain, by running the part up to there."""
        run = partial(self._forward, block.chain.part, stream, index)
        return record(self._models[stream].model, block.chain, run, until=place)[0]

    def _maps(self, stream: str, last: Block, index: int) -> Maps:
        if last.leads_on():
            return output_maps(last.chain, self._states.get(stream, index))
        maps: Maps = self._forward("encoder", stream, index)
        return maps

    def _forward(self, part: Part, stream: str, index: int) -> Any:
        """Run a part of a stream's model on an image."""
        sam = self._models[stream]
        if part == "encoder":
            return encode(sam, make_frame(sam, self._samples[index].open()))
        maps = self._states.get(f"{stream} maps", index)
        return sam.family.decode(sam.model, maps, self.prompts(index), multimask=False)
