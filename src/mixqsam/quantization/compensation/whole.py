"""Compensation of a whole model, block by block in the order of the data; each finished block is kept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count, groupby

import torch
from torch import Tensor, nn

from mixqsam.numeric.modules import QuantizedLayer
from mixqsam.numeric.moments import Moments, position_count, rows_at
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.plan import Operand, Role, Unit
from mixqsam.quantization.compensation.choose import Layer, Rounded, choose, refit
from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.compensation.shortcut import Shortcut
from mixqsam.quantization.reconstruction.candidate import Frozen, attach, deployable
from mixqsam.quantization.reconstruction.fit import Log
from mixqsam.quantization.reconstruction.method import Method, ReconstructionOptions
from mixqsam.quantization.reconstruction.states import States
from mixqsam.quantization.reconstruction.whole import Reconstruction
from mixqsam.quantization.setting import Activations, Setting
from mixqsam.sam.calls import State
from mixqsam.sam.hooks import InputWatcher, watched, watched_before
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import Block

_VERSION = 2
# One image of four is kept aside; where there are fewer, the last quarter of each image's positions.
_ASIDE = 4
# Projections of an attention, none of which sees what another one makes.
_TOGETHER: tuple[Role, ...] = ("query", "key", "value")


def compensate(setting: Setting, activations: Activations, *, name: str, method: Compensation) -> tuple[Sam, list[Log]]:
    """Compensate a model.

    Memory holds the model, its draft, and the moments of the layers that are fitted together: 6·d² numbers of float64
    each, d the inputs of an output value. The blocks' inputs lie on disk (`states`).

    Args:
        setting: float model, bits, samples.
        activations: quantizers.
        name: the recipe's, under which finished blocks are kept.
        method: what is tried.

    Returns:
        The quantized model, and how each layer went: its output's squared error rounded to nearest and as deployed,
        on inputs that were kept aside.

    Raises:
        HonestyError: a module of the result is not what its bits claim.
        NumericError: an input is not finite.
        OutputError: another process compensates the same, or the disk is full.
    """
    side, work = setting.sam.image_size, setting.sam.costs().work
    setting = replace(setting, samples=method.select(setting.samples, side=side, work=work))
    key = setting.key(_VERSION, name, setting.plan.to_json(), asdict(method))
    folder = setting.cache.root / f"compensation-{key}"
    with setting.cache.lock("compensation", key), torch.no_grad():
        states = States(folder / "states", count=len(setting.samples), device=setting.sam.device)
        with states:
            walk = _Walk(
                setting,
                activations,
                Method("block", ()),
                ReconstructionOptions(),
                folder=folder,
                states=states,
                compensation=method,
            )
            return walk.run()


# What is done with a layer's name and its input.
_See = Callable[[str, Tensor], None]


class _AllSeen(Exception):  # noqa: N818  (it ends a pass early; nothing is wrong)
    """Everything was seen that a pass was made for."""


@dataclass
class _Pair:
    """Moments of one layer's inputs: those it is fitted to, and those kept aside."""

    fit: Moments = field(default_factory=partial(Moments, judged=False))
    aside: Moments = field(default_factory=Moments)


