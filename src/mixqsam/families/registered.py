"""Make transformers' Auto classes know the models that are not its own; a second call does nothing."""

from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.mobile_sam_model import MobileSamModel
from mixqsam.families.sam_hq_light_config import SamHqLightConfig
from mixqsam.families.sam_hq_light_model import SamHqLightModel

# The Auto classes are imported late: while they load, this module may be asked to register.


def register_configs() -> None:
    """For `AutoConfig`."""
    from transformers import AutoConfig  # noqa: PLC0415

    for config in (MobileSamConfig, SamHqLightConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    """For `AutoModel` and `AutoModelForMaskGeneration`."""
    from transformers import AutoModel, AutoModelForMaskGeneration  # noqa: PLC0415

    register_configs()
    for model in (MobileSamModel, SamHqLightModel):
        AutoModel.register(model.config_class, model, exist_ok=True)
        AutoModelForMaskGeneration.register(model.config_class, model, exist_ok=True)


def register_processors() -> None:
    """For `AutoProcessor`: their processors are those of SAM and SAM-HQ."""
    from transformers import AutoProcessor, SamHQProcessor, SamProcessor  # noqa: PLC0415

    AutoProcessor.register(MobileSamConfig, SamProcessor, exist_ok=True)
    AutoProcessor.register(SamHqLightConfig, SamHQProcessor, exist_ok=True)
