"""Cityscapes with the published settings: HRNet-W48, 40,000 steps of 8 crops of 512×1024, SGD at 0.01.

The reference of the method trains so (its stated results: 79.27 mIoU on val with cross-entropy, 80.18 with
in-batch contrast, one seed each). We have not measured this experiment: it needs GPUs.

`CITYSCAPES_ROOT` names the folder that holds `leftImg8bit` and `gtFine`.

    CITYSCAPES_ROOT=/data/cityscapes python experiments/cityscapes.py --run.workers 8

The reference's other networks, with their dropout (`--run.name` keeps the runs apart):

    … --run.name ocr --model.decoder ocr --model.dropout 0.05
    … --run.name deeplabv3 --model.decoder deeplabv3 --model.backbone resnet101s --model.dropout 0
"""

import os

from pixelcontrast import (
    PAPER,
    Contrast,
    Data,
    Experiment,
    Model,
    Optim,
    Run,
    Search,
    Workers,
    choice,
    integers,
    loguniform,
    main,
    uniform,
)

EXPERIMENT = Experiment(
    data=Data(
        layout="cityscapes",
        root=os.environ.get("CITYSCAPES_ROOT", "cityscapes"),
        crop_size=(512, 1024),
        loader_processes=4,
    ),
    model=Model(backbone="hrnet_w48", weights="timm", decoder_kernel=3, dropout=0.1),
    contrast=Contrast(weight=1.0, temperature=0.1),
    optim=Optim(steps=40_000, batch_size=8, lr=0.01, weight_decay=5e-4),
    run=Run(name="cityscapes", workers=Workers(4), cpus_per_worker=4, precision="bfloat16"),
)

SEARCH = Search(
    space={
        "optim.lr": loguniform(0.003, 0.03),
        "contrast.weight": loguniform(0.05, 2.0),
        "contrast.temperature": loguniform(0.03, 0.5),
        "contrast.rare_class_power": uniform(0.0, 1.0),
        "contrast.anchors_per_class": integers(10, 200, log=True),
        "contrast.hard_share": uniform(0.0, 1.0),
        "contrast.memory": choice("none", "pixel"),
        "contrast.pixel_queue_size": integers(500, 20_000, log=True),
        "contrast.pixels_per_image": integers(2, 50, log=True),
        "contrast.positive_mining": choice("random", "semi-hard"),
        "contrast.negative_mining": choice("random", "semi-hard"),
        "contrast.num_positives": integers(128, 2048, log=True),
        "contrast.num_negatives": integers(256, 8192, log=True),
        "contrast.semi_hard_share": loguniform(0.05, 0.5),
    },
    arms={
        "ce": {"contrast.weight": 0.0},
        "in-batch": {},
        "pixel": {"contrast.memory": "pixel"},
        "region": {"contrast.memory": "region"},
        "both": {"contrast.memory": "both"},
        "paper": PAPER,
    },
)

if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, description=__doc__)
