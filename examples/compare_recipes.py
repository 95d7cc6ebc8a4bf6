"""Compare recipes on your own data, and name the best within a budget.

    python examples/compare_recipes.py my-sam/ photos/ comparison/ --budgets W6A6 W4A4 --recipes omse ptq4sam-s qdrop

With `--annotations instances.json` (COCO) quality is mask AP; without, it is the IoU with the float model's masks.
"""

import argparse
from pathlib import Path

import mixqsam


def main() -> None:
    """From the command line's words to a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="hub id, directory, .pth, or sam-tiny")
    parser.add_argument("images", help="folder of images; some calibrate, the others judge")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("--annotations", type=Path, default=None, help="COCO annotations of the images")
    parser.add_argument("--recipes", nargs="+", default=["minmax", "omse", "ptq4sam-s"])
    parser.add_argument("--budgets", nargs="+", default=["W6A6", "W4A4"])
    parser.add_argument("--calibration", type=int, default=32, help="images that calibrate")
    chosen = parser.parse_args()

    request = mixqsam.CompareRequest(
        recipes=chosen.recipes,
        budgets=chosen.budgets,
        options=mixqsam.Options(analysis=mixqsam.AnalysisOptions(count=chosen.calibration)),
    )
    data = mixqsam.Data(Path(chosen.images), annotations=chosen.annotations)
    found = mixqsam.compare(chosen.model, data, request=request, output=chosen.output)

    for budget in chosen.budgets:
        rows = [row for row in found.rows if row.budget == budget]
        best = max(rows, key=lambda row: (row.ap or 0.0, row.mean_iou))
        ap = "" if best.ap is None else f", AP {best.ap:.1f}"
        print(f"{budget}: {best.recipe} with {best.mode} bits, {best.size / 1e6:.2f} MB, IoU {best.mean_iou:.3f}{ap}")
    print(f"Tables and figure: {chosen.output}/comparison.md, comparison.svg")


if __name__ == "__main__":
    main()
