"""Write the report: one HTML file that opens offline."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mixqsam.measurements import Analysis
from mixqsam.options.numbers import format_giga
from mixqsam.plan import BitPlan
from mixqsam.reporting.histogram import histogram_svg
from mixqsam.reporting.network import network_svg, unit_facts
from mixqsam.reporting.record import Figures, Run, Search
from mixqsam.reporting.scatter import Level, Point, frontier, scatter_svg
from mixqsam.reporting.searched import HEADINGS, describe_search, search_svg
from mixqsam.reporting.verdict import describe_verdict

# Measures of quality: field, heading, digits.
QUALITIES = (
    ("ap", "COCO mask AP", 1),
    ("truth_iou", "IoU with annotated masks", 3),
    ("mean_iou", "IoU with float masks", 3),
)
# Maximum rows of the tables of units and pairs.
_MAX_LISTED = 8
_TITLES = {
    "worst": "Worst image",
    "median": "Median image",
    "best": "Best image",
}


@dataclass(frozen=True)
class EvaluatedModels:
    """Models that were compared on the same images.

    Attributes:
        about: description of the images.
        models: name → figures, the float model first.
    """

    about: str
    models: Mapping[str, Figures]


@dataclass(frozen=True)
class ReportContent:
    """Content of a report.

    Attributes:
        analysis: importance and synergy of the units.
        allocation: allocation as JSON.
        run: record of the run.
        pictures: file → JPEG.
        evaluation: the model and others on the reader's images.
        budgets: models at several budgets, the float model first; drawn as quality against size.
        notes: notes for the reader about `budgets`.
    """

    analysis: Analysis
    allocation: Mapping[str, Any]
    run: Run
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    evaluation: EvaluatedModels | None = None
    budgets: Mapping[str, Figures] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_page(content: ReportContent) -> str:
    """Write the report as HTML; it needs no other file."""
    analysis, allocation, run = content.analysis, content.allocation, content.run
    plan = BitPlan.from_json(allocation["plan"])
    facts = unit_facts(analysis, plan, allocation["objective"])
    pairs = _pairs(facts)
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=_shorten_model(analysis.model),
            analysis=analysis,
            allocation=allocation,
            run=run,
            verdict=describe_verdict(run),
            ious=_ious(run),
            columns=_columns(run),
            own=_columns(run)[-1][0],
            budget=_budget(allocation),
            facts=facts,
            measure=facts[0]["measure"] if facts else None,
            network=Markup(network_svg(facts)),  # noqa: S704  (our SVG; it escapes quoted text)
            histogram=_histogram(analysis, plan),
            leading=sorted(facts, key=lambda fact: int(fact["rank"]))[:_MAX_LISTED],
            pairs=pairs[:_MAX_LISTED],
            ties=sum(pair["synergy"] == pairs[_MAX_LISTED - 1]["synergy"] for pair in pairs[_MAX_LISTED:]),
            examples=_examples(content),
            evaluation=content.evaluation,
            search=_search(run.search),
            pareto=_pareto(content.budgets),
            notes=content.notes,
            qualities=QUALITIES,
            total=sum(run.seconds.values()) or 1.0,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mixqsam.reporting"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"megabytes": _format_megabytes, "giga": format_giga, "breakable": _make_breakable}
    return environment


def _format_megabytes(value: float) -> str:
    return f"{value / 1e6:,.2f} MB"


def _make_breakable(name: str) -> Markup:
    """Allow line breaks after the dots of a name."""
    return Markup(".<wbr>").join(name.split("."))


def _shorten_model(model: str) -> str:
    """Shorten a model's path to its last part."""
    return model.rstrip("/").rsplit("/", maxsplit=1)[-1]


def _columns(run: Run) -> list[tuple[str, Figures]]:
    """Name the models of a run for readers."""
    names = {"uniform": "uniform {bits}", "mixed": "mixed bits"}
    return [(names.get(name, name).format(bits=figures.bits), figures) for name, figures in run.models.items()]


def _budget(allocation: Mapping[str, Any]) -> list[dict[str, Any]]:
    limits = allocation["budget"]
    return [
        {
            "name": name,
            "used": allocation[key],
            "limit": limits[key],
            "share": allocation[key] / limits[key],
            "key": key,
        }
        for key, name in (("size", "size"), ("bitops", "BitOps per image"))
        if limits[key]
    ]


def _histogram(analysis: Analysis, plan: BitPlan) -> list[dict[str, Any]]:
    """Bit-width → share of the weights, number of units with such activations."""
    weights: Counter[int] = Counter()
    for unit in analysis.units:
        weights[plan.bits[unit.name].weight] += unit.parameters
    activations = Counter(plan.bits[unit.name].activation for unit in analysis.units)
    total = max(1, sum(weights.values()))
    return [
        {"bits": bits, "weights": weights[bits] / total, "activations": activations[bits]}
        for bits in sorted(set(weights) | set(activations))
    ]


def _pairs(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of neighbours, those with the highest synergy first."""
    pairs = [
        {"first": fact, "second": next_fact, "synergy": fact["synergy"]}
        for fact, next_fact in pairwise(facts)
        if fact["synergy"]
    ]
    return sorted(pairs, key=lambda pair: -float(pair["synergy"]))


def _examples(content: ReportContent) -> list[dict[str, Any]]:
    names = {"mixed": "mixed bits", "difference": "difference"}
    examples = []
    for example in content.run.examples:
        pictures = [
            (names.get(name, name), "data:image/jpeg;base64," + base64.b64encode(content.pictures[file]).decode())
            for name, file in example.pictures.items()
            if file in content.pictures
        ]
        if pictures:
            examples.append({"title": _TITLES[example.which], "about": example, "pictures": pictures})
    return examples


def _ious(run: Run) -> Markup | None:
    """Draw the prompts of the uniform and of the chosen model by their IoU; None where they were not counted."""
    if not run.quantized.iou_counts:
        return None
    models = {name: run.models[name].iou_counts for name in ("uniform", "mixed") if name in run.models}
    svg = histogram_svg({name: counts for name, counts in models.items() if counts})
    return Markup(svg)  # noqa: S704  (our SVG; it escapes quoted text)


def _search(search: Search | None) -> dict[str, Any] | None:
    """Describe the search of a run and draw its curve; None without one."""
    if search is None:
        return None
    return {
        "sentences": describe_search(search),
        "svg": Markup(search_svg(search)),  # noqa: S704  (our SVG; it escapes quoted text)
        "tried": search.tried,
        "size": search.size,
        "target": search.target,
        "quality": HEADINGS[search.metric],
    }


def _pareto(budgets: Mapping[str, Figures]) -> dict[str, Any] | None:
    """Draw quality against size, with the first measure of quality that all models have."""
    start = budgets.get("float")
    models = {name: figures for name, figures in budgets.items() if name != "float"}
    key, heading = next(
        (
            (k, h)
            for k, h, _ in QUALITIES
            if models and all(getattr(figures, k) is not None for figures in models.values())
        ),
        (None, ""),
    )
    if key is None:
        return None
    points = [
        Point(name, "uniform" if figures.bits else "mixed", figures.size, float(getattr(figures, key)))
        for name, figures in models.items()
    ]
    float_quality: float | None = 1.0 if key == "mean_iou" else getattr(start, key, None)
    level = None if float_quality is None else Level("float", float_quality)
    svg = scatter_svg(points, level=level, quality=heading)
    return {
        "svg": Markup(svg),  # noqa: S704  (our SVG; it escapes quoted text)
        "points": sorted(points, key=lambda point: point.size),
        "best": {point.label for point in frontier(points)},
        "quality": heading,
    }
