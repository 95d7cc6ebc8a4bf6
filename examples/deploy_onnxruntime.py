"""Export a quantized SAM to ONNX Runtime, and use it there without PyTorch.

    python examples/deploy_onnxruntime.py out/ out-onnx/ photo.jpg --box 40 30 400 380 --mask mask.png

`out/` is a quantized directory. Copy `out-onnx/` to the device, and call `segment` there.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import mixqsam


def segment(directory: str, image: str, box: list[float]) -> tuple[np.ndarray, float]:
    """Run on the device, with mixqsam, numpy, Pillow and onnxruntime, but without PyTorch and transformers."""
    predictor = mixqsam.ExportedPredictor(directory, backend="onnx")
    predictor.set_image(Image.open(image))
    masks, scores, _ = predictor.predict(box=box, multimask_output=True)
    best = int(scores.argmax())
    return masks[best], float(scores[best])


def main() -> None:
    """Parse the command line, export, and write a mask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory that quantize wrote")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("image", help="photograph to segment")
    parser.add_argument("--box", type=float, nargs=4, required=True, metavar=("X1", "Y1", "X2", "Y2"))
    parser.add_argument("--mask", default="mask.png", help="picture to write")
    chosen = parser.parse_args()

    in_float = mixqsam.export(chosen.model, chosen.output, format="onnx")
    size = sum(path.stat().st_size for path in Path(chosen.output).iterdir())
    print(f"{chosen.output}: {size / 1e6:.2f} MB; {len(in_float)} units compute in float on their quantized values")

    mask, score = segment(chosen.output, chosen.image, chosen.box)
    Image.fromarray(mask.astype(np.uint8) * 255).save(chosen.mask)
    print(f"{chosen.mask}: {int(mask.sum()):,} pixels, predicted IoU {score:.3f}")


if __name__ == "__main__":
    main()
