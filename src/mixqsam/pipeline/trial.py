"""Make a model of other bits from a quantized directory, to be tried: rounded to nearest, in memory."""

from pathlib import Path
from typing import Any

from mixqsam.allocation.quality import QualityTarget
from mixqsam.data.demo import CALIBRATION
from mixqsam.data.samples import Sample
from mixqsam.errors import InputError, MixqsamError
from mixqsam.options.fields import Nested
from mixqsam.options.flat import assemble, flatten
from mixqsam.options.values import convert
from mixqsam.pipeline.demo import DemoData
from mixqsam.pipeline.evaluate import float_source
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, QuantizationOptions
from mixqsam.pipeline.report import read_run
from mixqsam.pipeline.search_images import choose_search_images
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import calibration_samples, load_float, quantize_model
from mixqsam.plan import BitPlan
from mixqsam.prediction import Predictor
from mixqsam.progress import Progress
from mixqsam.reporting.record import NAME, Run
from mixqsam.runtime.build import integer_model
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

# Rounds to nearest, and learns nothing: seconds where others take minutes.
_ROUNDING = QuantizationOptions("omse")


class TrialMaker:
    """Makes models with other bits than those of a quantized directory; keeps the float model between them.

    Args:
        directory: a directory that `quantize` wrote, with the record of its run.

    Raises:
        InputError: the directory does not tell the images that it was calibrated on, or they are not at hand.
        ArtifactError: the record cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        run = _read_record(directory)
        self._run, self._data = run, _find_images(run, directory)
        self._options = AnalysisOptions(**_convert(AnalysisOptions, run, directory, Nested(without=("observer",))))
        self._grids = Session().grids
        self._ready: tuple[Sam, list[Sample]] | None = None

    def make(self, plan: BitPlan, progress: Progress) -> Predictor:
        """Quantize the float model with these bits, every weight rounded to nearest.

        Args:
            plan: bits of every unit.
            progress: receives the steps.

        Raises:
            MixqsamError: the float model or an image cannot be loaded, or the bits do not fit the model.
        """
        session = Session(progress=progress, grids=self._grids)
        sam, samples = self._prepare(session)
        quantized = quantize_model(sam, plan, samples, options=_ROUNDING, session=session)
        return SamPredictor(integer_model(quantized.sam))

    def _prepare(self, session: Session) -> tuple[Sam, list[Sample]]:
        if self._ready is None:
            sam = load_float(float_source(self._directory), session)
            self._ready = sam, self._calibration_samples(session)
        return self._ready

    def _calibration_samples(self, session: Session) -> list[Sample]:
        """The images of the run, so that its calibration is found in the cache."""
        search = self._run.search
        if search is None:
            return calibration_samples(self._data, self._options, session)
        evaluation = Evaluation(**_convert(Evaluation, self._run, self._directory, Nested(prefix="eval_")))
        target = QualityTarget(search.metric, search.target)
        chosen = choose_search_images(self._data, evaluation, options=self._options, target=target, session=session)
        return list(chosen.calibration)


def find_obstacle(directory: Path) -> str | None:
    """Say why no other model can be made from a directory; None if one can be."""
    try:
        TrialMaker(directory)
    except MixqsamError as error:
        return str(error)
    return None


def _read_record(directory: Path) -> Run:
    """Read the record of the run.

    Raises:
        InputError: there is none, or it is of a version that kept no options.
    """
    run = read_run(directory) if (directory / NAME).is_file() else None
    if run is None or not run.options:
        raise InputError(
            f"{directory.name} does not record the images that it was calibrated on; make it again with "
            "`mixqsam quantize`."
        )
    return run


def _find_images(run: Run, directory: Path) -> Source:
    """Find the calibration images of a run.

    Raises:
        InputError: no option named them, or their folder is not on this machine.
    """
    if "images" not in run.options:
        names = {Path(name).name for name in run.calibration.images} if run.calibration else set()
        if names == {name for _, name, _ in CALIBRATION}:
            return DemoData()
        raise InputError(f"{directory.name} was calibrated on images that no option named; they cannot be found again.")
    data = Data(**_convert(Data, run, directory))
    for path in (data.images, data.annotations, data.only_boxes):
        if path is not None and not path.exists():
            raise InputError(f"{directory.name} was calibrated on {path}, which is not on this machine.")
    return data


def _convert(kind: type[Any], run: Run, directory: Path, nested: Nested | None = None) -> dict[str, Any]:
    """Make the arguments of a class of options from what a run recorded."""
    entries = [entry for entry in flatten(kind, nested) if entry.name in run.options]
    values = {
        entry.name: convert(entry, run.options[entry.name], label=f"{directory / NAME}: {entry.name}")
        for entry in entries
    }
    return assemble(kind, values, nested)
