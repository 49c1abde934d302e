"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; Lite variant of 2020: ReLU6, no squeeze and excitation) as a feature extractor.

Module names are those of the published weights, so that a state dict loads as it is.

Shapes: `B` pictures, `C` channels, `H W` height and width, `h w` a 32nd of them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# kernel, stride, expansion, channels out, blocks
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_EPSILON = 1e-3
_PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


class EfficientNetLite0(nn.Module):
    """Pictures [B, 3, H, W], (8-bit values - 127) / 128, to cells [B, 1280, h, w] before pooling; `classify` goes on to 1000 ImageNet logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        blocks = []
        channels = 32
        for kernel, stride, expansion, channels_out, count in _STAGES:
            for index in range(count):
                blocks.append(_Block(channels, channels_out, kernel, stride if index == 0 else 1, expansion))
                channels = channels_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, _EPSILON)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(pictures)))  # [B, 32, H/2, W/2]
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))  # [B, 1280, h, w]

    def fuse(self) -> EfficientNetLite0:
        """Folds every normalisation into the convolution before it, for inference: the same numbers up to rounding, with a third less work on a CPU."""
        for module in list(self.modules()):
            for conv, norm in _PAIRS:
                if hasattr(module, conv) and isinstance(getattr(module, norm), nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())
        return self

    def classify(self, pictures: Tensor) -> Tensor:
        """Logits of the ImageNet-1k classes, [B, 1000]."""
        return self._fc(self(pictures).mean((2, 3)))


class _SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME: the odd pixel goes to the right and the bottom."""

    def __init__(self, channels: int, channels_out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding: list[int] = []
        for length in (input.shape[-1], input.shape[-2]):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


class _Block(nn.Module):
    def __init__(self, channels: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and channels == channels_out
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, _EPSILON)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = nn.BatchNorm2d(hidden, _EPSILON)
        self._project_conv = nn.Conv2d(hidden, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, _EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y
