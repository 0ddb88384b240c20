import pytest
import torch

from rmtnet.networks import LeNet5


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
