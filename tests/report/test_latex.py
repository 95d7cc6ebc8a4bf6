from dataclasses import replace

from mixqsam.reporting.comparison import Comparison, Mode, Row
from mixqsam.reporting.latex import to_latex


def row(recipe: str, budget: str, mode: Mode, iou: float, ap: float | None = None) -> Row:
    return Row(recipe, budget, mode, "", 1e6, 1e9, ap, None, iou, 1.0)


COMPARISON = Comparison(
    model="my_sam",
    calibration=32,
    evaluation=50,
    float_row=row("float", "", "float", 1.0),
    rows=[
        row("omse", "W6A6", "uniform", 0.81),
        row("omse", "W6A6", "mixed", 0.92),
        row("omse", "W4A4", "mixed", 0.7),
        row("brecq", "W6A6", "mixed", 0.93),
    ],
    settings={},
)


def test_the_table_has_a_row_for_each_method_and_a_column_for_each_budget() -> None:
    lines = to_latex(COMPARISON).splitlines()
    assert lines[0] == r"\begin{tabular}{llrr}"
    assert r"Method & Bits & W6A6 & W4A4 \\" in lines
    assert r"Float & 32 & 1.000 & 1.000 \\" in lines
    assert r"omse & uniform & 0.810 & -- \\" in lines
    # The best of each column is bold.
    assert r"omse & mixed & 0.920 & \textbf{0.700} \\" in lines
    assert r"brecq & mixed & \textbf{0.930} & -- \\" in lines
    assert lines[-1].startswith(r"% my\_sam. Mean IoU with the float masks; 50 images")


def test_with_annotations_the_figure_is_ap() -> None:
    rows = [replace(one, ap=30 + index) for index, one in enumerate(COMPARISON.rows)]
    lines = to_latex(replace(COMPARISON, float_row=row("float", "", "float", 1.0, 41.25), rows=rows)).splitlines()
    assert r"Float & 32 & 41.2 & 41.2 \\" in lines
    assert r"brecq & mixed & \textbf{33.0} & -- \\" in lines
    assert ". AP; " in lines[-1]
