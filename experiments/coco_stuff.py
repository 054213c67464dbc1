"""COCO-Stuff 10k with the published settings: HRNet-W48, 60,000 steps of 16 crops of 520×520, SGD at 0.001.

The paper's settings; for HRNet it uses the 10k release (9,000 training and 1,000 test images). We have not
measured this experiment: it needs GPUs, and the evaluation here is of one scale without flip, where the
published one has several.

`COCO_STUFF_ROOT` names the folder with `images`, `annotations` and `imageLists` of version 1.1.

    COCO_STUFF_ROOT=/data/cocostuff-10k python experiments/coco_stuff.py --run.workers 8
    … --run.name coco-164k --data.layout coco-stuff-164k --data.root /data/coco     # 118,287 images
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
        layout="coco-stuff-10k",
        root=os.environ.get("COCO_STUFF_ROOT", "coco_stuff"),
        crop_size=(520, 520),
        loader_processes=4,
    ),
    model=Model(backbone="hrnet_w48", weights="timm", decoder_kernel=3, dropout=0.1),
    contrast=Contrast(weight=1.0, temperature=0.1),
    optim=Optim(steps=60_000, batch_size=16, lr=0.001, weight_decay=1e-4),
    run=Run(name="coco-stuff", workers=Workers(4), cpus_per_worker=4, precision="bfloat16"),
)

SEARCH = Search(
    space={
        "optim.lr": loguniform(0.0003, 0.01),
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
