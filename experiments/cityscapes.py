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

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, Workers, main

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

if __name__ == "__main__":
    main(EXPERIMENT, description=__doc__)
