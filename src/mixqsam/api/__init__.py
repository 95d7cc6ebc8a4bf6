"""The Python interface: a function for each command of the command line, with the same names for the same options.

Errors are kinds of `MixqsamError`; their messages say what happened and what to do. `progress` receives the progress.
"""

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.api.deploying import benchmark, export, load, predict, predict_automatic, predictor, report, serve
from mixqsam.api.judging import detect, evaluate, evaluate_automatic, evaluate_oriented, evaluate_semantic
from mixqsam.api.making import allocate, analyze, compare, demo, quantize, recipes
from mixqsam.api.sharing import push
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import (
    AnnotationError,
    ArtifactError,
    BudgetError,
    DependencyError,
    HonestyError,
    ImageError,
    InputError,
    MixqsamError,
    ModelError,
    NumericError,
    OutputError,
    ParallelError,
)
from mixqsam.evaluation.automatic import AutomaticScores
from mixqsam.evaluation.evaluate import EvaluationResult
from mixqsam.evaluation.oriented_scores import OrientedScores
from mixqsam.evaluation.semantic import SemanticScores
from mixqsam.measurements import Analysis
from mixqsam.pipeline.benchmark import Benchmark
from mixqsam.pipeline.demo import DemoResult
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    CompareRequest,
    Data,
    Evaluation,
    Options,
    QuantizationOptions,
)
from mixqsam.pipeline.push import Push
from mixqsam.pipeline.quantize import Result
from mixqsam.pipeline.sharing import SharingOptions
from mixqsam.pipeline.tasks import DetectionOptions, OrientedData, SemanticData
from mixqsam.plan import BitPlan, Unit, UnitBits
from mixqsam.prediction import Prediction, Predictor
from mixqsam.progress import Progress
from mixqsam.prompts import Prompts
from mixqsam.quantization.custom import CustomRecipe
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.reporting.comparison import Comparison
from mixqsam.sam.automatic import Masks
from mixqsam.sam.automatic_options import Automatic
from mixqsam.sam.load import Sam
from mixqsam.transformers_hook import register

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
