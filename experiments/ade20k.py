"""ADE20K with mmsegmentation's settings: HRNet-W48, 160,000 steps of 16 crops of 512×512, SGD at 0.01.

The method's paper has no ADE20K; steps, batch, crop, rate and weight decay are those of mmsegmentation's
`fcn_hr48_512x512_160k_ade20k` (its poly schedule ends at a rate of 1e-4, ours at 0; its head has 1×1 kernels,
as here). mmsegmentation first resizes images to fit into 2048×512, in training and in validation; here they
keep their size, so figures may differ. We have not measured this experiment: it needs GPUs.

`ADE20K_ROOT` names the folder of `ADEChallengeData2016`.

    ADE20K_ROOT=/data/ADEChallengeData2016 python experiments/ade20k.py --run.workers 8
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
        layout="ade20k",
        root=os.environ.get("ADE20K_ROOT", "ADEChallengeData2016"),
        crop_size=(512, 512),
        loader_processes=4,
    ),
    model=Model(backbone="hrnet_w48", weights="timm"),
    contrast=Contrast(weight=1.0, temperature=0.1),
    optim=Optim(steps=160_000, batch_size=16, lr=0.01, weight_decay=5e-4),
    run=Run(name="ade20k", workers=Workers(4), cpus_per_worker=4, precision="bfloat16"),
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
