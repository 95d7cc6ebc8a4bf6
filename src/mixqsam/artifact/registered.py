"""mixqsam as a quantization method of transformers: `from_pretrained` and `save_pretrained` of quantized directories.

What needs more of transformers than its list of methods is imported late: while this module loads, transformers does.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "mixqsam"
_log = logging.get_logger(__name__)


class MixqsamConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The `quantization_config` of a directory that mixqsam wrote; its fields are those of `Manifest`.

    Raises:
        ArtifactError: of a newer version, or malformed.
    """

    def __init__(self, **values: Any) -> None:
        from mixqsam.artifact.manifest import parse_manifest  # noqa: PLC0415

        self.__dict__.update(parse_manifest(values, source="config.json").model_dump(exclude_none=True))


class MixqsamQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads packed weights into modules that compute with them, and saves them as they were."""

    requires_calibration = True

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What is not packed is float32, whatever is asked for."""
        if dtype not in {None, torch.float32}:
            _log.warning("A model that mixqsam quantized computes in whole numbers and float32; %s is ignored.", dtype)
        return torch.float32

    def _process_model_before_weight_loading(self, model: Any, **more: Any) -> None:
        from mixqsam.artifact.packed import Places  # noqa: PLC0415

        self._places = Places.make(model, self._manifest(), more.get("checkpoint_files"))

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        self._rest = self._places.fill(model)
        # A part of a larger model would be saved under that model's names; the packed format has its own.
        model._weight_conversions = []
        return model

    def _manifest(self) -> Any:
        from mixqsam.artifact.manifest import parse_manifest  # noqa: PLC0415

        return parse_manifest(self.quantization_config.to_dict(), source="config.json")

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors as the format has them, and their checksums."""
        from mixqsam.artifact.packed import stored_tensors  # noqa: PLC0415
        from mixqsam.numeric.checksums import write_checksums  # noqa: PLC0415

        tensors = stored_tensors(model, self._rest)
        return tensors, write_checksums(tensors)

    def is_serializable(self) -> bool:
        """`save_pretrained` gives the same tensors again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Rounded weights cannot be trained."""
        return False

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        from mixqsam.artifact.packed import dequantized  # noqa: PLC0415

        return dequantized(model).to(dtype or torch.float32)


def register() -> None:
    """Tell transformers; telling it twice does nothing."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(MixqsamConfig)
        register_quantizer(METHOD)(MixqsamQuantizer)
