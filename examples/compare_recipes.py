"""Compare recipes on your own data, and name the best within a budget.

    python examples/compare_recipes.py my-sam/ photos/ comparison/ --budgets W6A6 W4A4 --recipes omse ptq4sam-s qdrop

With `--annotations instances.json` (COCO) the quality is mask AP; otherwise it is the IoU with the float model's masks.
"""

import argparse
from pathlib import Path

import mixqsam


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="hub id, directory, .pth, or sam-tiny")
    parser.add_argument("images", help="folder of images for calibration and evaluation")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("--annotations", type=Path, default=None, help="COCO annotations of the images")
    parser.add_argument("--recipes", nargs="+", default=["minmax", "omse", "ptq4sam-s"])
    parser.add_argument("--budgets", nargs="+", default=["W6A6", "W4A4"])
    parser.add_argument("--calibration", type=int, default=32, help="number of calibration images")
    chosen = parser.parse_args()

    request = mixqsam.CompareRequest(
        recipes=chosen.recipes,
        budgets=chosen.budgets,
        options=mixqsam.Options(analysis=mixqsam.AnalysisOptions(count=chosen.calibration)),
    )
    data = mixqsam.Data(Path(chosen.images), annotations=chosen.annotations)
    comparison = mixqsam.compare(chosen.model, data, request=request, output=chosen.output)

    for budget in chosen.budgets:
        rows = [row for row in comparison.rows if row.budget == budget]
        best = max(rows, key=lambda row: (row.ap or 0.0, row.mean_iou))
        ap = "" if best.ap is None else f", AP {best.ap:.1f}"
        print(f"{budget}: {best.recipe} with {best.mode} bits, {best.size / 1e6:.2f} MB, IoU {best.mean_iou:.3f}{ap}")
    print(f"Tables and figure: {chosen.output}/comparison.md, comparison.svg")


if __name__ == "__main__":
    main()
