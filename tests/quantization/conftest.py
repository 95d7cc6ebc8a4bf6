import numpy as np
import pytest

from mixqsam.data.samples import Sample
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam
from tests.conftest import draw


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Four pictures: what the recipes that reconstruct need."""
    folder = tmp_path_factory.mktemp("four")
    boxes = Prompts(boxes=np.array([[5.0, 5.0, 30.0, 30.0], [10.0, 2.0, 38.0, 36.0]]))
    return [Sample(draw(folder / f"{i}.png", width=64, height=40, seed=i), 64, 40, boxes, image_id=i) for i in range(4)]


def mixture(sam: Sam, *, seed: int) -> BitPlan:
    """Random bits, some units in float."""
    rng = np.random.default_rng(seed)
    return BitPlan(
        {
            unit.name: FLOAT if rng.random() < 0.1 else UnitBits(*(int(b) for b in rng.integers(2, 9, 2)))
            for unit in sam.costs().units
        }
    )
