"""What the commands that use finished models do once their words are parsed."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixqsam.cli.console import Table, out
from mixqsam.cli.outcome import Outcome
from mixqsam.cli.parsing import one_of, session
from mixqsam.data.demo import EVALUATION, demo_samples
from mixqsam.data.images import list_images, open_image
from mixqsam.deployed.backends import BACKENDS
from mixqsam.errors import AnnotationError, ImageError, InputError
from mixqsam.files import write_bytes, write_json
from mixqsam.pipeline.benchmark import installed_backends, run_benchmark
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.stages import BACKEND_NAMES, make_predictor
from mixqsam.prompts import Prompts, clip_boxes, point_prompt
from mixqsam.report.overlay import draw_overlay, mask_image, png_bytes


def predict(
    image: Path,
    *,
    model: str,
    boxes: Sequence[str],
    points: Sequence[str],
    output: Path,
    overlay: Path | None,
    backend: str | None,
) -> Outcome:
    """`mixqsam predict`."""
    picture = open_image(image)
    prompts = _prompts(boxes, points, width=picture.width, height=picture.height)
    predictor = make_predictor(model, backend=backend)
    predictor.set_image(picture)
    prediction = predictor.segment(prompts)
    masks = prediction.masks[:, 0]
    write_bytes(output, png_bytes(mask_image(masks)))
    made = {output: "mask"}
    if overlay is not None:
        write_bytes(overlay, png_bytes(draw_overlay(picture, masks, prompts)))
        made[overlay] = "the mask on the image"
    found = [
        {"pixels": int(mask.sum()), "predicted_iou": float(score)}
        for mask, score in zip(masks, prediction.scores[:, 0], strict=True)
    ]
    lines = [
        f"mask {index}: {one['pixels']:,} pixels, predicted IoU {one['predicted_iou']:.3f}"
        for index, one in enumerate(found, start=1)
    ]
    following = {f"mixqsam serve {model}": "draw boxes and click points in the browser"}
    return Outcome(data={"masks": found}, lines=lines, made=made, next=following)


def serve(models: Sequence[str], *, images: Path | None, host: str, port: int) -> Outcome:
    """`mixqsam serve`."""
    try:
        from mixqsam.serve.run import LOOPBACK, serve
        from mixqsam.serve.studio import gather
    except ImportError as error:
        raise InputError(f"The page needs {error.name}: pip install 'mixqsam[serve]'.") from error
    chosen = gather(models)

    def ready(address: str) -> None:
        out.print(f"Serving {', '.join(chosen)} at [bold]{address}[/] (Ctrl-C stops it)", highlight=False)
        if host not in LOOPBACK:
            out.print("[yellow]Everybody who reaches this address can use it; there is no password.[/]")

    serve(chosen, _samples(images), host=host, port=port, ready=ready)
    return Outcome()


# More thumbnails than these nobody looks through.
_SAMPLES = 24


def _samples(folder: Path | None) -> dict[str, Path]:
    """Images to choose from: a folder's, or those of the demonstration where they are installed."""
    if folder is not None:
        return {str(path.relative_to(folder)): path for path in list_images(folder)[:_SAMPLES]}
    try:
        return {sample.path.name: sample.path for sample in demo_samples(EVALUATION)}
    except ImageError:
        return {}


def export(model: Path, *, output: Path, kind: str, single: bool, raw_image: bool, overwrite: bool) -> Outcome:
    """`mixqsam export`."""
    found = run_export(
        model,
        output,
        kind=one_of(kind, list(BACKENDS), option="--format"),
        session=session(None),
        single=single,
        raw_image=raw_image,
        overwrite=overwrite,
    )
    lines = []
    for reason, count in Counter(found.float_units.values()).items():
        first = next(name for name, why in found.float_units.items() if why == reason)
        lines.append(f"{count} units compute with their quantized values in float arithmetic ({reason}), e.g. {first}")
    return Outcome(
        data={"directory": str(output), "files": dict(found.files), "float_units": dict(found.float_units)},
        lines=lines,
        made={output / name: f"{size / 1e6:.2f} MB" for name, size in found.files.items()},
        next={
            f"mixqsam predict IMAGE --model {output} --box x1,y1,x2,y2": "run it",
            f"mixqsam benchmark {model}": "see how fast it is here",
        },
    )


def benchmark(
    model: Path, *, backends: str, image: Path | None, runs: int, memory: bool, output: Path | None
) -> Outcome:
    """`mixqsam benchmark`."""
    names = [name.strip() for name in backends.split(",") if name.strip()] or installed_backends()
    found = run_benchmark(
        model,
        backends=[one_of(name, BACKEND_NAMES, option="--backends") for name in names],
        image=None if image is None else open_image(image),
        runs=runs,
        memory=memory,
        session=session(None),
    )
    rows = [
        [
            row.name,
            f"{row.encoder * 1e3:,.0f} ms",
            f"{row.speedup:.2f}×",
            f"{row.decoder * 1e3:,.0f} ms",
            "–" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
            f"{row.file_bytes / 1e6:.2f} MB",
        ]
        for row in found.rows
    ]
    title = f"Medians of {runs} runs, image of {found.image[0]}×{found.image[1]}"
    columns = ["", "image (encoder)", "speed", "prompt (decoder)", "peak memory", "files"]
    if output is not None:
        write_json(output, found.to_json())
    return Outcome(
        data=found.to_json(),
        tables=[Table(title, columns, rows)],
        lines=[f"In theory {found.size / 1e6:.2f} MB, {found.bitops / 1e9:,.0f} GBitOps per image"],
        made={} if output is None else {output: "these figures as JSON"},
        next={f"mixqsam export {model} --format openvino -o {model}-openvino": "files for a faster backend (or onnx)"},
    )


def _prompts(boxes: Sequence[str], points: Sequence[str], *, width: int, height: int) -> Prompts:
    if bool(boxes) == bool(points):
        raise InputError("Give --box (one or more) or --point (one or more), and not both.")
    if boxes:
        corners = np.array([_numbers(box, "--box", (4,)) for box in boxes])
        return Prompts(boxes=clip_boxes(corners, width=width, height=height, source="--box"))
    numbers = [_numbers(point, "--point", (2, 3)) for point in points]
    labelled = np.array([n if len(n) == 3 else [*n, 1] for n in numbers], dtype=np.float64)
    return point_prompt(labelled, width=width, height=height, source="--point")


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not np.isfinite(values).all():
        form = "x1,y1,x2,y2" if counts == (4,) else "x,y or x,y,label"
        raise AnnotationError(f"{option} {text!r}: write {form}.")
    return values
