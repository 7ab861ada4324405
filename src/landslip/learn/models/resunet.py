"""The ResU-Net of Qi et al. 2020: a ResNet-50 encoder and a U-Net decoder for landslides.

Two readings are built: `ResUNet` is the graph that the authors' code runs, `ResUNetTable1` is
Table 1 of the paper, word for word. Where paper and code disagree, `ResUNet` follows the code,
except that maps are resized to the size of the skip they meet (the code crops, and crashes on
600 x 512) and that logits come out instead of probabilities.

Source:
    Qi, Wei, Yang, Xu, Ma 2020, Automatic Mapping of Landslides by the ResU-Net, Remote Sensing
    12(15), 2487; https://github.com/WenwenQi/Deep-Residual-U-Net-for-extracting-landslides
    (model.py and layers.py, state of 2020-10-13).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def initialise(model: nn.Module) -> None:
    """Draw the convolutions of `model` from Kaiming's uniform distribution; biases are zero.

    The paper says "Kaiming uniform" and no more. With the gain of ReLU the first logits of
    `ResUNet` have a standard deviation of 11 and training at the paper's rate diverges; with
    PyTorch's own a = sqrt(5) it is 0.26.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Bottleneck(nn.Module):
    """The residual block of ResNet-50: 1x1, 3x3 (which carries the stride), 1x1.

    Attribute names, here and in `ResNet50`, are torchvision's, so that its weights can be loaded.

    Source:
        He et al. 2016, Deep Residual Learning for Image Recognition, figure 5.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 4 * width, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return out


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class ResNet50(nn.Module):
    """ResNet-50 without its classifier, for images of any number of bands."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Map (B, bands, H, W) to five maps, finest first.

        Returns:
            The raw output of the stem's convolution (64 channels, 1/2), then those of layer1
            (256, 1/4), layer2 (512, 1/8), layer3 (1024, 1/16) and layer4 (2048, 1/32).
        """
        stem = self.conv1(x)
        quarter = self.layer1(self.maxpool(self.relu(self.bn1(stem))))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        return stem, quarter, eighth, sixteenth, self.layer4(sixteenth)


def _head(bands: int) -> nn.Sequential:
    # Full resolution, parallel to the encoder; the paper's text puts it in sequence.
    return nn.Sequential(
        nn.Conv2d(bands, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2, inplace=True),
    )


class _Upsample(nn.Module):
    """A 1x1 convolution without activation, then bilinear upsampling to the size of `like`."""

    def __init__(self, in_channels: int, width: int, *, align_corners: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, width, 1)
        self.align_corners = align_corners

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(
            self.reduce(x), like.shape[-2:], mode="bilinear", align_corners=self.align_corners
        )


class _Join(nn.Module):
    """Upsample to the skip's size and put the two side by side: Table 1's decoder step."""

    def __init__(self, in_channels: int, width: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.up = _Upsample(in_channels, width, align_corners=align_corners)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([self.up(x, skip), skip], dim=1)  # (B, width + skip's channels, H, W)


class _Fusion(nn.Module):
    """The authors' decoder step: join, one residual 1x1 convolution, smooth to `width`.

    The authors' code evaluates the residual twice and drops the first result, which moves the
    statistics of its normalisation twice a step; we evaluate it once.
    """

    def __init__(self, in_channels: int, width: int, *, align_corners: bool) -> None:
        super().__init__()
        self.join = _Join(in_channels, width, align_corners=align_corners)
        self.residual = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 2 * width, 1),
        )
        self.smooth = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined = self.join(x, skip)
        fused: Tensor = self.smooth(joined + self.residual(joined))
        return fused


class _Out(nn.Module):
    """Upsample to full resolution, add the head, classify; no activation in between."""

    def __init__(self, in_channels: int, outputs: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.up = _Upsample(in_channels, 64, align_corners=align_corners)
        self.classify = nn.Conv2d(64, outputs, 1)

    def forward(self, x: Tensor, head: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.up(x, head) + head)
        return logits


class ResUNet(nn.Module):
    """The ResU-Net as the authors' code runs it.

    The steps of Table 1 are submodules of their own, so a forward hook sees each of them:
    `head`, `encoder.conv1`, `encoder.maxpool`, `encoder.layer1` to `layer4`, `up1` to `up4`, `out`.

    Args:
        bands: Channels of the image.
        outputs: Channels of the logits; 1 but for the authors' own weights, which have 3.
        align_corners: How maps are upsampled. The authors' weights were trained with True, which
            shifts the far edge of a 600 px tile by up to 15.8 px; everything else wants False.
    """

    def __init__(self, bands: int, outputs: int = 1, *, align_corners: bool = False) -> None:
        super().__init__()
        self.head = _head(bands)
        self.encoder = ResNet50(bands)
        self.up1 = _Fusion(2048, 1024, align_corners=align_corners)
        self.up2 = _Fusion(1024, 512, align_corners=align_corners)
        self.up3 = _Fusion(512, 256, align_corners=align_corners)
        self.up4 = _Fusion(256, 64, align_corners=align_corners)
        self.out = _Out(64, outputs, align_corners=align_corners)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, bands, H, W) of any size to logits (B, outputs, H, W)."""
        stem, quarter, eighth, sixteenth, deepest = self.encoder(image)
        x = self.up1(deepest, sixteenth)  # (B, 1024, H/16, W/16)
        x = self.up2(x, eighth)  # (B, 512, H/8, W/8)
        x = self.up3(x, quarter)  # (B, 256, H/4, W/4)
        x = self.up4(x, stem)  # (B, 64, H/2, W/2)
        logits: Tensor = self.out(x, self.head(image))
        return logits


class ResUNetTable1(nn.Module):
    """The ResU-Net as Table 1 of the paper lists it: the decoder is 1x1 convolutions alone.

    Each convolution takes the whole concatenation before it. The head stays parallel, as in
    `ResUNet`, and the submodules carry the same names; `up1` to `up4` end with the concatenation.

    Args:
        bands: Channels of the image.
        outputs: Channels of the logits.
    """

    def __init__(self, bands: int, outputs: int = 1) -> None:
        super().__init__()
        self.head = _head(bands)
        self.encoder = ResNet50(bands)
        self.up1 = _Join(2048, 1024)
        self.up2 = _Join(2048, 512)
        self.up3 = _Join(1024, 256)
        self.up4 = _Join(512, 64)
        self.out = _Out(128, outputs)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, bands, H, W) of any size to logits (B, outputs, H, W)."""
        stem, quarter, eighth, sixteenth, deepest = self.encoder(image)
        x = self.up1(deepest, sixteenth)  # (B, 1024 + 1024, H/16, W/16)
        x = self.up2(x, eighth)  # (B, 512 + 512, H/8, W/8)
        x = self.up3(x, quarter)  # (B, 256 + 256, H/4, W/4)
        x = self.up4(x, stem)  # (B, 64 + 64, H/2, W/2)
        logits: Tensor = self.out(x, self.head(image))
        return logits
