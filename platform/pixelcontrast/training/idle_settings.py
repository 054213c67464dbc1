"""Settings that have no effect beside others: a run starts with them, and says so."""

from collections.abc import Iterable, Iterator
from dataclasses import fields

from pixelcontrast import config
from pixelcontrast.config import Contrast, Data, Experiment, Run
from pixelcontrast.contrast.hyperparameters import MemoryConfig, MiningConfig
from pixelcontrast.models import has_reference_operators

_OF_QUEUE = {f"contrast.{name}" for name in ("pixel_queue_size", "pixels_per_image", "boundary_share")}
_OF_REGIONS = {"contrast.region_memory_size"}
_OF_MEMORY = {f"contrast.{field.name}" for part in (MemoryConfig, MiningConfig) for field in fields(part)}
_OF_TERM = {"contrast.memory_term", "contrast.memory_weight"}
_OF_CONTRAST = {f"contrast.{field.name}" for field in fields(Contrast)} - {"contrast.weight"}
_OF_HEAD = {"model.embedding_dim", "model.embedding_batchnorm"}


def idle_settings(experiment: Experiment) -> Iterator[str]:
    """One line for each cause, with the settings, not at their defaults, that it leaves without effect.

    A ``contrast.weight`` of 0 is no such cause: the baseline of an experiment keeps its contrast's settings.
    """
    settings, defaults = config.flatten(experiment), config.flatten(_defaults(experiment))
    changed = {key: value for key, value in settings.items() if value != defaults[key]}
    if experiment.contrast.weight == 0:
        changed = {key: value for key, value in changed.items() if key not in _OF_CONTRAST | _OF_HEAD}
    for cause, holds, keys in _causes(experiment):
        idle = [f"{key} {changed.pop(key)}" for key in list(changed) if holds and key in keys]
        if idle:
            yield f"{', '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect: {cause}"
    optim = experiment.optim
    if optim.lr_warmup_steps >= optim.steps:
        yield (
            f"optim.lr {optim.lr:g} is never reached: optim.lr_warmup_steps is {optim.lr_warmup_steps} and "
            f"optim.steps {optim.steps}"
        )


def _causes(experiment: Experiment) -> Iterator[tuple[str, bool, Iterable[str]]]:
    """Cause, whether it holds, and the settings that have then no effect; the first that holds is named."""
    contrast, model, run = experiment.contrast, experiment.model, experiment.run
    positives, negatives = contrast.positive_mining, contrast.negative_mining
    semi_hard = any(mining.startswith("semi-hard") for mining in (positives, negatives))

    yield "contrast.memory is none", contrast.memory == "none", _OF_MEMORY | _OF_TERM
    yield "contrast.memory_weight is 0", not contrast.uses_memory, _OF_MEMORY
    yield "contrast.memory is pixel", contrast.memory == "pixel", _OF_REGIONS
    yield "contrast.memory is region", contrast.memory == "region", _OF_QUEUE
    yield "contrast.memory_term is joint", contrast.memory_term == "joint", ["contrast.memory_weight"]
    yield "contrast.positive_mining is all", positives == "all", ["contrast.num_positives"]
    yield "contrast.negative_mining is all", negatives == "all", ["contrast.num_negatives"]
    minings = f"contrast.positive_mining is {positives} and contrast.negative_mining {negatives}"
    yield minings, not semi_hard, ["contrast.semi_hard_share"]
    yield f"run.workers is {run.workers}", run.workers.max == 1, ["contrast.memory_sharded"]

    # A published network's weights ask for its operators, whether or not they matter.
    as_reference = model.weights in ("none", "timm") and has_reference_operators(model)
    same = (
        f"model.backbone {model.backbone} with model.decoder {model.decoder} computes the same with reference"
    )
    yield same, as_reference, ["model.operators"]
    # timm's are a backbone's; to keep their classifier is refused where they are read.
    no_classifier = model.weights == "none" or (model.weights == "timm" and model.classifier == "new")
    yield f"model.weights is {model.weights}", no_classifier, ["model.classifier"]
    yield "model.freeze_backbone is set", model.freeze_backbone, ["model.drop_path"]
    yield f"model.decoder is {model.decoder}", model.decoder != "hrnet", ["model.decoder_kernel"]
    no_auxiliary = f"model.decoder {model.decoder} has no auxiliary head"
    yield no_auxiliary, model.decoder in ("hrnet", "linear"), ["optim.auxiliary_weight"]

    on_cpu = run.device == "cpu"
    yield "run.device is cpu", on_cpu, ["run.gpus_per_worker"]
    yield "run.device is cpu", on_cpu and run.matmul_precision == "high", ["run.matmul_precision"]


def _defaults(experiment: Experiment) -> Experiment:
    """The experiment with all at the defaults that has one."""
    data = Data(layout=experiment.data.layout, root=experiment.data.root)
    return Experiment(data=data, run=Run(name=experiment.run.name))
