"""CamVid at a size that trains on a CPU: HRNet-W18-small from scratch on crops of 192×256.

The data are the 367 training and 101 validation images of the SegNet release, 480×360, whose folder
`CAMVID_ROOT` names.

    CAMVID_ROOT=/data/camvid python experiments/camvid.py
    CAMVID_ROOT=/data/camvid python experiments/camvid.py --run.name camvid-ce --contrast.weight 0
"""

import os

from pixelcontrast import Data, Experiment, Model, Optim, Run, main

EXPERIMENT = Experiment(
    data=Data(layout="camvid", root=os.environ.get("CAMVID_ROOT", "camvid"), crop_size=(192, 256)),
    model=Model(backbone="hrnet_w18_small"),
    optim=Optim(steps=800, batch_size=8, lr=0.02),
    run=Run(name="camvid", eval_interval=200, checkpoint_interval=100),
)

if __name__ == "__main__":
    main(EXPERIMENT, description=__doc__)
