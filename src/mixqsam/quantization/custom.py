"""A recipe of a user's own, put together from the parts that there are; loads none of them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any

from mixqsam.errors import InputError
from mixqsam.options.fields import Option
from mixqsam.options.flat import flat_values, flatten
from mixqsam.options.names import RECIPE_NAMES, Observer, Reconstruction, Step
from mixqsam.options.values import OptionClass, convert, quote


@dataclass(frozen=True)
class CustomRecipe(OptionClass):
    """Parts of a recipe.

    Attributes:
        observer: of activations.
        weight_observer: of weights.
        steps: choose other quantizers for some activations, in turn; `bimodal` and `folding` rewrite the float model
            first.
        method: how the rounding is found: to nearest, or learned as the recipe of that name does.
    """

    observer: Annotated[Observer, Option("How ranges of activations are found.")] = "omse"
    weight_observer: Annotated[Observer, Option("How ranges of weights are found.")] = "omse"
    steps: Annotated[tuple[Step, ...], Option("Steps that choose other quantizers for some activations.")] = ()
    method: Annotated[Reconstruction, Option("Rounding: to nearest, or learned.")] = "nearest"

    @property
    def name(self) -> str:
        """A name that says all parts."""
        return "+".join(["custom", self.observer, self.weight_observer, *self.steps, self.method])

    def to_json(self) -> dict[str, Any]:
        """The table that `parse_recipe` reads."""
        return flat_values(self)


def parse_recipe(value: Any, label: str) -> str | CustomRecipe:
    """A recipe's name, or a table that names its parts.

    Raises:
        InputError: the name is unknown, or the table holds another key or names an unknown part.
    """
    if isinstance(value, CustomRecipe):
        return value
    if isinstance(value, str):
        check_name(value)
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"{label} {quote(value)}: the name of a recipe, or a table of its parts, is expected.")
    entries = {entry.name: entry for entry in flatten(CustomRecipe)}
    given = {str(key).replace("-", "_"): one for key, one in value.items()}
    for key in given.keys() - entries.keys():
        nearest = get_close_matches(key, entries, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(entries)}."
        raise InputError(f"{label} does not have {quote(key)}; {hint}")
    parts = {key: convert(entries[key], one, label=f"{label}: {key}") for key, one in given.items()}
    return CustomRecipe(**parts)


def check_name(name: str) -> None:
    """Refuse an unknown recipe without loading what recipes are made of, unless that is loaded anyway.

    Raises:
        InputError: the recipe is unknown; the message lists those that there are.
    """
    loaded = sys.modules.get("mixqsam.quantization.recipes")
    known = getattr(loaded, "RECIPES", RECIPE_NAMES)
    if name not in known:
        raise InputError(f"The recipe {quote(name)} is unknown; choose {', '.join(known)}.")


def write_recipe(recipe: "str | CustomRecipe") -> Any:
    """What `parse_recipe` reads."""
    return recipe if isinstance(recipe, str) else recipe.to_json()
