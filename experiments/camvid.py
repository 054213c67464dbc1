"""CamVid at a size that trains on a CPU: HRNet-W18-small from scratch on crops of 192×256.

The data are the 367 training and 101 validation images of the SegNet release, 480×360, whose folder
`CAMVID_ROOT` names.

    CAMVID_ROOT=/data/camvid python experiments/camvid.py
    CAMVID_ROOT=/data/camvid python experiments/camvid.py --run.name camvid-ce --contrast.weight 0
    CAMVID_ROOT=/data/camvid python experiments/camvid.py --search.trials 32
    CAMVID_ROOT=/data/camvid python experiments/camvid.py --search.arms ce random --search.seeds 0 1 2
"""

import os

from pixelcontrast import (
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
    optim=Optim(steps=800, batch_size=8, lr=0.02),
    run=Run(name="camvid", eval_interval=200, checkpoint_interval=100),
)

RANDOM = {"contrast.positive_mining": "random", "contrast.negative_mining": "random"}
SEARCH = Search(
    space={
        "optim.lr": loguniform(0.003, 0.1),
        "contrast.weight": loguniform(0.05, 2.0),
        "contrast.temperature": loguniform(0.03, 0.5),
        "contrast.warmup": uniform(0.0, 0.5),
        "contrast.anchors_per_class": integers(10, 200, log=True),
        "contrast.hard_share": uniform(0.0, 1.0),
        "contrast.pixel_queue_size": integers(50, 4000, log=True),
        "contrast.pixels_per_image": integers(1, 50, log=True),
        "contrast.positive_mining": choice("random", "semi-hard"),
        "contrast.negative_mining": choice("random", "semi-hard"),
        "contrast.num_negatives": integers(128, 4096, log=True),
        "contrast.semi_hard_share": loguniform(0.05, 0.5),
    },
    known=({}, RANDOM, RANDOM | {"contrast.pixel_queue_size": 100}),
    arms={
        "ce": {"contrast.weight": 0.0},
        "semi-hard": {},
        "random": RANDOM,
        "random-young": RANDOM | {"contrast.pixel_queue_size": 100, "contrast.memory": "pixel"},
        "in-batch": {"contrast.memory": "none"},
    },
)

if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, description=__doc__)
