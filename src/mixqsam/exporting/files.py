"""Write encoder and decoder as ONNX or OpenVINO files."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx

from mixqsam.artifact.manifest import Manifest
from mixqsam.deployed.backends import Backend
from mixqsam.deployed.names import DECODER, EMBEDDING, ENCODER, METADATA, PADDING
from mixqsam.errors import InputError
from mixqsam.exporting.decoder import decoder_values, embedding_value, write_decoder
from mixqsam.exporting.encoder import write_encoder
from mixqsam.exporting.graph import Graph, tensor
from mixqsam.exporting.tiny_vit import write_tiny_vit
from mixqsam.exporting.traced import writing
from mixqsam.sam.load import Sam


class EncoderWriter(Protocol):
    """Adds a family's encoder to a graph."""

    def __call__(self, graph: Graph, sam: Sam, frame: str, *, output: str, sliced: bool) -> dict[str, str]:
        """See `mixqsam.exporting.encoder.write_encoder`."""
        ...


# By family, where a graph is written by hand; the decoder is the same in all of them. Other families are traced.
ENCODERS: Mapping[str, EncoderWriter] = {"sam": write_encoder, "mobile_sam": write_tiny_vit}
# Above this, protobuf cannot hold a model, and its constants go into a file beside it.
_PROTOBUF = 1_900_000_000


@dataclass(frozen=True)
class ExportOptions:
    """What the files look like.

    Attributes:
        single: the decoder gives one mask for each prompt, as Meta's with `return_single_mask`; otherwise all four.
        compatible: for runtimes that are older than opset 21 and 4-bit codes: opset 17, and codes as bytes.
        raw_image: the encoder takes an image [height, width, 3] of 0 … 255, its longer side as long as the frame's, and
            normalises and pads it itself; otherwise a frame [1, 3, S, S].
        byte_codes: every code of a weight takes a byte, for ONNX Runtime in browsers: its WebGPU does not unpack 4-bit
            codes. Compressed files are as small.
    """

    single: bool = False
    raw_image: bool = False
    compatible: bool = False
    byte_codes: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: name → bytes.
        float_units: quantized units whose products stay in float arithmetic → why. Their values are quantized, but
            for those of 16 bits.
        settings: what a client has to know of images and prompts; the same is in the encoder's metadata.
    """

    files: Mapping[str, int]
    float_units: Mapping[str, str]
    settings: Mapping[str, Any]


def export(sam: Sam, manifest: Manifest, directory: Path, *, backend: Backend, options: ExportOptions) -> Exported:
    """Write both files into an existing directory.

    Args:
        sam: a quantized model, packed or fake-quantized.
        manifest: what its directory says of it; goes into the files' metadata.
        directory: where.
        backend: for ONNX Runtime QDQ nodes of opset 21, for others what it makes of such a file.
        options: what the files look like.

    Raises:
        InputError: the model cannot be exported as asked for; the message says why.
    """
    encoder, encoder_units = encoder_model(sam, manifest, options, sliced=backend.sliced)
    decoder, decoder_units = decoder_model(sam, manifest, options, sliced=backend.sliced)
    for name, model in ((ENCODER, encoder), (DECODER, decoder)):
        _save(model, backend.file(directory, name), backend)
    files = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    return Exported(files, encoder_units | decoder_units, _settings(sam, manifest, options))


def encoder_model(
    sam: Sam, manifest: Manifest, options: ExportOptions, *, sliced: bool
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The image encoder, and its units whose products stay in float arithmetic.

    Raises:
        InputError: the model does what cannot be traced.
    """
    graph = _graph(sam, options)
    size = sam.image_size
    if options.raw_image:
        inputs = [tensor("input_image", "height", "width", 3)]
        frame = _frame(graph, sam, "input_image", size)
    else:
        inputs, frame = [tensor("x", 1, 3, size, size)], "x"
    if write := ENCODERS.get(sam.family.name):
        units = write(graph, sam, frame, output=EMBEDDING, sliced=sliced)
    else:
        units = writing.write_encoder(graph, sam, frame, apart=sliced)
    return graph.model("encoder", inputs, _maps(sam), metadata=_metadata(sam, manifest, options, units)), units


