import itertools

import numpy as np
import pytest
import torch

from rmtnet.networks import CudaConvNet, InnerProductNet, LeNet5, inner_product


@pytest.mark.parametrize("b1", [1, 5, 10, 20, 50, 100])
def test_ip1_starts_with_variance_b1_over_800(b1):
    torch.manual_seed(0)
    weight = LeNet5(b1=b1).ip1.weight
    assert weight.numel() == 400_000 // b1
    error = (0.8 / weight.numel()) ** 0.5
    assert weight.double().var(correction=0).item() == pytest.approx(b1 / 800, rel=5 * error)
    assert weight.abs().max().item() <= (3 * b1 / 800) ** 0.5


def test_sisters_of_one_seed_differ_in_the_layer_in_blocks_alone():
    def sister(**blocks):
        torch.manual_seed(4)
        return LeNet5(**blocks).state_dict()

    dense = sister()
    for blocks, other in (({"b1": 10}, "ip1.weight"), ({"b2": 5}, "ip2.weight")):
        for name, value in sister(**blocks).items():
            assert torch.equal(value, dense[name]) == (name != other), name
    torch.manual_seed(5)
    assert not torch.equal(LeNet5().conv1.weight, dense["conv1.weight"])


def test_the_layers_are_those_of_caffes_example():
    shapes = {name: tuple(value.shape) for name, value in LeNet5().named_parameters()}
    assert shapes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "ip1.weight": (500, 800),
        "ip1.bias": (500,),
        "ip2.weight": (10, 500),
        "ip2.bias": (10,),
    }
    assert tuple(LeNet5(b1=100, b2=10).ip2.weight.shape) == (10, 1, 50)


@pytest.mark.parametrize(("layer", "fan_in"), [("conv1", 25), ("conv2", 500), ("ip2", 500)])
def test_the_other_layers_start_with_caffes_xavier_and_zero_biases(layer, fan_in):
    torch.manual_seed(1)
    module = getattr(LeNet5(), layer)
    weight = module.weight.double()
    assert weight.var(correction=0).item() * fan_in == pytest.approx(1, abs=5 * (0.8 / weight.numel()) ** 0.5)
    assert not module.bias.any()


def test_the_fan_in_of_ip2_is_its_blocks():
    torch.manual_seed(3)
    weights = torch.stack([LeNet5(b2=10).ip2.weight.detach().double() for _ in range(20)])
    assert weights.var().item() * 50 == pytest.approx(1, abs=5 * (0.8 / weights.numel()) ** 0.5)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_the_forward_pass_is_the_definition(activation):
    torch.manual_seed(2)
    network, images = LeNet5(b1=1, activation=activation), torch.rand(3, 1, 28, 28)
    pool = torch.nn.MaxPool2d(2)
    features = pool(network.conv2(pool(network.conv1(images)))).reshape(3, 800)
    hidden = features @ network.ip1.weight.T + network.ip1.bias
    hidden = hidden.clamp(min=0) if activation == "relu" else 1 / (1 + torch.exp(-hidden))
    expected = hidden @ network.ip2.weight.T + network.ip2.bias
    torch.testing.assert_close(network(images), expected)


def test_wrong_choices_are_one_clear_error():
    with pytest.raises(ValueError, match="blocks must divide in_features: 7 does not divide 800"):
        LeNet5(b1=7)
    with pytest.raises(ValueError, match="activation must be one of relu, sigmoid, got 'tanh'"):
        LeNet5(activation="tanh")


# --- cuda-convnet


