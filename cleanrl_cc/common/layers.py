"""Layers that take care of precision: one reads bytes, one answers in fp32 whatever others compute in; and
images in the order in which convolutions read them."""

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
        x = channels_last(images).to(dtype)
        return F.conv2d(x, self.weight / 255, bias, self.stride)


class Fp32Linear(nn.Linear):
    """The last layer of a network, in fp32 under autocast, too: bf16 would round its answers to 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their number of bytes


def channels_last(images: Tensor) -> Tensor:
    """Images (B, C, H, W) with the channels of a pixel beside each other in memory."""
    if images.is_contiguous(memory_format=torch.channels_last) or torch.compiler.is_compiling():
        return images.contiguous(memory_format=torch.channels_last)  # a graph joins it with what follows
    # in 0.4 of the time that `contiguous` takes for bytes
    return torch.stack(images.unbind(1), dim=-1).permute(0, 3, 1, 2)


def take_pixels(images: Tensor, places: Tensor) -> Tensor:
    """Images (B, C, H, W) of bytes, whose pixels are those at `places` (B, H * W) of `images`."""
    batch_size, channels, height, width = images.shape
    if channels not in WORDS:
        return images.flatten(2).gather(2, places[:, None].expand(-1, channels, -1)).view_as(images)
    # all channels of a pixel are one number: four gray frames have 32 bits
    pixels = channels_last(images).permute(0, 2, 3, 1).view(WORDS[channels]).flatten(1)  # (B, H * W)
    taken = pixels.gather(1, places).view(torch.uint8)
    return taken.view(batch_size, height, width, channels).permute(0, 3, 1, 2)
