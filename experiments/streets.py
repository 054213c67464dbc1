"""The demo: a small HRNet on generated street scenes, two workers on two CPU cores.

The scenes are written once, in the layout of Cityscapes, and read like it.

    python experiments/streets.py

Measured 2026-12-01 on two cores of an AMD EPYC, seed 0, 120 scenes to train on and 20 to validate: 150
steps end at mIoU 20.3 %, pixel accuracy 78.4 %, 2 min 28 s after the command, with the writing of the
scenes; the contrastive loss falls from 6.2 to 5.6, and the gap opens from 0.07 to 0.17. From random weights
contrast costs at first: after 400 steps, three seeds, it is 1.0 points behind cross-entropy alone; without
the head's warm-up 2.7, and after 1,600, one seed, 0.7 (LOG.md, 2026-11-30).
"""

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
)
from pixelcontrast.scenes import streets

EXPERIMENT = Experiment(
    data=Data(layout="cityscapes", root="runs/scenes", crop_size=(128, 256), scale_range=(0.5, 1.0)),
    model=Model(backbone="hrnet_w18_small", embedding_dim=128),
    contrast=Contrast(warmup=0.1),
    optim=Optim(steps=150, batch_size=8, optimizer="adamw", lr=0.001, weight_decay=0.05, lr_warmup_steps=15),
    run=Run(name="streets", workers=Workers(2), device="cpu", eval_interval=75, checkpoint_interval=25),
)

SEARCH = Search(
    space={
        "optim.lr": loguniform(0.0003, 0.003),
        "contrast.weight": loguniform(0.1, 2.0),
        "contrast.temperature": loguniform(0.03, 0.5),
        "contrast.anchors_per_class": integers(10, 200, log=True),
        "contrast.memory": choice("none", "pixel"),
    },
    arms={
        "ce": {"contrast.weight": 0.0},
        "in-batch": {},
        "paper": PAPER | {"contrast.pixel_queue_size": 500},
    },
)


def write_scenes(experiment: Experiment) -> None:
    """Write the data set on the first call; later calls find it. Other layouts and packs are not written."""
    from pixelcontrast.datasets.packing.manifest import find_pack

    data = experiment.data
    if data.layout == EXPERIMENT.data.layout and find_pack(data.root) is None:
        streets.write(data.root, num_train=120, num_val=20)


if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, prepare=write_scenes, description=__doc__)
