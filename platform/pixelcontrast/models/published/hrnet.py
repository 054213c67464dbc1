"""HRNet's official repository, HRNet/HRNet-Semantic-Segmentation (branches HRNet-OCR, pytorch-v1.1, master).

Its ImageNet files hold timm's names and a classification head: they are read as a backbone's.
"""

from torch import Tensor

from pixelcontrast.models.published.layout import Layout

_STAGES = ("layer1.", "transition1.", "stage2.", "transition2.", "stage3.", "transition3.", "stage4.")
_BACKBONE = {part: f"backbone.{part}" for part in ("conv1.", "bn1.", "conv2.", "bn2.", *_STAGES)}
_IN_A_STAGE = "stage4.0.branches.0.0.conv1.weight"
_LOSS = {"loss.": "its loss"}
BACKBONES = "hrnet_w48, or another HRNet"

OBJECT_CONTEXT = {
    f"ocr_distri_head.{source}.{at}.": f"decoder.{ours}."
    for source, at, ours in (
        ("object_context_block.f_pixel", "0", "context.query.0.0"),
        ("object_context_block.f_pixel", "1.0", "context.query.0.1"),
        ("object_context_block.f_pixel", "2", "context.query.1.0"),
        ("object_context_block.f_pixel", "3.0", "context.query.1.1"),
        ("object_context_block.f_object", "0", "context.key.0.0"),
        ("object_context_block.f_object", "1.0", "context.key.0.1"),
        ("object_context_block.f_object", "2", "context.key.1.0"),
        ("object_context_block.f_object", "3.0", "context.key.1.1"),
        ("object_context_block.f_down", "0", "context.value.0"),
        ("object_context_block.f_down", "1.0", "context.value.1"),
        ("object_context_block.f_up", "0", "context.up.0"),
        ("object_context_block.f_up", "1.0", "context.up.1"),
        ("conv_bn_dropout", "0", "fuse.0"),
        ("conv_bn_dropout", "1.0", "fuse.1"),
    )
}
"""OCR's object context, of which the method's reference has a copy."""

_INPLACE_ABN_EPS = 1e-5


def _without_inplace_abn(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """On PyTorch 0.4 (branch master) BatchNorm was InPlaceABN, which has no step counter and scales by
    |weight| + ε (``sync_bn/inplace_abn``): give BatchNorm that scale."""
    if any(key.endswith("num_batches_tracked") for key in tensors):
        return tensors, []
    scales = {
        key: tensors[key].abs() + _INPLACE_ABN_EPS
        for key in (
            name.replace("running_mean", "weight") for name in tensors if name.endswith("running_mean")
        )
        if key in tensors
    }
    note = "it has no step counters of BatchNorm, so its scales are read as InPlaceABN's, of branch master"
    return tensors | scales, [note]


SEGMENTATION = Layout(
    title="a HRNet of its official repository",
    backbones=BACKBONES,
    wrapper="model.",
    recognised_by=(_IN_A_STAGE, "last_layer.0.weight", "last_layer.3.weight"),
    settings={"decoder": "hrnet", "decoder_kernel": 1, "operators": "hrnet"},
    asked={
        "align_corners": "yes for a file of the repository's branch HRNet-OCR, no for one of pytorch-v1.1 or "
        "master"
    },
    names=_BACKBONE
    | {
        "last_layer.0.": "decoder.conv.",
        "last_layer.1.": "decoder.bn.",
        "last_layer.3.": "decoder.classifier.",
    },
    dropped=_LOSS,
    prepare=_without_inplace_abn,
    has_conv_biases=True,
    first_convolution="backbone.conv1.weight",
)

OCR = Layout(
    title="a HRNet with OCR of HRNet's official repository",
    backbones=BACKBONES,
    wrapper="model.",
    recognised_by=(_IN_A_STAGE, "conv3x3_ocr.0.weight", "ocr_distri_head.conv_bn_dropout.0.weight"),
    settings={"decoder": "ocr", "operators": "hrnet", "align_corners": "yes"},
    names=_BACKBONE
    | OBJECT_CONTEXT
    | {
        "conv3x3_ocr.0.": "decoder.pixels.0.",
        "conv3x3_ocr.1.": "decoder.pixels.1.",
        "aux_head.0.": "decoder.auxiliary.hidden.0.",
        "aux_head.1.": "decoder.auxiliary.hidden.1.",
        "aux_head.3.": "decoder.auxiliary.classifier.",
        "cls_head.": "decoder.classifier.",
    },
    dropped=_LOSS,
    prepare=_without_inplace_abn,
    first_convolution="backbone.conv1.weight",
)

LAYOUTS = (SEGMENTATION, OCR)
