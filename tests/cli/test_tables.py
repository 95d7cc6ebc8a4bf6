"""Tables of the command line."""

from mixqsam.cli.console import models_table
from mixqsam.cli.tables import quality
from mixqsam.evaluation.evaluate import EvaluationResult, Fidelity

FLOAT = EvaluationResult(images=1, prompts=2, coco=None, truth_iou=0.5, fidelity=None)
OTHER = EvaluationResult(images=1, prompts=2, coco=None, truth_iou=0.4, fidelity=Fidelity(0.75, {"bernoulli": 0.01}))


def test_the_float_model_agrees_with_itself() -> None:
    table = models_table("", quality({"float": FLOAT, "out": OTHER}))
    assert table.rows == [
        ["mean IoU to truth", "0.500", "0.400"],
        ["mean IoU to float", "1.000", "0.750"],
        ["KL to float", "0", "1.00e-02"],
    ]


def test_a_float_model_alone_is_not_compared_with_itself() -> None:
    assert models_table("", quality({"float": FLOAT})).rows == [["mean IoU to truth", "0.500"]]
