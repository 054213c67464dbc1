"""Your own images: EfficientNet-Lite0 from ImageNet weights, with the settings that did best on CamVid.

`OWN_IMAGES_ROOT` names a folder with a `dataset.toml`, which `pixelcontrast data init` writes.

    pixelcontrast data init photos
    OWN_IMAGES_ROOT=photos python experiments/own_images.py
    OWN_IMAGES_ROOT=photos python experiments/own_images.py --run.name own-ce --contrast.weight 0
    OWN_IMAGES_ROOT=photos python experiments/own_images.py compare ce in-batch --seeds 0 1 2
    OWN_IMAGES_ROOT=photos python experiments/own_images.py search --trials 24

What to turn first: `--optim.class-weights`, as `pixelcontrast data check photos` proposes, where some classes
are rare; `--data.crop-size` and `--data.scale-range`, so that a crop shows whole objects (validation images
keep their size); `--optim.steps`; a larger `--model.backbone`. On a GPU add `--run.precision bfloat16`.

Measured on CamVid only, with crops of 192×256 (`camvid_pretrained.py`).
"""

import os

from pixelcontrast import Data, Experiment, Model, Optim, Run, Search, integers, loguniform, main, uniform

EXPERIMENT = Experiment(
    data=Data(layout="folder", root=os.environ.get("OWN_IMAGES_ROOT", "photos"), crop_size=(512, 512)),
    model=Model(backbone="tf_efficientnet_lite0", weights="timm"),
    optim=Optim(steps=2000, batch_size=8, lr=0.05, lr_warmup_steps=100),
    run=Run(name="own-images", eval_interval=500, checkpoint_interval=100),
)

SEARCH = Search(
    space={
        "optim.lr": loguniform(0.01, 0.2),
        "contrast.weight": loguniform(0.1, 10.0),
        "contrast.temperature": loguniform(0.03, 0.5),
        "contrast.anchors_per_class": integers(20, 200, log=True),
        "contrast.rare_class_power": uniform(0.0, 1.0),
    },
    arms={
        "ce": {"contrast.weight": 0.0},
        "in-batch": {},
        "rare-classes": {"contrast.rare_class_power": 0.5},
        "memory": {"contrast.memory": "pixel", "contrast.memory_max_age": 50},
    },
)

if __name__ == "__main__":
    main(EXPERIMENT, search=SEARCH, description=__doc__)
