from transformers import SamConfig

from mixqsam.sam.load import Sam
from mixqsam.sam.norms import find_read_norms


def test_norms_that_only_units_read_are_found_with_their_units(sam: Sam) -> None:
    found = {norm.name: norm for norm in find_read_norms(sam.config)}
    layers = [f"vision_encoder.layers.{index}" for index in range(2)]
    assert list(found) == [
        *(f"{layer}.layer_norm{number}" for layer in layers for number in (1, 2)),
        "vision_encoder.neck.layer_norm1",
    ]
    assert found[f"{layers[0]}.layer_norm1"].units == (f"{layers[0]}.attn.qkv",)
    assert found[f"{layers[1]}.layer_norm2"].units == (f"{layers[1]}.mlp.lin1",)
    assert found["vision_encoder.neck.layer_norm1"].units == ("vision_encoder.neck.conv2",)
    # The decoder's norms are read by sums, and the last one of the neck by the decoder.
    assert "vision_encoder.neck.layer_norm2" not in found


def test_padding_behind_a_norm_is_seen() -> None:
    found = {norm.name: norm.is_padded for norm in find_read_norms(SamConfig())}
    # Windows of 14 do not fit 64 places, so zeros are put beside; a 3 × 3 convolution pads too.
    assert found["vision_encoder.layers.0.layer_norm1"]
    assert found["vision_encoder.neck.layer_norm1"]
    # A global layer has no windows, and an MLP takes each place by itself.
    assert not found["vision_encoder.layers.2.layer_norm1"]
    assert not found["vision_encoder.layers.0.layer_norm2"]