def pooled(features, reduce):
    """Caffe's pooling of 3 in steps of 2, element by element: sizes round up, windows end at the border."""
    batch, channels, side, _ = features.shape
    places = range(0, -(-(side - 3) // 2) * 2 + 1, 2)
    result = np.empty((batch, channels, len(places), len(places)))
    for (i, row), (j, col) in itertools.product(enumerate(places), repeat=2):
        result[:, :, i, j] = reduce(features[:, :, row : row + 3, col : col + 3], axis=(2, 3))
    return result


def convolved(features, layer):
    """Cross-correlation with 5 x 5 weights and a border of two zeros, one offset at a time."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    side = features.shape[-1]
    padded = np.pad(features, ((0, 0), (0, 0), (2, 2), (2, 2)))
    result = bias[:, None, None] + np.zeros((len(features), len(bias), side, side))
    for i, j in itertools.product(range(5), repeat=2):
        result += np.einsum("oc,bcyx->boyx", weight[:, :, i, j], padded[:, :, i : i + side, j : j + side])
    return result


def test_the_forward_pass_of_cuda_convnet_is_caffes():
    torch.manual_seed(0)
    network = CudaConvNet()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    pixels = 100 * torch.randn(2, 3, 32, 32)
    features = np.maximum(pooled(convolved(pixels.double().numpy(), network.conv1), np.max), 0)
    assert features.shape == (2, 32, 16, 16)
    features = pooled(np.maximum(convolved(features, network.conv2), 0), np.mean)
    features = pooled(np.maximum(convolved(features, network.conv3), 0), np.mean)
    assert features.shape == (2, 64, 4, 4)
    scores = torch.from_numpy(features.reshape(2, 1024))
    for layer in (network.ip1, network.ip2):
        scores = scores @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(network(pixels).double(), scores, rtol=1e-4, atol=1e-4 * scores.abs().max().item())


@pytest.mark.parametrize(("b1", "b2"), [(1, 1), (8, 1), (64, 2)])
def test_cuda_convnet_starts_gaussian_with_caffes_deviations_whatever_its_blocks(b1, b2):
    torch.manual_seed(1)
    network = CudaConvNet(b1, b2)
    deviations = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "ip1": 0.1, "ip2": 0.1}
    for name, std in deviations.items():
        layer = getattr(network, name)
        weight = layer.weight.detach().double()
        assert weight.std().item() == pytest.approx(std, rel=5 * (2 * weight.numel()) ** -0.5), name
        # A Gaussian has 4.6 % beyond two deviations, a uniform law none.
        assert 0 < (weight.abs() > 2 * std).double().mean() < 0.1
        assert not layer.bias.any()
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters() if "weight" in name}
    expected = (2400, 25_600, 51_200, 65_536 // b1, 640 // b2)
    assert sizes == {f"{name}.weight": size for name, size in zip(deviations, expected, strict=True)}


@pytest.mark.parametrize(
    ("build", "other"),
    [
        (lambda: CudaConvNet(b1=8), "ip1.weight"),
        (lambda: CudaConvNet(b2=2), "ip2.weight"),
    ],
)
def test_sisters_of_cuda_convnet_differ_in_the_layer_in_blocks_alone(build, other):
    torch.manual_seed(4)
    dense = CudaConvNet().state_dict()
    torch.manual_seed(4)
    for name, value in build().state_dict().items():
        assert torch.equal(value, dense[name]) == (name != other), name


# --- inner product layers alone


def test_the_inner_product_net_is_its_definition():
    torch.manual_seed(5)
    network, images = InnerProductNet((12, 10, 10, 4), (1, 5, 1)), torch.randn(3, 3, 2, 2)
    features = images.reshape(3, 12)
    features = (features @ network.ip1.weight.T + network.ip1.bias).clamp(min=0)
    features = (features @ torch.block_diag(*network.ip2.weight).T + network.ip2.bias).clamp(min=0)
    torch.testing.assert_close(network(images), features @ network.ip3.weight.T + network.ip3.bias)
    assert network.ip2.weight.shape == (5, 2, 2)


def test_the_inner_product_net_starts_with_caffes_xavier_and_as_its_sisters():
    def made(*blocks):
        torch.manual_seed(6)
        return InnerProductNet((784, 500, 500, 10), blocks)

    dense, sister = made(1, 1, 1), made(1, 100, 1)
    for network, name, fan_in in ((dense, "ip1", 784), (dense, "ip2", 500), (sister, "ip2", 5), (dense, "ip3", 500)):
        weight = network.get_submodule(name).weight.detach().double()
        assert weight.var().item() * fan_in == pytest.approx(1, abs=5 * (0.8 / weight.numel()) ** 0.5)
        assert weight.abs().max().item() <= (3 / fan_in) ** 0.5
    for name, value in sister.state_dict().items():
        assert torch.equal(value, dense.state_dict()[name]) == (name != "ip2.weight"), name


def test_an_inner_product_net_needs_a_number_of_blocks_for_each_layer():
    with pytest.raises(ValueError, match=r"one number for each of 2 layers, got \(49,\)"):
        InnerProductNet((784, 980, 10), (49,))
    with pytest.raises(ValueError, match="3 does not divide 784"):
        InnerProductNet((784, 980, 10), (3, 1))


# --- random block shuffle


def test_permuted_blocks_see_other_blocks_of_the_input():
    torch.manual_seed(7)
    layer, inputs = inner_product(12, 8, 4, "once"), torch.randn(3, 5, 12)
    order = layer.block_col
    assert sorted(order) == [0, 1, 2, 3] != order
    expected = torch.empty(3, 5, 8)
    for block, column in enumerate(order):
        seen = inputs[..., 3 * column : 3 * column + 3]
        expected[..., 2 * block : 2 * block + 2] = seen @ layer.weight[block].T + layer.bias[2 * block : 2 * block + 2]
    torch.testing.assert_close(layer(inputs), expected)
    torch.testing.assert_close(layer.to_dense()(inputs), expected)


def test_a_shuffle_drawn_once_is_kept_with_the_network():
    torch.manual_seed(8)
    network, images = LeNet5(b1=10, b2=5, shuffle="once"), torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(network(images), network.eval()(images))
    other = LeNet5(b1=10, b2=5, shuffle="once")
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images), network(images))
    torch.manual_seed(8)
    assert torch.equal(LeNet5(b1=10, b2=5).ip1.weight, network.ip1.weight)


def test_a_shuffle_of_each_pass_is_drawn_anew_in_training_alone():
    torch.manual_seed(9)
    network, images = CudaConvNet(b1=8, shuffle="random"), torch.randn(2, 3, 32, 32)
    assert not torch.equal(network(images), network(images))
    plain = CudaConvNet(b1=8)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(images), plain(images))