def decoder_model(
    sam: Sam, manifest: Manifest, options: ExportOptions, *, sliced: bool
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Prompt encoder and mask decoder, and their units whose products stay in float arithmetic.

    Raises:
        InputError: the model does what cannot be traced.
    """
    graph = _graph(sam, options)
    if sam.family.name in ENCODERS:
        units = write_decoder(graph, sam, single=options.single)
    else:
        units = writing.write_decoder(graph, sam, single=options.single, apart=sliced)
    inputs, outputs = decoder_values(_maps(sam))
    return graph.model("decoder", inputs, outputs, metadata=_metadata(sam, manifest, options, units)), units


def _graph(sam: Sam, options: ExportOptions) -> Graph:
    """An empty graph; names that it makes up are none of a traced graph's.

    Raises:
        InputError: the family has no hand-written graph, and the traced one is too new for what is asked for.
    """
    if sam.family.name in ENCODERS:
        return Graph(compatible=options.compatible, has_short_codes=not options.byte_codes)
    if options.compatible:
        known = ", ".join(repr(name) for name in ENCODERS)
        raise InputError(
            f"{sam.source} is a {sam.family.name!r} model; --compatible is for models of type {known}. "
            "Export it without, for ONNX Runtime 1.23 or newer."
        )
    return Graph(has_short_codes=not options.byte_codes, prefix="mixqsam.")


def _maps(sam: Sam) -> list[onnx.ValueInfoProto]:
    """What the encoder gives and the decoder takes."""
    return [embedding_value(sam)] if sam.family.name in ENCODERS else writing.map_values(sam)


def _padding(sam: Sam) -> Mapping[str, int]:
    """Points labelled −1 that the decoder wants behind prompts."""
    return PADDING if sam.family.name in ENCODERS else writing.padding_of(sam)


def _frame(graph: Graph, sam: Sam, image: str, size: int) -> str:
    """An image [height, width, 3] → a frame [1, 3, S, S], zeros at the right and below."""
    settings = sam.pixel_settings
    mean, std = (graph.constant([v / settings.factor for v in part]) for part in (settings.mean, settings.std))
    normal = graph.add("Div", graph.add("Sub", image, mean), std)
    sides = graph.add("Slice", graph.add("Shape", image), graph.constant([0], int), graph.constant([2], int))
    lacking = graph.add("Sub", graph.constant([size, size], int), sides)
    pads = graph.add("Concat", graph.constant([0, 0, 0], int), lacking, graph.constant([0], int), axis=0)
    padded = graph.add("Pad", normal, pads)
    return graph.add("Unsqueeze", graph.transpose(padded, 2, 0, 1), graph.constant([0], int))


def _settings(sam: Sam, manifest: Manifest, options: ExportOptions) -> dict[str, Any]:
    """What a client has to know of images and prompts."""
    settings = sam.pixel_settings
    return {
        "image_size": sam.image_size,
        "image_mean": settings.mean,
        "image_std": settings.std,
        "longest_side": settings.longest,
        "stretches": sam.family.framing.stretches,
        "resample": settings.resample,
        "rescale_factor": settings.factor,
        "raw_image": options.raw_image,
        "maps": [value.name for value in _maps(sam)],
        "padding": dict(_padding(sam)),
        "single": options.single,
        "source": manifest.source,
    }


def _metadata(sam: Sam, manifest: Manifest, options: ExportOptions, float_units: Mapping[str, str]) -> dict[str, str]:
    """What a reader of a file may want to know; `deployed` reads the first few."""
    values = {
        **_settings(sam, manifest, options),
        "recipe": manifest.recipe,
        "format_version": manifest.format_version,
        "units": {name: entry.model_dump(exclude_none=True) for name, entry in manifest.units.items()},
        "float_arithmetic": dict(float_units),
    }
    return {METADATA: json.dumps(values)}


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Check and write."""
    if model.ByteSize() > _PROTOBUF:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        onnx.save_model(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def _save(model: onnx.ModelProto, path: Path, backend: Backend) -> None:
    """Write a model as the backend takes it."""
    if backend.convert is None:
        save_onnx(model, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        save_onnx(model, source)
        backend.convert(source, path, model.metadata_props[0].value)
