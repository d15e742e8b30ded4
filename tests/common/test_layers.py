"""A layer that reads bytes computes what torch's does of scaled images; another one answers in fp32; pixels
are taken with all their channels."""

import pytest
import torch
import torch.nn.functional as F

from cleanrl_cc.common.layers import ByteConv2d, Fp32Linear, channels_last, take_pixels


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_stand_for_numbers_from_minus_a_half_to_a_half(precision):
    torch.manual_seed(1)
    layer = ByteConv2d(4, 16, 8, stride=4)
    images = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = layer(images)
    expected = F.conv2d(images / 255 - 0.5, layer.weight, layer.bias, stride=4)
    assert outputs.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    torch.testing.assert_close(
        outputs.float(), expected, rtol=0, atol={"fp32": 1e-5, "bf16": 2e-2}[precision]
    )


def test_its_gradients_are_those_of_a_convolution_of_scaled_images():
    torch.manual_seed(1)
    layer = ByteConv2d(1, 8, 8, stride=4)
    images = torch.randint(0, 256, (5, 1, 36, 36), dtype=torch.uint8)
    ours = torch.autograd.grad(layer(images).square().sum(), [layer.weight, layer.bias])
    outputs = F.conv2d(images / 255 - 0.5, layer.weight, layer.bias, stride=4)
    theirs = torch.autograd.grad(outputs.square().sum(), [layer.weight, layer.bias])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_the_last_layer_answers_in_fp32_where_the_others_compute_in_bf16():
    torch.manual_seed(1)
    layer = Fp32Linear(32, 7)
    x = torch.randn(5, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(x)
    assert outputs.dtype == torch.float32
    assert torch.equal(outputs, F.linear(x.float(), layer.weight, layer.bias))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 9])
def test_pixels_are_taken_with_all_their_channels(channels):
    torch.manual_seed(1)
    images = torch.randint(0, 256, (5, channels, 7, 6), dtype=torch.uint8)
    places = torch.randint(0, 7 * 6, (5, 7 * 6))
    expected = torch.stack([image.flatten(1)[:, row] for image, row in zip(images, places, strict=True)])
    for order in (torch.contiguous_format, torch.channels_last):
        taken = take_pixels(images.contiguous(memory_format=order), places)
        assert torch.equal(taken, expected.view_as(images))
    ordered = channels_last(images)
    assert torch.equal(ordered, images) and ordered.is_contiguous(memory_format=torch.channels_last)
