"""What every reader of a quantized directory does with its tensors, however the model comes to be."""

from collections.abc import Mapping

from transformers import PreTrainedModel

from mixqsam.artifact.manifest import Manifest
from mixqsam.numeric.tensor_file import TensorSource
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.plan import UnitBits
from mixqsam.sam.attach import LayerMaker, attach_stored
from mixqsam.sam.rest import BITS, rows_of


def attach_units(
    model: PreTrainedModel, manifest: Manifest, tensors: TensorSource, *, layer: LayerMaker | None
) -> None:
    """Put all quantized units in the places of the float ones.

    Args:
        model: changed in place.
        manifest: which units there are.
        tensors: where their tensors are.
        layer: what makes the modules of units with a weight; fake-quantized ones if it is not given.

    Raises:
        ArtifactError: a tensor is missing or not what it should be.
    """
    for name, entry in manifest.units.items():
        bits = UnitBits(entry.weight, entry.activation)
        attach_stored(model, name, bits=bits, kinds=entry.kinds, tensors=tensors, layer=layer)


def take_codes(
    manifest: Manifest, tensors: TensorSource, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, QuantizedTensor]:
    """The tensors of no unit that are stored as codes of 8 bits.

    Args:
        manifest: which they are.
        tensors: where they are.
        shapes: parameter → its own shape; those without are left alone.

    Raises:
        ArtifactError: one is missing or not what it should be.
    """
    return {
        name: tensors.codes(name, bits=BITS, shape=shapes[name], rows=rows_of(shapes[name]))
        for name in manifest.eight_bit
        if name in shapes
    }
