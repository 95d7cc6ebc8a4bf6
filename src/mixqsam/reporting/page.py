"""The report: one HTML file that opens anywhere, offline, for people."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mixqsam.plan import Analysis, BitPlan
from mixqsam.reporting.network import network_svg, unit_facts
from mixqsam.reporting.record import Figures, Run
from mixqsam.reporting.scatter import Point, frontier, scatter_svg

# What may be known of a model's quality: field, heading, digits.
QUALITIES = (
    ("ap", "COCO mask AP", 1),
    ("truth_iou", "IoU with annotated masks", 3),
    ("mean_iou", "IoU with float masks", 3),
)
# As many units and pairs are told of, beside the picture.
_LEADING = 8
_TITLES = {
    "worst": "The image on which it does worst",
    "median": "A usual image: the median",
    "best": "The image on which it does best",
}


@dataclass(frozen=True)
class Evaluated:
    """Models that were compared on the same images.

    Attributes:
        about: what they were compared on.
        models: name → figures, the float model first.
    """

    about: str
    models: Mapping[str, Figures]


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        analysis: what was measured of the units.
        allocation: as JSON.
        run: what was measured of the models.
        pictures: file → JPEG.
        evaluation: of the model and others on images of the reader's.
        budgets: models at several budgets, the float one first; drawn as quality against size.
        notes: what the reader has to know of these.
    """

    analysis: Analysis
    allocation: Mapping[str, Any]
    run: Run
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    evaluation: Evaluated | None = None
    budgets: Mapping[str, Figures] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_page(material: Material) -> str:
    """The report as HTML; it refers to nothing outside of itself."""
    analysis, allocation, run = material.analysis, material.allocation, material.run
    plan = BitPlan.from_json(allocation["plan"])
    facts = unit_facts(analysis, plan, allocation["objective"])
    pairs = _pairs(facts)
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=_title(analysis.model),
            analysis=analysis,
            allocation=allocation,
            run=run,
            columns=_columns(run),
            budget=_budget(allocation),
            facts=facts,
            measure=facts[0]["measure"] if facts else None,
            network=Markup(network_svg(facts)),  # noqa: S704  (made by us; what it quotes is escaped there)
            histogram=_histogram(analysis, plan),
            leading=sorted(facts, key=lambda one: int(one["rank"]))[:_LEADING],
            pairs=pairs[:_LEADING],
            ties=sum(one["synergy"] == pairs[_LEADING - 1]["synergy"] for one in pairs[_LEADING:]),
            examples=_examples(material),
            evaluation=material.evaluation,
            pareto=_pareto(material.budgets),
            notes=material.notes,
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
    environment.filters |= {"megabytes": _megabytes, "giga": _giga, "breakable": _breakable}
    return environment


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.2f} MB"


def _giga(value: float) -> str:
    return f"{value / 1e9:,.1f}" if value < 1e11 else f"{value / 1e9:,.0f}"


def _breakable(name: str) -> Markup:
    """A dotted name that narrow columns may break after its dots."""
    return Markup(".<wbr>").join(name.split("."))


def _title(model: str) -> str:
    """A model's name: of a path, what it ends with."""
    return model.rstrip("/").rsplit("/", maxsplit=1)[-1]


def _columns(run: Run) -> list[tuple[str, Figures]]:
    """The models of a run, under the names that readers know them by."""
    names = {"uniform": "uniform {bits}", "mixed": "mixed bits"}
    return [(names.get(name, name).format(bits=one.bits), one) for name, one in run.models.items()]


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
    """Neighbours, those that depend on each other most first."""
    pairs = [
        {"first": one, "second": other, "synergy": one["synergy"]} for one, other in pairwise(facts) if one["synergy"]
    ]
    return sorted(pairs, key=lambda pair: -float(pair["synergy"]))


def _examples(material: Material) -> list[dict[str, Any]]:
    names = {"mixed": "mixed bits", "difference": "difference"}
    found = []
    for example in material.run.examples:
        pictures = [
            (names.get(name, name), "data:image/jpeg;base64," + base64.b64encode(material.pictures[file]).decode())
            for name, file in example.pictures.items()
            if file in material.pictures
        ]
        if pictures:
            found.append({"title": _TITLES[example.which], "about": example, "pictures": pictures})
    return found


def _pareto(budgets: Mapping[str, Figures]) -> dict[str, Any] | None:
    """The picture of quality against size, by the strictest quality that is known of all."""
    start = budgets.get("float")
    models = {name: one for name, one in budgets.items() if name != "float"}
    key, heading = next(
        ((k, h) for k, h, _ in QUALITIES if models and all(getattr(one, k) is not None for one in models.values())),
        (None, ""),
    )
    if key is None:
        return None
    points = [
        Point(name, "uniform" if one.bits else "mixed", one.size, float(getattr(one, key)))
        for name, one in models.items()
    ]
    level: float | None = 1.0 if key == "mean_iou" else getattr(start, key, None)
    svg = scatter_svg(points, level=level, quality=heading)
    return {
        "svg": Markup(svg),  # noqa: S704  (made by us; what it quotes is escaped there)
        "points": sorted(points, key=lambda one: one.size),
        "best": {one.label for one in frontier(points)},
        "quality": heading,
    }
