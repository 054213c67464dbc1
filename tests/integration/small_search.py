"""An experiment file as a user writes one, small enough for tests: data and storage come as options."""

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, Search, loguniform, main

EXPERIMENT = Experiment(
    data=Data(layout="cityscapes", root="scenes", crop_size=(64, 64)),
    model=Model(backbone="test_resnet", embedding_dim=16),
    contrast=Contrast(memory="both", pixel_queue_size=20, num_positives=15, num_negatives=60),
    optim=Optim(steps=12, batch_size=2, lr=0.05),
    run=Run(
        name="small",
        device="cpu",
        report_interval=1,
        eval_interval=3,
        checkpoint_interval=2,
        keep_checkpoints=1,
    ),
)
SEARCH = Search(
    space={"optim.lr": loguniform(1e-9, 1e30), "contrast.temperature": loguniform(0.03, 0.5)},
    # As it is; one that diverges; one that learns nothing; then within reason.
    known=(
        {},
        {"optim.lr": 1e30},
        {"optim.lr": 1e-9},
        {"optim.lr": 0.02},
        {"optim.lr": 0.1},
        {"optim.lr": 0.03},
        {"optim.lr": 0.06},
        {"optim.lr": 0.04},
    ),
    arms={
        "ce": {"contrast.weight": 0.0},
        "contrast": {},
        "cool": {"contrast.temperature": 0.07},
    },
)

if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, description=__doc__)
