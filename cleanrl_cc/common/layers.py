"""Layers that take care of precision: one reads bytes, one answers in fp32 whatever the others compute in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ByteConv2d(nn.Conv2d):
    """A convolution, without padding, of images (B, C, H, W) whose bytes stand for numbers from -½ to ½. It
    scales its weights in place of the images, of which there is so much more."""

    bias: Tensor  # it has one

    def forward(self, images: Tensor) -> Tensor:
        # W (x / 255 - ½) + b = (W / 255) x + (b - ½ Σ W): bytes are exact in bf16, too
        bias = self.bias - self.weight.sum(dim=(1, 2, 3)) / 2
        dtype = torch.bfloat16 if torch.is_autocast_enabled(images.device.type) else torch.float32
        x = images.contiguous(memory_format=torch.channels_last).to(dtype)
        return F.conv2d(x, self.weight / 255, bias, self.stride)


class Fp32Linear(nn.Linear):
    """The last layer of a network, in fp32 under autocast, too: bf16 would round its answers to 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
