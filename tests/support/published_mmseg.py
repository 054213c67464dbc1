"""mmsegmentation's networks in miniature, as ``published_sources`` has the others."""

from typing import Any

import torch
from torch import Tensor, nn

from published_sources import CHANNELS, CLASSES, WIDTH, DilatedResNet, HRNetBackbone, attend, bilinear, conv


class ConvModule(nn.Module):
    """mmcv's: a convolution without bias, BatchNorm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int = 1, *, dilation: int = 1):
        super().__init__()
        self.conv = conv(channels, width, kernel, bias=False, dilation=dilation)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class FCNHead(nn.Module):
    """mmsegmentation's, of one convolution."""

    def __init__(self, channels: int, width: int, kernel: int = 1):
        super().__init__()
        self.conv_seg = conv(width, CLASSES)
        self.convs = nn.Sequential(ConvModule(channels, width, kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.convs(x))


class MmsegHRNet(nn.Module):
    """mmsegmentation's fcn_hr: EncoderDecoder of HRNet and FCNHead."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HRNetBackbone(align_corners=False)
        self.decode_head = FCNHead(WIDTH, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        return bilinear(self.decode_head(self.backbone(images)), images.shape[-2:], align_corners=False)


class OCRHead(nn.Module):
    """mmsegmentation's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_seg = conv(512, CLASSES)
        block: Any = nn.Module()
        block.key_project = nn.Sequential(ConvModule(512, 256), ConvModule(256, 256))
        block.query_project = nn.Sequential(ConvModule(512, 256), ConvModule(256, 256))
        block.value_project, block.out_project = ConvModule(512, 256), ConvModule(256, 512)
        block.bottleneck = ConvModule(1024, 512)
        self.object_context_block = block
        self.bottleneck = ConvModule(WIDTH, 512, 3)

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        pixels, block = self.bottleneck(features), self.object_context_block
        found = attend(pixels, scores, block.query_project, block.key_project, block.value_project)
        return self.conv_seg(block.bottleneck(torch.cat([block.out_project(found), pixels], 1)))


class MmsegOCR(nn.Module):
    """mmsegmentation's ocrnet_hr: CascadeEncoderDecoder."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HRNetBackbone(align_corners=False)
        self.decode_head = nn.ModuleList([FCNHead(WIDTH, WIDTH), OCRHead()])

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        logits = self.decode_head[1](features, self.decode_head[0](features))
        return bilinear(logits, images.shape[-2:], align_corners=False)


class ASPPHead(nn.Module):
    """mmsegmentation's: image pooling first."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_seg = conv(512, CLASSES)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(channels, 512))
        rates = (1, 12, 24, 36)
        self.aspp_modules = nn.ModuleList(
            ConvModule(channels, 512, 1 if rate == 1 else 3, dilation=rate) for rate in rates
        )
        self.bottleneck = ConvModule(2560, 512, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.image_pool(x).expand(-1, -1, *x.shape[-2:])
        return self.conv_seg(self.bottleneck(torch.cat([pooled, *(m(x) for m in self.aspp_modules)], 1)))


class MmsegDeepLabV3(nn.Module):
    """mmsegmentation's deeplabv3_r…-d8; crops of 769 come with ``align_corners``."""

    def __init__(self, *, align_corners: bool):
        super().__init__()
        self.backbone = DilatedResNet(ceil_mode=False)
        self.backbone.stem = nn.Sequential(*self.backbone.layers)
        self.decode_head = ASPPHead(CHANNELS[1])
        self.auxiliary_head = FCNHead(CHANNELS[0], 256, 3)
        self.align_corners = align_corners

    def forward(self, images: Tensor) -> Tensor:
        logits = self.decode_head(self.backbone(images)[1])
        return bilinear(logits, images.shape[-2:], self.align_corners)
