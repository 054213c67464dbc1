"""Published networks in miniature: their modules' names and operators, written from their sources.

Each gives its logits for images normalised in its own way, and its state dict is the file that its trainer
would write. Backbones are timm's small ones, whose blocks the published ones share, set to the source's
operators here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5
HRNET, WIDTH = "hrnet_w18_small", 240
RESNET, CHANNELS = "resnet18d", (256, 512)
"""A deep stem of 32, 32 and 64 channels; what the stages 3 and 4 give."""


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """The state dict that the source would save, of the network alone."""
    state = network.state_dict()
    return {key.replace("backbone.network.", "backbone."): value.clone() for key, value in state.items()}


def vary(network: Any) -> Any:
    """The network in evaluation, with statistics, scales and biases unlike those of a fresh one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


def bilinear(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


def conv(channels: int, width: int, kernel: int = 1, *, bias: bool = True, dilation: int = 1) -> nn.Conv2d:
    padding = kernel // 2 * dilation
    return nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=bias)


def bn_relu(width: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())


class HRNetBackbone(nn.Module):
    """timm's branches with bilinear upsampling: the names of all sources; → the concatenated branches."""

    def __init__(self, align_corners: bool):
        super().__init__()
        network: Any = timm.create_model(
            HRNET, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
        for module in network.modules():
            if isinstance(module, nn.Upsample):
                module.mode, module.align_corners = "bilinear", align_corners
        self.network, self.align_corners = network, align_corners

    def forward(self, images: Tensor) -> Tensor:
        branches = self.network(images)
        size = branches[0].shape[-2:]
        return torch.cat([bilinear(branch, size, self.align_corners) for branch in branches], 1)


def projection_head(channels: int) -> nn.Module:
    head = nn.Module()
    head.proj = nn.Sequential(conv(channels, channels), bn_relu(channels), conv(channels, 16))
    return head


class ReferenceHRNet(nn.Module):
    """tfzhou/ContrastiveSeg, HRNet_W48_CONTRAST."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HRNetBackbone(align_corners=True)
        self.cls_head = nn.Sequential(
            conv(WIDTH, WIDTH, 3), bn_relu(WIDTH), nn.Dropout2d(0.1), conv(WIDTH, CLASSES, bias=False)
        )
        self.proj_head: Any = projection_head(WIDTH)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.proj_head.proj(self.backbone(images)))

    def forward(self, images: Tensor) -> Tensor:
        return bilinear(self.cls_head(self.backbone(images)), images.shape[-2:], align_corners=True)


class ObjectContext(nn.Module):
    """SpatialOCR_Module of the reference and of HRNet's repository: context first, then the features."""

    def __init__(self, *, bias: bool):
        super().__init__()
        block = nn.Module()
        for name in ("f_pixel", "f_object"):
            layers = conv(512, 256, bias=bias), bn_relu(256), conv(256, 256, bias=bias), bn_relu(256)
            block.add_module(name, nn.Sequential(*layers))
        block.f_down = nn.Sequential(conv(512, 256, bias=bias), bn_relu(256))
        block.f_up = nn.Sequential(conv(256, 512, bias=bias), bn_relu(512))
        self.object_context_block: Any = block
        self.conv_bn_dropout = nn.Sequential(conv(1024, 512, bias=bias), bn_relu(512), nn.Dropout2d(0.05))

    def forward(self, pixels: Tensor, scores: Tensor) -> Tensor:
        block = self.object_context_block
        context = block.f_up(attend(pixels, scores, block.f_pixel, block.f_object, block.f_down))
        return self.conv_bn_dropout(torch.cat([context, pixels], 1))


Layers = Callable[[Tensor], Tensor]


def attend(pixels: Tensor, scores: Tensor, query: Layers, key: Layers, value: Layers) -> Tensor:
    """Gather the classes' objects, and let every pixel attend to them: [B, 256, h, w]."""
    regions = scores.flatten(2).softmax(2)  # [B, K, hw]
    objects = torch.einsum("bkn,bcn->bck", regions, pixels.flatten(2)).unsqueeze(3)
    queries, keys, values = query(pixels).flatten(2), key(objects).flatten(2), value(objects).flatten(2)
    similarity = torch.einsum("bcn,bck->bnk", queries, keys) * keys.shape[1] ** -0.5
    context = torch.einsum("bnk,bck->bcn", similarity.softmax(2), values)
    return context.unflatten(2, pixels.shape[-2:])


class ReferenceOCR(nn.Module):
    """tfzhou/ContrastiveSeg, HRNet_W48_OCR_CONTRAST: biases everywhere, an auxiliary head of 3×3."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HRNetBackbone(align_corners=True)
        self.conv3x3 = nn.Sequential(conv(WIDTH, 512, 3), bn_relu(512))
        self.ocr_distri_head = ObjectContext(bias=True)
        self.cls_head = conv(512, CLASSES)
        self.aux_head = nn.Sequential(conv(WIDTH, WIDTH, 3), bn_relu(WIDTH), conv(WIDTH, CLASSES))
        self.proj_head: Any = projection_head(WIDTH)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.proj_head.proj(self.backbone(images)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        hidden = self.ocr_distri_head(self.conv3x3(features), self.aux_head(features))
        return bilinear(self.cls_head(hidden), images.shape[-2:], align_corners=True)


class DilatedResNet(nn.Module):
    """A ResNet with a deep stem at stride 8, without the stem's names; → the stages 3 and 4."""

    def __init__(self, *, ceil_mode: bool):
        super().__init__()
        network: Any = timm.create_model(RESNET, output_stride=8, num_classes=0)
        first, second, third = network.conv1[:2], network.conv1[3:5], (network.conv1[6], network.bn1)
        self.layers = [*first, nn.ReLU(), *second, nn.ReLU(), *third, nn.ReLU()]
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.ceil_mode = ceil_mode

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = images
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = F.max_pool2d(hidden, 3, 2, 1, ceil_mode=self.ceil_mode)
        third = self.layer3(self.layer2(self.layer1(hidden)))
        return third, self.layer4(third)


class ReferenceDeepLabV3(nn.Module):
    """tfzhou/ContrastiveSeg, DeepLabV3Contrast: a refining layer without ReLU, image pooling last."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = DilatedResNet(ceil_mode=True)
        self.backbone.resinit = nn.Module()
        for number, place in enumerate((0, 3, 6), 1):
            self.backbone.resinit.add_module(f"conv{number}", self.backbone.layers[place])
            self.backbone.resinit.add_module(f"bn{number}", self.backbone.layers[place + 1])
        third, fourth = CHANNELS
        aspp: Any = nn.Module()
        aspp.b0 = nn.Sequential(conv(fourth, 512, bias=False), bn_relu(512))
        for number, rate in enumerate((12, 24, 36), 1):
            branch = nn.Sequential(conv(fourth, 512, 3, bias=False, dilation=rate), bn_relu(512))
            aspp.add_module(f"b{number}", branch)
        aspp.b4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(fourth, 512, bias=False), bn_relu(512))
        aspp.project = nn.Sequential(conv(2560, 512, 3, bias=False), bn_relu(512))
        self.decoder: Any = nn.Module()
        self.decoder.layer_aspp = aspp
        self.decoder.layer_dsn = nn.Sequential(conv(third, 256, 3), bn_relu(256), conv(256, CLASSES))
        refine = conv(512, 512, 3, bias=False), nn.BatchNorm2d(512), conv(512, CLASSES)
        self.decoder.refine = nn.Sequential(*refine)
        self.proj_head: Any = projection_head(fourth)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.proj_head.proj(self.backbone(images)[1]))

    def forward(self, images: Tensor) -> Tensor:
        x, aspp = self.backbone(images)[1], self.decoder.layer_aspp
        branches = [aspp.b0(x), aspp.b1(x), aspp.b2(x), aspp.b3(x)]
        branches.append(bilinear(aspp.b4(x), x.shape[-2:], align_corners=True))
        logits = self.decoder.refine(aspp.project(torch.cat(branches, 1)))
        return bilinear(logits, images.shape[-2:], align_corners=True)


class OfficialHRNet(nn.Module):
    """HRNet/HRNet-Semantic-Segmentation, seg_hrnet; branches differ in ``align_corners``."""

    def __init__(self, *, align_corners: bool):
        super().__init__()
        self.backbone = HRNetBackbone(align_corners=align_corners)
        norm = nn.BatchNorm2d(WIDTH)
        self.last_layer = nn.Sequential(conv(WIDTH, WIDTH), norm, nn.ReLU(), conv(WIDTH, CLASSES))
        self.align_corners = align_corners

    def forward(self, images: Tensor) -> Tensor:
        return bilinear(self.last_layer(self.backbone(images)), images.shape[-2:], self.align_corners)


class OfficialOCR(nn.Module):
    """HRNet/HRNet-Semantic-Segmentation, seg_hrnet_ocr: an auxiliary head of 1×1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HRNetBackbone(align_corners=True)
        self.conv3x3_ocr = nn.Sequential(conv(WIDTH, 512, 3), nn.BatchNorm2d(512), nn.ReLU())
        self.ocr_distri_head = ObjectContext(bias=False)
        self.cls_head = conv(512, CLASSES)
        norm = nn.BatchNorm2d(WIDTH)
        self.aux_head = nn.Sequential(conv(WIDTH, WIDTH), norm, nn.ReLU(), conv(WIDTH, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        hidden = self.ocr_distri_head(self.conv3x3_ocr(features), self.aux_head(features))
        return bilinear(self.cls_head(hidden), images.shape[-2:], align_corners=True)
