"""Mixed-precision post-training quantization of the Segment Anything Model (Mix-QSAM).

    import mixqsam

    result = mixqsam.quantize("sam-tiny", "photos/", budget="W4A4", output="out/")
    predictor = mixqsam.predictor("out/")

Names are loaded at their first use: importing mixqsam loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mixqsam.transformers_hook import register

if TYPE_CHECKING:
    from mixqsam.api import (
        Allocation,
        AllocationOptions,
        Analysis,
        AnalysisOptions,
        AnnotationError,
        ArtifactError,
        Automatic,
        AutomaticScores,
        Benchmark,
        BitPlan,
        Budget,
        BudgetError,
        CompareRequest,
        Comparison,
        CustomRecipe,
        Data,
        DemoResult,
        DependencyError,
        DetectionOptions,
        Evaluation,
        EvaluationResult,
        ExportedPredictor,
        HonestyError,
        ImageError,
        InputError,
        Masks,
        MixqsamError,
        ModelError,
        NumericError,
        Options,
        OrientedData,
        OrientedScores,
        OutputError,
        ParallelError,
        Prediction,
        Predictor,
        Progress,
        Prompts,
        Push,
        QuantizationOptions,
        Recipe,
        ReconstructionOptions,
        Result,
        Sam,
        SemanticData,
        SemanticScores,
        SharingOptions,
        Unit,
        UnitBits,
        allocate,
        analyze,
        benchmark,
        compare,
        demo,
        detect,
        evaluate,
        evaluate_automatic,
        evaluate_oriented,
        evaluate_semantic,
        export,
        load,
        predict,
        predict_automatic,
        predictor,
        push,
        quantize,
        recipes,
        report,
        serve,
    )

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "AllocationOptions",
    "Analysis",
    "AnalysisOptions",
    "AnnotationError",
    "ArtifactError",
    "Automatic",
    "AutomaticScores",
    "Benchmark",
    "BitPlan",
    "Budget",
    "BudgetError",
    "CompareRequest",
    "Comparison",
    "CustomRecipe",
    "Data",
    "DemoResult",
    "DependencyError",
    "DetectionOptions",
    "Evaluation",
    "EvaluationResult",
    "ExportedPredictor",
    "HonestyError",
    "ImageError",
    "InputError",
    "Masks",
    "MixqsamError",
    "ModelError",
    "NumericError",
    "Options",
    "OrientedData",
    "OrientedScores",
    "OutputError",
    "ParallelError",
    "Prediction",
    "Predictor",
    "Progress",
    "Prompts",
    "Push",
    "QuantizationOptions",
    "Recipe",
    "ReconstructionOptions",
    "Result",
    "Sam",
    "SemanticData",
    "SemanticScores",
    "SharingOptions",
    "Unit",
    "UnitBits",
    "allocate",
    "analyze",
    "benchmark",
    "compare",
    "demo",
    "detect",
    "evaluate",
    "evaluate_automatic",
    "evaluate_oriented",
    "evaluate_semantic",
    "export",
    "load",
    "predict",
    "predict_automatic",
    "predictor",
    "push",
    "quantize",
    "recipes",
    "register",
    "report",
    "serve",
]

# Names that load without torch: exported models run without it.
_LIGHT = {
    "ExportedPredictor": "mixqsam.deployed.predictor",
    "Prompts": "mixqsam.prompts",
}

# transformers can load quantized directories from here on.
register()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_LIGHT.get(name, "mixqsam.api")), name)
    raise AttributeError(f"module 'mixqsam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
