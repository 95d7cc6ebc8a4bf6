"""Validated options and the session of a command, from its words; loaded only when one runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from mixqsam.allocation.program import Utility
from mixqsam.cli.console import Bars, err, out
from mixqsam.cli.shared import spoken
from mixqsam.errors import BudgetError, InputError
from mixqsam.files import Cache, default_cache
from mixqsam.numeric.observers import OBSERVERS
from mixqsam.parallel.engine import start
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    Checking,
    Data,
    Options,
    OrientedData,
    QuantizationOptions,
    SemanticData,
    Session,
)
from mixqsam.plan import CANDIDATE_BITS
from mixqsam.quantization.recipes import find_recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.sam.automatic import Automatic
from mixqsam.sam.load import check_device


def data(
    images: Path, *, annotations: Path | None, detections: Path | None, grid: int, skip_missing: bool = False
) -> Data:
    """Images and prompts of a command."""
    return Data(images, annotations, detections, grid, skip_missing)


def optional_data(
    images: Path | None, *, annotations: Path | None, detections: Path | None, grid: int, skip_missing: bool = False
) -> Data | None:
    """Images and prompts of a command that can do without.

    Raises:
        InputError: annotations or boxes without images.
    """
    if images is None and (annotations or detections):
        raise InputError("Annotations and boxes need the folder of their images.")
    if images is None:
        return None
    return data(images, annotations=annotations, detections=detections, grid=grid, skip_missing=skip_missing)


def checking(source: Data | None, *, limit: int | None) -> Checking:
    """On what a result is compared with the float model; without a limit all images that are named for it, or 8."""
    return Checking(source, limit if limit is not None or source else Checking().limit)


def parse_candidates(text: str, *, option: str) -> tuple[int, ...]:
    """`2-8` or `2,4,8` → bit-widths, ascending; an empty text gives none.

    Raises:
        BudgetError: not whole numbers from 2 to 8.
    """
    found: set[int] = set()
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise BudgetError(f"{option} {text!r}: write bit-widths as 2-8 or 2,4,8.") from error
    if not found <= set(CANDIDATE_BITS):
        raise BudgetError(f"{option} {text!r}: bit-widths go from {CANDIDATE_BITS[0]} to {CANDIDATE_BITS[-1]}.")
    return tuple(sorted(found))


def one_of(value: str, known: Sequence[str], *, option: str) -> str:
    """A word, if it is one of those that are known.

    Raises:
        InputError: it is not; the message lists them.
    """
    if value not in known:
        raise InputError(f"{option} {value!r} is unknown; choose {', '.join(known)}.")
    return value


def analysis_options(
    count: int, prompts: int, *, observer: str, bits: str, pairs: bool, prompts_per_image: int, seed: int = 0
) -> AnalysisOptions:
    """Validated options of an analysis."""
    return AnalysisOptions(
        count=count,
        prompts=prompts,
        observer=one_of(observer, list(OBSERVERS), option="--observer"),
        pairs=pairs,
        sensitivity_bits=parse_candidates(bits, option="--sensitivity-bits"),
        prompts_per_image=prompts_per_image,
        seed=seed,
    )


def allocation_options(
    output: str,
    utility: str,
    *,
    synergy: str,
    coupling: float,
    free: bool,
    candidates: str,
    keep: Sequence[str] | None,
    time_limit: float,
) -> AllocationOptions:
    """Validated options of an allocation."""
    known: tuple[Utility, ...] = get_args(Utility)
    one_of(utility, known, option="--utility")
    bits = parse_candidates(candidates, option="--candidates")
    if not bits:
        raise BudgetError("--candidates names no bit-width.")
    return AllocationOptions(
        output=one_of(output, ("bernoulli", "spatial"), option="--output-distribution"),
        utility=next(u for u in known if u == utility),
        synergy=one_of(synergy, ("proximity", "interaction"), option="--synergy"),
        coupling=coupling,
        tied=not free,
        candidates=bits,
        keep=tuple(keep or ()),
        time_limit=time_limit,
    )


def quantization_options(recipe: str, *, iterations: int, batch: int, seed: int) -> QuantizationOptions:
    """Validated options of a quantization."""
    return QuantizationOptions(
        find_recipe(recipe).name, ReconstructionOptions(iterations=iterations, batch=batch, seed=seed)
    )


def all_options(analysis: AnalysisOptions, allocation: AllocationOptions, quantization: QuantizationOptions) -> Options:
    """The options of a whole job."""
    return Options(analysis, allocation, quantization)


def oriented_data(
    images: Path, labels: Path, *, boxes: Path | None, tile: int, overlap: int, merge: float
) -> OrientedData:
    """An oriented data set of a command.

    Raises:
        InputError: the overlap does not fit the tile.
    """
    if overlap >= tile:
        raise InputError(f"--overlap {overlap} does not fit tiles of {tile} pixels; it has to be smaller.")
    return OrientedData(images, labels, boxes, tile, overlap, merge)


def semantic_data(images: Path, labels: Path, *, prompts: str, background: int | None, least: int) -> SemanticData:
    """A data set of label maps of a command."""
    return SemanticData(images, labels, one_of(prompts, ("boxes", "points"), option="--prompts"), background, least)


def automatic_options(side: int, *, predicted_iou: float, stability: float, overlap: float) -> Automatic:
    """How masks are made when everything is segmented."""
    return Automatic(side, predicted_iou, stability, overlap)


def session(cache: Path | None, device: str = "cpu", *, processes: int | None = None, group: bool = False) -> Session:
    """The session of a command; `group` where it may be one of several processes that torchrun launched."""
    check_device(device)
    Cache(cache or default_cache()).sweep()
    if not group:
        return Session(Cache(cache or default_cache()), Bars(), device, command=spoken())
    engine = start(processes=processes, device=device)
    if engine.rank:
        # Rank 0 speaks for all.
        out.quiet = err.quiet = True
    own = getattr(engine, "device", device) if device == "cuda" else device
    return Session(Cache(cache or default_cache(), patient=engine.world > 1), Bars(), own, engine, command=spoken())
