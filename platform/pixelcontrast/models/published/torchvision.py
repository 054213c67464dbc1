"""torchvision's DeepLabV3 (``torchvision.models.segmentation.deeplabv3_resnet50`` and ``…101``)."""

from pixelcontrast.models.published.layout import Layout

_BRANCHES = ("pointwise", "dilated.0", "dilated.1", "dilated.2")

DEEPLABV3 = Layout(
    title="a DeepLabV3 of torchvision",
    backbones="resnet101 or resnet50",
    recognised_by=("backbone.conv1.weight", "classifier.0.convs.0.0.weight", "classifier.4.weight"),
    settings={"decoder": "deeplabv3", "operators": "torchvision", "align_corners": "no"},
    names={
        "backbone.": "backbone.",
        "classifier.0.convs.4.1.": "decoder.aspp.pooled.0.",
        "classifier.0.convs.4.2.": "decoder.aspp.pooled.1.",
        "classifier.0.project.": "decoder.aspp.fuse.",
        "classifier.1.": "decoder.refine.0.",
        "classifier.2.": "decoder.refine.1.",
        "classifier.4.": "decoder.classifier.",
        "aux_classifier.0.": "decoder.auxiliary.hidden.0.",
        "aux_classifier.1.": "decoder.auxiliary.hidden.1.",
        "aux_classifier.4.": "decoder.auxiliary.classifier.",
    }
    | {f"classifier.0.convs.{place}.": f"decoder.aspp.{ours}." for place, ours in enumerate(_BRANCHES)},
    optional=("projection.", "decoder.auxiliary."),
    first_convolution="backbone.conv1.weight",
)

LAYOUTS = (DEEPLABV3,)
