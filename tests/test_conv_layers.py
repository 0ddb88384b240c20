import copy
import io

import pytest
import torch
from torch import nn

from rmtnet.layers.conv import BlockSparseConv2d, block_diagonal_conv
from rmtnet.matrices import matrices

MASK = [[True, False, True], [False, False, False], [False, True, True]]
OPTIONS = [
    {},
    {"bias": False},
    {"stride": 2, "padding": (1, 2)},
    {"padding": "same", "dilation": 2},
]


def masked(conv, mask):
    """The convolution, its kernels off the mask set to zero."""
    entries = torch.as_tensor(mask).repeat_interleave(conv.out_channels // len(mask), 0)
    entries = entries.repeat_interleave(conv.in_channels // len(mask[0]), 1)
    conv = copy.deepcopy(conv)
    conv.weight.data *= entries[:, :, None, None]
    return conv, entries


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch", [(2,), (0,), ()])
def test_values_and_gradients_are_those_of_the_masked_convolution(options, batch):
    torch.manual_seed(0)
    dense, entries = masked(nn.Conv2d(6, 9, (3, 5), **options, dtype=torch.float64), MASK)
    layer = BlockSparseConv2d.from_conv(dense, MASK)
    images, also = (torch.randn(*batch, 6, 9, 8, dtype=torch.float64) for _ in range(2))
    also.copy_(images)
    outputs, expected = layer(images.requires_grad_()), dense(also.requires_grad_())
    torch.testing.assert_close(outputs, expected)
    upstream = torch.randn_like(expected)
    outputs.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(images.grad, also.grad)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.grad)
    torch.testing.assert_close(layer.to_dense().weight, dense.weight.grad * entries[:, :, None, None])
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad)


def test_to_dense_gives_the_masked_convolution_back():
    dense, _ = masked(nn.Conv2d(6, 9, 3, stride=2, padding=1), MASK)
    back = BlockSparseConv2d.from_conv(dense, MASK).to_dense()
    assert repr(back) == repr(dense)
    torch.testing.assert_close(back.weight, dense.weight, rtol=0, atol=0)
    torch.testing.assert_close(back.bias, dense.bias, rtol=0, atol=0)


def test_it_starts_with_the_variance_of_the_blocks_a_row_keeps():
    layer = BlockSparseConv2d(40, 600, 5, [[True, True], [True, False], [False, False]])
    for i, fan_in in enumerate((1000, 500)):
        entries = layer.weight[layer.block_row == i]
        # Uniform: kurtosis 9/5, so the sampled variance has the relative error sqrt(0.8 / entries).
        assert entries.var().item() * 3 * fan_in == pytest.approx(1, abs=5 * (0.8 / entries.numel()) ** 0.5)
    assert not layer.bias[400:].any()


def test_state_brings_the_places_of_the_blocks_along():
    layer = BlockSparseConv2d(6, 9, 3, MASK)
    other = BlockSparseConv2d(6, 9, 3, [[True, True, True], [True, False, False], [False] * 3])
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    images = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(other(images), layer(images))
    torch.testing.assert_close(copy.deepcopy(other)(images), layer(images))


def test_it_exports_with_a_free_batch_and_autocasts():
    layer = BlockSparseConv2d(6, 9, 3, MASK)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(layer, (torch.randn(4, 6, 8, 8),), dynamic_shapes=({0: batch},))
    images = torch.randn(3, 6, 8, 8)
    torch.testing.assert_close(program.module()(images), layer(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16


def test_the_recorder_reads_its_blocks():
    matrix, grouped = matrices(
        nn.Sequential(BlockSparseConv2d(6, 9, 3, MASK), block_diagonal_conv(nn.Conv2d(9, 6, 3), 3))
    )
    assert matrix.shape == (4, 3, 18)
    assert (matrix.layout.form, matrix.layout.block_row, matrix.layout.block_col) == (
        "block_sparse",
        (0, 0, 2, 2),
        (0, 2, 1, 2),
    )
    assert (matrix.layout.out_features, matrix.layout.in_features) == (9, 54)
    assert (grouped.layout.form, grouped.shape) == ("block_diagonal", (3, 2, 27))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_grouped_convolution_has_the_diagonal_blocks(options):
    dense, _ = masked(nn.Conv2d(6, 9, (3, 5), **options), torch.eye(3, dtype=torch.bool).tolist())
    grouped = block_diagonal_conv(dense, 3)
    images = torch.randn(2, 6, 9, 8)
    assert grouped.groups == 3
    torch.testing.assert_close(grouped(images), dense(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockSparseConv2d(6, 9, 3, [[True] * 4]), "cuts inputs into 4 blocks, which does not divide 6"),
        (lambda: BlockSparseConv2d(6, 9, 3, [[False] * 3]), "mask keeps no block"),
        (lambda: BlockSparseConv2d.from_conv(nn.Conv2d(6, 6, 3, groups=2), MASK), "has 2 groups already"),
        (lambda: block_diagonal_conv(nn.Conv2d(6, 6, 3, padding_mode="reflect"), 2), "padding_mode must be 'zeros'"),
        (lambda: block_diagonal_conv(nn.Conv2d(6, 9, 3), 2), "cuts outputs into 2 blocks, which does not divide 9"),
        (lambda: block_diagonal_conv(nn.Conv2d(6, 9, 3), 0), "into 0 blocks"),
    ],
)
def test_what_cannot_be_cut_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_tells_the_blocks():
    assert repr(BlockSparseConv2d(6, 9, 3, MASK)) == (
        "BlockSparseConv2d(6, 9, kernel_size=(3, 3), stride=1, padding=0, blocks=4 of 3 x 3, bias=True)"
    )
