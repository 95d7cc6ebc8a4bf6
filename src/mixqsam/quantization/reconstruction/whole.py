"""Block reconstruction of a whole model, piece by piece in the order of the data; each finished piece is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixqsam.errors import ArtifactError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.plan import HALF_BITS, Unit
from mixqsam.quantization.nearest import draft, finished
from mixqsam.quantization.reconstruction.candidate import Candidate, Frozen, attach, detach
from mixqsam.quantization.reconstruction.fit import Fit, Log, Piece
from mixqsam.quantization.reconstruction.flow import Flow, Readout
from mixqsam.quantization.reconstruction.kept import keep, restore
from mixqsam.quantization.reconstruction.learnable import coins
from mixqsam.quantization.reconstruction.method import Method, ReconstructionOptions
from mixqsam.quantization.reconstruction.states import States
from mixqsam.quantization.setting import Activations, Setting
from mixqsam.sam.calls import State
from mixqsam.sam.hooks import watched
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import Block, blocks_of, image_tokens, skip_to_maps, stages

# Raised when a piece's input or target means something else.
_VERSION = 3


def reconstruct(
    setting: Setting, activations: Activations, *, name: str, method: Method, options: ReconstructionOptions
) -> tuple[Sam, list[Log]]:
    """Reconstruct a model.

    Memory holds the model, its draft, one piece's learnable weights (8 bytes of α and its gradient, 8 of Adam, for
    each weight) and the graph of one image through one piece. Inputs and targets of a piece lie on disk (`states`).

    Args:
        setting: float model, bits, samples.
        activations: what activations begin with.
        name: the recipe's, under which finished pieces are kept.
        method: what is learned of which pieces.
        options: how long and how fast.

    Returns:
        The quantized model, and how each piece went.

    Raises:
        HonestyError: a module of the result is not what its bits claim.
        OutputError: another process reconstructs the same, or the disk is full.
    """
    parts = (_VERSION, name, setting.plan.to_json(), asdict(method), asdict(options))
    key = setting.key(*parts, *sorted(setting.ranges.channels))
    folder = setting.cache.root / f"reconstruction-{key}"
    with setting.cache.lock("reconstruction", key):
        states = States(folder / "states", count=len(setting.samples), device=setting.sam.device)
        with states:
            return Reconstruction(setting, activations, method, options, folder=folder, states=states).run()


@dataclass
class Reconstruction:
    """The walk over a model's blocks with a float and a quantized stream of states; `_finish` makes each block."""

    setting: Setting
    activations: Activations
    method: Method
    options: ReconstructionOptions
    folder: Path
    states: States

    def run(self) -> tuple[Sam, list[Log]]:
        """Make all blocks: the quantized model, and how each piece went."""
        self.draft = draft(self.setting.sam)
        self.logs: list[Log] = []
        models = {"float": self.setting.sam, "quantized": self.draft}
        self.flow = Flow(self.states, self.setting.samples, models)
        encoder = blocks_of(self.setting.sam, "encoder")
        self._blocks(stages(encoder) if self.method.cut == "stage" else encoder)
        self.flow.finish_encoder(encoder[-1])
        self._blocks(blocks_of(self.setting.sam, "decoder"))
        return finished(self.draft, self.setting.plan), self.logs

    def _blocks(self, blocks: Sequence[Block]) -> None:
        self.flow.start(blocks[0])
        for block in blocks:
            self.generator = torch.Generator(device=self.draft.device).manual_seed(self.options.seed)
            units = [unit for unit in self.setting.quantized() if unit.name in block.units]
            self._advance_float(block, units)
            path = self.folder / f"{block.name}.safetensors"
            if not self._restore(path, units):
                logs = self._finish(block, units)
                keep(path, self.draft, [unit.name for unit in units], logs)
                self.logs += logs
                self._tell(block, logs)
            self._advance_quantized(block)

    def _advance_float(self, block: Block, units: Sequence[Unit]) -> None:
        """Take the float model's stream behind a block, and keep what the block's units are fitted to."""
        del units
        self.flow.advance_float(block, self._readout(block))

    def _advance_quantized(self, block: Block) -> None:
        """Take the draft's stream behind a block that is finished."""
        self.flow.advance_quantized(block)

    def _finish(self, block: Block, units: Sequence[Unit]) -> list[Log]:
        """Quantize a block's units in the draft."""
        return self._layers(block, units) if self.method.cut == "layer" else self._whole(block, units)

    def _whole(self, block: Block, units: Sequence[Unit]) -> list[Log]:
        """Fit a block as one piece, to the output that the float model has there."""
        if not units:
            return []
        readout = self._readout(block)

        def loss(draft: Sam, index: int, state: State) -> Tensor:
            found = readout(block.run(draft, state), index)
            return _distance(found, self.states.get("target", index))

        piece = Piece(
            block.name,
            self._grids(units),
            lambda draft, index: loss(draft, index, self._mixed(index)),
            lambda draft, index: loss(draft, index, self.states.get("quantized", index)),
            len(self.setting.samples),
        )
        return [self._fit(piece, units)]

    def _layers(self, block: Block, units: Sequence[Unit]) -> list[Log]:
        """Fit each layer of a block by itself; products take their grids as they are."""
        logs = []
        for unit in units:
            if unit.kind == "product":
                attach(self.draft, self._start([unit]), source=self.setting.sam)
                continue
            self._see(block, unit.name)

            def loss(draft: Sam, index: int, name: str = unit.name) -> Tensor:
                seen = self.states.get("layer", index)
                return _distance({"output": draft.model.get_submodule(name)(seen["input"])}, seen)

            piece = Piece(unit.name, self._grids([unit]), loss, loss, len(self.setting.samples))
            logs.append(self._fit(piece, [unit]))
        return logs

    def _see(self, block: Block, unit: str) -> None:
        """Keep a layer's input in the draft and its output in the float model."""
        seen: dict[str, Tensor] = {}

        def take(index: int) -> State:
            with watched(self.draft.model, {unit: lambda inputs, _: seen.update(input=inputs[0])}):
                block.run(self.draft, self.states.get("quantized", index))
            with watched(self.setting.sam.model, {unit: lambda _, output: seen.update(output=output)}):
                block.run(self.setting.sam, self.states.get("float", index))
            return seen

        self.states.fill("layer", take)

    def _readout(self, block: Block) -> Readout:
        """What of the values after a block is fitted: its outputs, or the image's tokens behind the prompts.

        Outputs that the tokens do not depend on are fitted as they are: maps that the decoder takes later.
        """
        if not self.method.prompt_aware or block.chain.part == "decoder":
            return lambda values, _: {name: values[name] for name in block.outputs}
        sam, chain = self.setting.sam, block.chain
        follows = block.leads_on() and chain.runs_through(min(block.stop, len(chain.calls) - 1))
        leading = chain.leading_to("embedding", block.stop) if follows else frozenset(block.outputs)
        plain = [name for name in block.outputs if name not in leading]

        def readout(values: State, index: int) -> State:
            found = {name: values[name] for name in plain}
            if len(plain) < len(block.outputs):
                maps = skip_to_maps(sam, block, values)
                found["tokens"] = image_tokens(sam, maps, self.flow.prompts(index))
            return found

        return readout

    def _mixed(self, index: int) -> State:
        """A piece's input, with some elements from the float model."""
        state, share = self.states.get("quantized", index), self.method.float_inputs
        if not share:
            return state
        exact = self.states.get("float", index)
        return {
            # What no block has changed is the same in both, e.g. the positions of the image's tokens.
            name: tensor
            if torch.equal(tensor, exact[name])
            else torch.lerp(tensor, exact[name], coins(tensor, share, generator=self.generator))
            for name, tensor in state.items()
        }

    def _grids(self, units: Sequence[Unit]) -> dict[str, AffineGrid]:
        """Grids of the weights that have one."""
        plan, weights = self.setting.plan, self.setting.weights
        return {u.name: weights.grid(u.name, bits=plan.bits[u.name].weight) for u in units if self._is_rounded(u)}

    def _is_rounded(self, unit: Unit) -> bool:
        """Whether a unit has a weight on a grid."""
        return unit.kind != "product" and self.setting.plan.bits[unit.name].weight < HALF_BITS

    def _start(self, units: Sequence[Unit]) -> Candidate:
        """Rounded to nearest."""
        plan, weights = self.setting.plan, self.setting.weights
        return {
            unit.name: Frozen(
                None if unit.kind == "product" else weights.nearest(unit.name, bits=plan.bits[unit.name].weight),
                {operand: self.activations[unit.name, operand] for operand in unit.activations},
            )
            for unit in units
        }

    def _fit(self, piece: Piece, units: Sequence[Unit]) -> Log:
        fit = Fit(self.draft, piece, source=self.setting.sam, options=self.options, progress=self.setting.progress)
        _, log = fit.run(self._start(units), self.method.phases)
        return log

    def _tell(self, block: Block, logs: Sequence[Log]) -> None:
        del block
        for log in logs:
            if log.ending == "not finite":
                self.setting.progress.note(
                    f"{log.piece}: the loss is not finite after {log.iterations} iterations; "
                    f"the best so far is kept (loss {log.after:.4g})."
                )
                continue
            self.setting.progress.note(
                f"{log.piece}: loss {log.before:.4g} → {log.after:.4g} after {log.iterations} iterations ({log.ending})"
            )

    def _restore(self, path: Path, units: Sequence[Unit]) -> bool:
        """Attach a finished piece; false where there is none that can be read."""
        if not path.exists():
            return False
        names = [unit.name for unit in units]
        try:
            self.logs += restore(path, self.draft, names, self.setting.plan)
        except ArtifactError:
            detach(self.draft, names, source=self.setting.sam)
            self.setting.progress.note(f"{path} cannot be read; its piece is fitted again.")
            return False
        return True


def _distance(found: State, wanted: Mapping[str, Tensor]) -> Tensor:
    """‖y_q − y_fp‖²: summed over the last axis (channels of tokens, columns of maps), averaged over the others."""
    total = sum(
        (found[name] - wanted[name]).square().sum() / (found[name].numel() / found[name].shape[-1]) for name in found
    )
    assert isinstance(total, Tensor)  # noqa: S101
    return total