@dataclass
class _Passing:
    """Rows of the inputs to some layers, of the image that passes through the model.

    Attributes:
        choose: a layer's name, its input and the image's index → rows of the input.
        index: of the image.
        rows: layer → what was seen.
    """

    choose: Callable[[str, Tensor, int], Tensor]
    index: int = 0
    rows: dict[str, Tensor] = field(default_factory=dict)

    def see(self, name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Watch a layer."""
        del output
        self.rows[name] = self.choose(name, inputs[0], self.index)

    def hand_over(self, values: State, index: int) -> State:
        """Give the rows of an image that has passed; the next one follows."""
        del values
        rows, self.rows, self.index = self.rows, {}, index + 1
        return rows


@dataclass
class _Walk(Reconstruction):
    compensation: Compensation = field(default_factory=Compensation)

    def _finish(self, block: Block, units: Sequence[Unit]) -> list[Log]:
        """Round a block's weights; products, and weights of 16 bits, are taken as they are."""
        logs = []
        alike = self.compensation.inputs == "float"
        moments: Mapping[str, _Pair] = self._from_float(block, units) if alike else {}
        for _, group in groupby(units, key=_step):
            together = list(group)
            if not alike:
                moments = self._from_draft(block, together)
            for unit in together:
                self._attach_grids(unit)
                if self._is_rounded(unit):
                    logs.append(self._round(unit, moments[unit.name]))
        return logs

    def _round(self, unit: Unit, moments: _Pair) -> Log:
        source = self.setting.sam.model.get_submodule(unit.name)
        layer = Layer(
            unit.name,
            self.setting.weights.weight(unit.name),
            source.groups if isinstance(source, nn.Conv2d) else 1,
            self._grids([unit])[unit.name],
            self.setting.weights.observer,
            source.bias is not None,
        )
        nearest, best = choose(layer, moments.fit, moments.aside, self.compensation)
        if self.compensation.refits:
            best = refit(layer, best, moments.fit.merged(moments.aside), self.compensation)
        self._attach(unit, best)
        return Log(unit.name, nearest.error, best.error, 0, best.way)

    def _attach_grids(self, unit: Unit) -> None:
        attach(self.draft, deployable(self._start([unit])), source=self.setting.sam)

    def _attach(self, unit: Unit, rounded: Rounded) -> None:
        quantizers: Mapping[Operand, ActivationQuantizer] = {"input": self._quantizer(unit)}
        attach(self.draft, {unit.name: Frozen(rounded.weight, quantizers)}, source=self.setting.sam)
        module = self.draft.model.get_submodule(unit.name)
        assert isinstance(module, QuantizedLayer)  # noqa: S101  (it was attached a line ago)
        if rounded.shift is not None and module.bias is not None:
            module.bias = nn.Parameter(module.bias + rounded.shift.to(module.bias.device), requires_grad=False)

    def _quantizer(self, unit: Unit) -> ActivationQuantizer:
        return deployable(self._start([unit]))[unit.name].quantizers["input"]

    def _from_float(self, block: Block, units: Sequence[Unit]) -> dict[str, _Pair]:
        """Moments of all layers of a block, from the float model's inputs."""
        moments = {unit.name: _Pair() for unit in units if self._is_rounded(unit)}
        quantizers = {unit.name: self._quantizer(unit) for unit in units if unit.name in moments}
        for index in range(self.states.count) if moments else ():

            def see(name: str, values: Tensor, index: int = index) -> None:
                exact, quantized = (self._rows(name, one, index) for one in (values, quantizers[name](values)))
                self._take(moments[name], exact, quantized, index)

            self._show(self.setting.sam, block, self.states.get("float", index), list(moments), see)
        return moments

    def _advance_float(self, block: Block, units: Sequence[Unit]) -> None:
        """Take the float model's stream behind a block; on the way, keep some rows of the inputs to its layers."""
        alike = self.compensation.inputs == "float"
        names = [] if alike else [unit.name for unit in units if self._is_rounded(unit)]
        passing, model = _Passing(self._rows), self.setting.sam.model
        self.shortcut = Shortcut(self.states, block, units)
        with watched(model, {name: partial(passing.see, name) for name in names}), self.shortcut.learned(model):
            self.flow.advance_float(block, passing.hand_over)

    def _advance_quantized(self, block: Block) -> None:
        with self.shortcut.taken(self.draft.model, count()):
            self.flow.advance_quantized(block)

    def _from_draft(self, block: Block, units: Sequence[Unit]) -> dict[str, _Pair]:
        """Moments of some layers, from the inputs that the quantized model has there so far."""
        moments = {unit.name: _Pair() for unit in units if self._is_rounded(unit)}
        quantizers = {unit.name: self._quantizer(unit) for unit in units if unit.name in moments}
        for index in range(self.states.count) if moments else ():
            exact = self.states.get("target", index)

            def see(name: str, values: Tensor, index: int = index, exact: Mapping[str, Tensor] = exact) -> None:
                self.shortcut.keep(name, values, index)
                self._take(moments[name], exact[name], self._rows(name, quantizers[name](values), index), index)

            with self.shortcut.taken(self.draft.model, iter([index])):
                self._show(self.draft, block, self.states.get("quantized", index), list(moments), see)
        return moments

    def _show(self, model: Sam, block: Block, state: State, names: Sequence[str], see: _See) -> None:
        """Run a model through a block until the inputs of some layers are seen; the last of them is not run."""
        open_ = set(names)

        def watch(name: str) -> InputWatcher:
            def watcher(inputs: tuple[Tensor, ...]) -> None:
                see(name, inputs[0])
                open_.discard(name)
                if not open_:
                    raise _AllSeen

            return watcher

        with watched_before(model.model, {name: watch(name) for name in names}), suppress(_AllSeen):
            block.run(model, state)

    def _rows(self, name: str, values: Tensor, index: int) -> Tensor:
        """What a layer's weight meets at some positions of an image; the same ones in all models."""
        layer = self.setting.sam.model.get_submodule(name)
        positions_there = position_count(layer, values.shape)
        generator = torch.Generator().manual_seed(index)
        wanted = self.compensation.count_rows(self.states.count)
        positions = torch.randperm(positions_there, generator=generator)[:wanted].to(values.device)
        return rows_at(layer, values, positions)

    def _take(self, pair: _Pair, exact: Tensor, quantized: Tensor, index: int) -> None:
        if self.states.count >= _ASIDE:
            (pair.aside if index % _ASIDE == _ASIDE - 1 else pair.fit).update(exact, quantized)
            return
        cut = max(1, exact.shape[1] * (_ASIDE - 1) // _ASIDE)
        pair.fit.update(exact[:, :cut], quantized[:, :cut])
        pair.aside.update(exact[:, cut:], quantized[:, cut:])

    def _tell(self, block: Block, logs: Sequence[Log]) -> None:
        if logs:
            before, after = (sum(values) for values in zip(*((log.before, log.after) for log in logs), strict=True))
            self.setting.progress.note(f"{block.name}: error {before:.4g} → {after:.4g} ({len(logs)} layers)")


def _step(unit: Unit) -> str:
    """What units are fitted in one pass: the projections of an attention, any other by itself."""
    return f"{unit.attention}, projections" if unit.role in _TOGETHER else unit.name
