"""Shrink a fine-tuned SAM to a given size, and measure the loss of quality.

    python examples/shrink_finetuned.py my-sam/ photos/ 45MB out/

`my-sam/` is a directory that `SamModel.save_pretrained` wrote (or a Meta `.pth`, or a hub id), `photos/` some images of
your application. Afterwards open `out/report.html`; `out/` loads in transformers.
"""

import argparse

import mixqsam


def main() -> None:
    """Parse the command line and quantize."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the fine-tuned SAM")
    parser.add_argument("images", help="folder of images like those that it will see")
    parser.add_argument("size", help="size of the model, e.g. 45MB or 0.15x")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("--recipe", default="omse", help="qdrop learns the rounding: slower, better below 4 bits")
    chosen = parser.parse_args()

    # The whole decoder depends on the encoder's neck, so this example keeps it at 8 bits.
    options = mixqsam.Options(
        allocation=mixqsam.AllocationOptions(keep=("neck.*=8",)),
        quantization=mixqsam.QuantizationOptions(recipe=chosen.recipe),
    )
    # A size alone leaves all activations at 8 bits, which integer kernels use anyway.
    result = mixqsam.quantize(
        chosen.model, chosen.images, budget=f"size={chosen.size}", output=chosen.output, options=options
    )

    start, mixed = result.run.models["float"], result.run.models["mixed"]
    print(f"{start.size / 1e6:.1f} MB → {mixed.size / 1e6:.1f} MB")
    print(f"Its masks' IoU with the float model's: {mixed.mean_iou:.3f}")
    print("Bits of the weights:", sorted({bits.weight for bits in result.allocation.plan.bits.values()}))
    print(f"Report: {chosen.output}/report.html")


if __name__ == "__main__":
    main()
