"""The value that says what is particular to a family, and the rule that nothing else does."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from benchmarks.tiny import random_model, tiny_config, to_meta
from transformers import BertConfig, SamConfig

import mixqsam
from mixqsam.analysis import variants
from mixqsam.analysis.ablation import zero
from mixqsam.analysis.variants import Variant, run_prefix, run_variants
from mixqsam.data.samples import Sample
from mixqsam.errors import MixqsamError, ModelError
from mixqsam.families import FAMILIES, family_of, find_family, prepare
from mixqsam.families.family import BlockPath, Family
from mixqsam.families.sam import SAM
from mixqsam.files import Cache
from mixqsam.numeric.attention import DecoderAttention, VisionAttention
from mixqsam.numeric.modules import Mlp
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.replay import blocks_of, chain_of, stages
from tests.oracles import logits_of

SOURCE = Path(mixqsam.__file__).parent
# Written by hand for one family, and the reader of files that are older than roles.
EXCEPTIONS = ("exporting/encoder.py", "exporting/tiny_vit.py", "exporting/decoder.py", "old_units.py")
MODULES = re.compile(r"vision_encoder|image_encoder|mask_decoder|prompt_encoder|token_to_image|mlp\.lin|attn\.|_proj\b")
ATTRIBUTES = re.compile(r"((vision|prompt)_encoder|mask_decoder|vision)(_config)?|shared_image_embedding|neck")


def knowledge(path: Path) -> Iterator[str]:
    """What a file says of modules of a model: imports, strings that are not documentation, attributes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            yield from (f"import of {alias.name}" for alias in node.names if alias.name.startswith("Sam"))
            # `auto` finds the class of any model.
            if re.match(r"transformers\.models(?!\.auto\b)", str(node.module)):
                yield f"import of {node.module}"
        elif isinstance(node, ast.Import):
            yield from (f"import of {a.name}" for a in node.names if a.name.startswith("transformers.models"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from (f"string {node.value!r:.60}" for _ in MODULES.findall(node.value)[:1])
        elif isinstance(node, ast.Attribute) and ATTRIBUTES.fullmatch(node.attr):
            yield f"attribute {node.attr}"


def test_only_families_know_the_modules_of_a_model() -> None:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if name.startswith("families/") or name in EXCEPTIONS:
            continue
        if odd := set(knowledge(path)):
            found[name] = odd
    assert found == {}


def test_the_rule_sees_what_it_forbids(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        '"""mask_decoder in a docstring is fine."""\n'
        "from transformers import SamModel\nimport transformers.models.sam\n"
        'x.vision_encoder.y\nz = f"mask_decoder.{x}"\nw = name.endswith("mlp.lin2")\n'
    )
    assert len(list(knowledge(file))) == 5
    assert all(any(knowledge(SOURCE / name)) for name in EXCEPTIONS)


def test_the_dict_and_the_values_agree() -> None:
    for name, family in FAMILIES.items():
        assert family.name == name
        assert family.config.model_type == name
        assert family_of(family.config()) is family
        assert {f.name for f in fields(family)} == {f.name for f in fields(Family)}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_one_short_file(name: str) -> None:
    assert len((SOURCE / f"families/{name}.py").read_text().splitlines()) <= 150


def test_an_unknown_family_is_refused_with_those_that_are_known(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"here is a 'sam9' model; mixqsam quantizes models of type .*'sam'"):
        find_family("sam9", source="here")
    with pytest.raises(ModelError, match="'bert' model"):
        family_of(BertConfig())
    values = json.loads((model_directory / "config.json").read_text()) | {"model_type": "sam3"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=rf"{tmp_path} is a 'sam3' model.*takes boxes and points"):
        load_sam(tmp_path)
    for kind in ("edgetam", "edgetam_video"):
        with pytest.raises(ModelError, match=rf"'{kind}' model.*Give a small SAM 2.1 .* instead"):
            find_family(kind, source="here")


def test_the_engines_modules_are_in_place() -> None:
    config = tiny_config(decoder_layers=2)
    model = prepare(random_model(config))
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(VisionAttention), kinds.count(DecoderAttention), kinds.count(Mlp)) == (2, 7, 4)
    plain = random_model(config).state_dict()
    assert list(plain) == list(model.state_dict())


@pytest.mark.parametrize("entry", [None, "model", "state_dict"])
def test_a_checkpoint_inside_of_an_entry_is_read(tmp_path: Path, entry: str | None) -> None:
    config = tiny_config()
    config.mask_decoder_config.num_attention_heads = 8
    state = to_meta(random_model(config, seed=5).state_dict())
    torch.save(state if entry is None else {entry: state, "epoch": 3}, tmp_path / "a.pth")
    sam = load_sam(tmp_path / "a.pth")
    assert torch.equal(sam.model.vision_encoder.neck.conv1.weight, state["image_encoder.neck.0.weight"])


def test_a_step_that_no_unit_is_for_names_itself_and_the_family(
    monkeypatch: pytest.MonkeyPatch, sam: Sam, samples: list[Sample], tmp_path: Path
) -> None:
    roles = dict.fromkeys(SAM.roles, "projection")
    monkeypatch.setitem(FAMILIES, "sam", replace(SAM, roles=roles))  # type: ignore[arg-type]
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    for recipe, step in (
        ("ptq4sam-s", "Bimodal integration works on units of role key"),
        ("ahcptq", "Hybrid log-uniform quantization works on units of role mlp-out"),
        ("saq-sam", "Perceptual-consistency clipping works on units of role query"),
    ):
        chosen = replace(RECIPES[recipe], least_images=1)
        with pytest.raises(MixqsamError, match=f"{step}; models of the family 'sam' have none"):
            quantize(sam, plan, samples, recipe=chosen, cache=Cache(tmp_path), progress=Silent())


# Blocks between which code of the model's own runs


def _finer(config: SamConfig) -> list[BlockPath]:
    """The last layer's MLP alone: the sum around it is nobody's block."""
    paths = [block.path for block in SAM.blocks(config)]
    last = f"vision_encoder.layers.{config.vision_config.num_hidden_layers - 1}"
    at = paths.index(last)
    paths[at : at + 1] = [f"{last}.attn", f"{last}.mlp"]
    return [BlockPath(path, is_global=path.endswith("attn")) for path in paths]


@pytest.fixture
def glued(monkeypatch: pytest.MonkeyPatch, sam: Sam) -> Sam:
    monkeypatch.setitem(FAMILIES, "sam", replace(SAM, blocks=_finer))
    assert not chain_of(sam, "encoder").runs_through(0)
    return sam


@pytest.mark.parametrize("tokens", [1 << 14, 60], ids=["one batch", "by two"])
def test_variants_are_right_where_blocks_are_glued(
    monkeypatch: pytest.MonkeyPatch, glued: Sam, samples: list[Sample], tokens: int
) -> None:
    monkeypatch.setattr(variants, "_MAX_TOKENS", tokens)
    names = [unit.name for unit in glued.costs().units[:16]]
    prefix = run_prefix(glued, samples[0])
    for indices, logits in run_variants(glued, prefix, [Variant({name: zero}) for name in names]):
        for index, found in zip(indices, logits, strict=True):
            expected = logits_of(glued, samples[0], zeroed=(names[index],))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=names[index])
    assert not any("forward" in vars(module) for module in glued.model.modules())


def test_glued_blocks_are_reconstructed_and_not_joined(glued: Sam, four: list[Sample], tmp_path: Path) -> None:
    names = [stage.name for stage in stages(blocks_of(glued, "encoder"))]
    tails = ("layers.0", "layers.1.attn", "layers.1.mlp", "neck")
    assert names == [f"vision_encoder.{tail}" for tail in tails]
    plan = BitPlan.uniform(glued.costs().units, UnitBits(3, 4))
    options = ReconstructionOptions(iterations=20)
    found = quantize(
        glued, plan, four, recipe=RECIPES["qdrop"], cache=Cache(tmp_path), progress=Silent(), options=options
    )
    assert [log.piece for log in found.logs][:4] == names
    assert all(log.after <= log.before for log in found.logs)
    with pytest.raises(ModelError, match=r"Behind vision_encoder.layers.0 blocks do not follow"):
        quantize(
            glued, plan, four, recipe=RECIPES["saq-sam"], cache=Cache(tmp_path), progress=Silent(), options=options
        )
