"""Mixed-precision post-training quantization of the Segment Anything Model (Mix-QSAM).

    import mixqsam

    result = mixqsam.quantize("sam-tiny", "photos/", budget="W4A4", output="out/")
    predictor = mixqsam.predictor("out/")

Names are loaded when first used: importing mixqsam loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mixqsam.registration import install

if TYPE_CHECKING:
    from mixqsam.api import (
        AllocationOptions,
        AnalysisOptions,
        CompareRequest,
        Data,
        Options,
        Prompts,
        QuantizationOptions,
        ReconstructionOptions,
        allocate,
        analyze,
        compare,
        evaluate,
        export,
        load,
        predictor,
        quantize,
    )
    from mixqsam.deployed.predictor import ExportedPredictor

__version__ = "0.1.0"

__all__ = [
    "AllocationOptions",
    "AnalysisOptions",
    "CompareRequest",
    "Data",
    "ExportedPredictor",
    "Options",
    "Prompts",
    "QuantizationOptions",
    "ReconstructionOptions",
    "allocate",
    "analyze",
    "compare",
    "evaluate",
    "export",
    "load",
    "predictor",
    "quantize",
]


# From here on transformers loads what mixqsam wrote.
install()


def __getattr__(name: str) -> Any:
    if name in __all__:
        # Exported models run without torch, which the rest of the interface loads.
        module = "mixqsam.deployed.predictor" if name == "ExportedPredictor" else "mixqsam.api"
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'mixqsam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
