"""The units of one piece: as they would be deployed (`Candidate`), and while they are learned (`Trainee`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.half import StoredWeight
from mixqsam.numeric.modules import Product
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.plan import Operand
from mixqsam.quantization.reconstruction.learnable import LearnableLayer, LearnableQuantizer, SoftWeight
from mixqsam.quantization.reconstruction.method import Phase
from mixqsam.sam.attach import attach_layer, attach_product
from mixqsam.sam.load import Sam


@dataclass(frozen=True)
class Frozen:
    """What one unit would be deployed with.

    Attributes:
        weight: None for a product.
        quantizers: operand (`input`, or `left` and `right`) → quantizer.
    """

    weight: StoredWeight | None
    quantizers: Mapping[Operand, ActivationQuantizer]


# Unit → what it would be deployed with.
Candidate = Mapping[str, Frozen]


def deployable(candidate: Candidate) -> Candidate:
    """The candidate with no more groups of channels than a deployed quantizer has."""
    return {
        name: Frozen(one.weight, {operand: quantizer.deployable() for operand, quantizer in one.quantizers.items()})
        for name, one in candidate.items()
    }


def attach(draft: Sam, candidate: Candidate, *, source: Sam) -> None:
    """Put frozen modules in the places of a draft's units, whatever is there now."""
    for name, frozen in candidate.items():
        quantizers = frozen.quantizers
        if frozen.weight is None:
            attach_product(draft.model, name, left=quantizers["left"], right=quantizers["right"])
        else:
            draft.model.set_submodule(name, _layer(source, name))
            attach_layer(draft.model, name, weight=frozen.weight, quantizer=quantizers["input"])


def detach(draft: Sam, units: Sequence[str], *, source: Sam) -> None:
    """Put the float modules back in the places of a draft's units."""
    for name in units:
        module = draft.model.get_submodule(name)
        if isinstance(module, Product):
            module.left, module.right = nn.Identity(), nn.Identity()
        else:
            draft.model.set_submodule(name, _layer(source, name))


def _layer(source: Sam, name: str) -> nn.Linear | nn.Conv2d:
    layer = source.model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)  # noqa: S101  (units with weights are nothing else)
    return layer


class Trainee:
    """A piece's units with what one phase learns of them.

    Args:
        start: what they begin as.
        grids: unit → grid of its weight; a weight without one stays as it is.
        source: the float model.
        phase: what is learned.
        generator: what drops.
    """

    def __init__(
        self,
        start: Candidate,
        *,
        grids: Mapping[str, AffineGrid],
        source: Sam,
        phase: Phase,
        generator: torch.Generator,
    ) -> None:
        self._source, self._phase, self._generator, self._start = source, phase, generator, start
        self.soft = {
            name: SoftWeight(_layer(source, name).weight, grids[name])
            for name, one in start.items()
            if phase.weights and name in grids
        }
        self._quantizers = {
            (name, operand): self._learnable(quantizer)
            for name, one in start.items()
            for operand, quantizer in one.quantizers.items()
        }

    def _learnable(self, quantizer: ActivationQuantizer) -> LearnableQuantizer:
        return LearnableQuantizer(quantizer, float_share=self._phase.float_share, generator=self._generator)

    def attach(self, draft: Sam) -> None:
        """Put the learnable modules in the places of a draft's units."""
        for name, one in self._start.items():
            if one.weight is not None:
                weight: SoftWeight | Tensor = self.soft.get(name) or one.weight.dequantize()
                quantizer = self._quantizers[name, "input"]
                draft.model.set_submodule(name, LearnableLayer(_layer(self._source, name), weight, quantizer))
                continue
            product = draft.model.get_submodule(name)
            assert isinstance(product, Product)  # noqa: S101
            product.left, product.right = self._quantizers[name, "left"], self._quantizers[name, "right"]

    @property
    def alphas(self) -> list[nn.Parameter]:
        """What decides rounding."""
        return [one.alpha for one in self.soft.values()]

    @property
    def scales(self) -> list[nn.Parameter]:
        """What moves the scales of activations; none where the phase does not learn them."""
        return [one.logarithm for one in self._quantizers.values() if self._phase.scales and one.logarithm is not None]

    @property
    def undecided(self) -> float:
        """The largest share, of any weight, that is neither rounded up nor down."""
        return max((one.undecided() for one in self.soft.values()), default=0.0)

    def groups(self) -> int:
        """The most groups of channels that a quantizer still has; 0 without such quantizers."""
        return max((one.start.groups for one in self._quantizers.values()), default=0)

    def deployed_groups(self) -> int:
        """To how many groups of channels they are merged; 0 where nothing is merged."""
        return max((one.start.deployed_groups for one in self._quantizers.values()), default=0)

    def merge(self, groups: int) -> None:
        """Merge the groups of channels; the scales begin again from the merged ones. `attach` has to follow."""
        for key, one in self._quantizers.items():
            if one.start.groups > groups:
                self._quantizers[key] = self._learnable(one.freeze().merged(groups))

    def freeze(self) -> Candidate:
        """What would be deployed now, but for groups of channels that are still to be merged."""
        return {
            name: Frozen(
                self.soft[name].harden() if name in self.soft else one.weight,
                {operand: self._quantizers[name, operand].freeze() for operand in one.quantizers},
            )
            for name, one in self._start.items()
        }
