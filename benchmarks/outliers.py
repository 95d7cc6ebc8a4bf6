"""How much further the widest channel of each encoder normalisation reaches than its median one.

    python -m benchmarks.outliers --coco COCO_FOLDER

For `sam-tiny`, its hard twin (benchmarks.hardened) and MobileSAM, on four images of train2017, as the recipe
`compensated` looks at them. Half a minute.
"""

import argparse
from pathlib import Path

from benchmarks.hardened import harden
from benchmarks.mobile_encoders import coco_data
from mixqsam.files import write_json
from mixqsam.pipeline.options import AnalysisOptions
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import calibration_samples
from mixqsam.progress import Silent
from mixqsam.quantization.steps.outliers import OUTLIER_IMAGES, OutlierMeter
from mixqsam.sam.load import load_sam

OUTPUT = Path("docs/data/outliers.json")


def main() -> None:
    """Measure, print the extremes, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    arguments = parser.parse_args()
    options, session = AnalysisOptions(count=OUTLIER_IMAGES), Session(progress=Silent())
    samples = calibration_samples(coco_data(arguments.coco, "train"), options, session)
    tiny, found = load_sam("sam-tiny"), {}
    for name, sam in (("sam-tiny", tiny), ("sam-tiny-hard", harden(tiny)), ("mobile-sam", load_sam("mobile-sam"))):
        found[name] = OutlierMeter(sam, samples, cache=session.cache).find(Silent())
        print(f"{name}: {min(found[name].values()):.1f} to {max(found[name].values()):.1f}", flush=True)
    write_json(OUTPUT, found)


if __name__ == "__main__":
    main()
