"""The classic U-Net, padded so that the output has the size of the input.

Source:
    Ronneberger, Fischer, Brox 2015, U-Net: Convolutional Networks for Biomedical Image
    Segmentation, arXiv:1505.04597, figure 1. Padding and batch normalisation are later custom.
"""

import torch
from torch import Tensor, nn

from landslip.learn.models.resunet import initialise


def _double_conv(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Four levels down, four up, with the skips concatenated.

    Args:
        bands: Channels of the image.
        outputs: Channels of the logits.
        base_width: Channels of the first level; each level down doubles them.
    """

    def __init__(self, bands: int, outputs: int = 1, *, base_width: int = 64) -> None:
        super().__init__()
        widths = [base_width * 2**level for level in range(5)]
        # Rounding up keeps the last row and column of an odd size, and lets any size through.
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.down = nn.ModuleList(
            _double_conv(i, o) for i, o in zip([bands, *widths[:3]], widths[:4], strict=True)
        )
        self.bottom = _double_conv(widths[3], widths[4])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:4])
        )
        self.join = nn.ModuleList(_double_conv(2 * width, width) for width in reversed(widths[:4]))
        self.classify = nn.Conv2d(base_width, outputs, 1)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, bands, H, W) of any size to logits (B, outputs, H, W)."""
        x = image
        skips: list[Tensor] = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            height, width = skip.shape[-2:]
            x = up(x)[..., :height, :width]  # at most one row and column came from rounding up
            x = join(torch.cat([skip, x], dim=1))
        logits: Tensor = self.classify(x)
        return logits
