"""Options that several commands share, with their help."""

from pathlib import Path
from typing import Annotated

from mixqsam.options.fields import Nested, Option
from mixqsam.pipeline.options import Data

Model = Annotated[
    str,
    Option(
        "Float model: sam-tiny, mobile-sam, a hub id, a directory, or a checkpoint of the model's own project.",
        flags=("--model", "-m"),
    ),
]
ImageSize = Annotated[
    int | None,
    Option(
        "Side of the frame in pixels, smaller than the checkpoint's: faster, and less exact.",
        minimum=1,
        is_advanced=True,
        default_help="that of the checkpoint",
    ),
]
AnyModel = Annotated[
    str,
    Option(
        "Quantized or exported directory, or a float model: sam-tiny, mobile-sam, a hub id, a directory, or a "
        "checkpoint of the model's own project.",
        flags=("--model", "-m"),
    ),
]
Models = Annotated[tuple[str, ...], Option("Quantized directories or float models.", is_argument=True)]
OutputDirectory = Annotated[Path, Option("Directory to write.", flags=("--output", "-o"))]
OutputFile = Annotated[Path | None, Option("JSON file to write.", flags=("--output", "-o"), is_written=True)]
RequiredFile = Annotated[Path, Option("JSON file to write.", flags=("--output", "-o"), is_written=True)]
Overwrite = Annotated[bool, Option("Replace an output that mixqsam wrote.")]
Limit = Annotated[int | None, Option("Maximum number of images: the first ones.", minimum=1)]
Reference = Annotated[str | None, Option("The float model.", default_help="the origin of the first model")]
KeepEmbeddings = Annotated[
    bool,
    Option(
        "Cache the float model's image embeddings, so that it encodes each image once.", flags=("--keep-embeddings",)
    ),
]
Cache = Annotated[
    Path | None,
    Option(
        "Folder in which finished stages are cached.",
        is_advanced=True,
        default_help="$MIXQSAM_CACHE or ~/.cache/mixqsam",
    ),
]
Device = Annotated[str, Option("Device of the computation: cpu, cuda, cuda:1 and so on.")]
Processes = Annotated[
    int | None,
    Option("Number of processes that torchrun has launched; they share the work.", minimum=1, is_advanced=True),
]

# Without the user's images, the command takes images of its own.
OptionalData = Annotated[Data | None, Nested()]
ImagesAlone = Annotated[Data, Nested(without=("boxes", "grid"))]
