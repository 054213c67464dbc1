"""CamVid at a size that trains on a CPU: HRNet-W18-small from scratch on crops of 192×256.

The data are the 367 training and 101 validation images of the SegNet release, 480×360, whose folder
`CAMVID_ROOT` names.

    CAMVID_ROOT=/data/camvid python experiments/camvid.py
    CAMVID_ROOT=/data/camvid python experiments/camvid.py --run.name camvid-ce --contrast.weight 0
    CAMVID_ROOT=/data/camvid python experiments/camvid.py search --trials 32
    CAMVID_ROOT=/data/camvid python experiments/camvid.py compare ce in-batch --seeds 0 1 2

Measured 2026-11-29 to 12-01 on Xeons and EPYCs, one thread, seeds 0 to 4, commits 8ac5026 to d40aa59: mIoU
42.8 ± 0.2 % by cross-entropy, 46.7 ± 1.8 % with in-batch contrast, a difference of +3.9 [+1.5, +6.3].
Without the head's warm-up 45.9 ± 2.4 %, +3.1 [+0.2, +6.0]; with class weights and without it 53.5 ± 1.1 %
and 53.2 ± 1.5 %, −0.3 [−2.0, +1.5]; in 6,000 steps without it, seeds 0 to 2, 61.2 ± 0.9 % and 63.0 ± 1.3 %,
+1.8 [+0.7, +3.0]. LOG.md has more.
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
    choice,
    integers,
    loguniform,
    main,
    uniform,
)

EXPERIMENT = Experiment(
    data=Data(layout="camvid", root=os.environ.get("CAMVID_ROOT", "camvid"), crop_size=(192, 256)),
    model=Model(backbone="hrnet_w18_small"),
    contrast=Contrast(warmup=0.1),
    optim=Optim(steps=1500, batch_size=8, optimizer="adamw", lr=0.001, weight_decay=0.05, lr_warmup_steps=75),
    run=Run(name="camvid", eval_interval=200, checkpoint_interval=100),
)

CLASS_WEIGHTS = (0.5285, 0.4491, 2.1878, 0.386, 1.0, 0.6494, 1.9613, 1.4048, 0.8882, 2.5248, 2.9764)
"""As ``pixelcontrast data check`` proposes: the roots of median-frequency balancing."""
MEMORY = {"contrast.memory": "pixel", "contrast.pixel_queue_size": 300, "contrast.memory_max_age": 50}
SEARCH = Search(
    space={
        "optim.lr": loguniform(0.0003, 0.003),
        "contrast.weight": loguniform(0.05, 2.0),
        "contrast.temperature": loguniform(0.03, 0.5),
        "contrast.rare_class_power": uniform(0.0, 1.0),
        "contrast.anchors_per_class": integers(10, 200, log=True),
        "contrast.hard_share": uniform(0.0, 1.0),
        "contrast.memory": choice("none", "pixel"),
        "contrast.memory_weight": loguniform(0.1, 2.0),
        "contrast.negative_mining": choice("random", "semi-hard"),
    },
    known=({},),
    arms={
        "ce": {"contrast.weight": 0.0},
        "ce-weighted": {"contrast.weight": 0.0, "optim.class_weights": CLASS_WEIGHTS},
        "in-batch": {},
        "no-warmup": {"contrast.warmup": 0.0},
        "weighted": {"optim.class_weights": CLASS_WEIGHTS},
        "in-batch-0.05": {"contrast.weight": 0.05},
        "weighted-0.05": {"contrast.weight": 0.05, "optim.class_weights": CLASS_WEIGHTS},
        "memory": MEMORY,
        "paper": PAPER,
    },
)

if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, description=__doc__)
