import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from rmtnet import caffe


def caffe_iterations(weight, gradients, *, rate, momentum, decay, gamma, power):
    """Caffe's solver, written from its definition: V <- mu V + rate_t (G + decay W), W <- W - V."""
    history = np.zeros_like(weight)
    for t, gradient in enumerate(gradients):
        rate_t = rate * (1 + gamma * t) ** -power
        history = momentum * history + rate_t * (gradient + decay * weight)
        weight = weight - history
    return weight


@pytest.mark.parametrize(("gamma", "power"), [(1e-4, 0.75), (0.5, 0.75), (0.0, 0.0)])
def test_iterates_are_those_of_caffes_solver(gamma, power):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(30, 5))
    weight = nn.Parameter(torch.tensor(start))
    optimizer = caffe.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4, gamma=gamma, power=power)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    expected = caffe_iterations(start, gradients, rate=0.1, momentum=0.9, decay=5e-4, gamma=gamma, power=power)
    np.testing.assert_allclose(weight.detach(), expected, rtol=1e-12)


def test_a_rate_that_drops_is_caffes_multistep():
    rng = np.random.default_rng(2)
    start, gradients = rng.normal(size=5), rng.normal(size=(30, 5))
    weight = nn.Parameter(torch.tensor(start))
    optimizer = caffe.SGD([weight], lr=0.1, momentum=0.9, drops=(10, 25))
    expected, history = start, np.zeros(5)
    for t, gradient in enumerate(gradients):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        history = 0.9 * history + (0.1 if t < 10 else 0.01 if t < 25 else 0.001) * gradient
        expected = expected - history
        np.testing.assert_allclose(weight.detach(), expected, rtol=1e-12)
    solver = caffe.Solver(rate=0.001, gamma=0.0, drops=(3,))(nn.Linear(2, 2))
    assert [group["drops"] for group in solver.param_groups] == [[3], [3]]


def test_a_falling_rate_differs_from_torchs_own_momentum():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(30, 5))
    weight = nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for t, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + 0.5 * t) ** -0.75
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    expected = caffe_iterations(start, gradients, rate=0.1, momentum=0.9, decay=5e-4, gamma=0.5, power=0.75)
    assert not np.allclose(weight.detach(), expected, rtol=1e-3)


def test_the_solver_doubles_the_rate_of_biases_and_decays_them_too():
    model = nn.Linear(3, 2).double()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = caffe.Solver()(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, rate in (("weight", 0.01), ("bias", 0.02)):
        moved = before[name] - rate * (1 + 5e-4 * before[name])
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), moved)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 + 1e-4) ** -0.75, rel=1e-14)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.02 * (1 + 1e-4) ** -0.75, rel=1e-14)


def test_the_iteration_is_part_of_the_state():
    rng = np.random.default_rng(1)
    gradients = torch.tensor(rng.normal(size=(20, 4)))
    whole, halves = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "gamma": 0.3, "power": 0.75}
    optimizer = caffe.SGD([whole], **options)
    first = caffe.SGD([halves], **options)
    for t, gradient in enumerate(gradients):
        whole.grad, halves.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        if t == 10:
            state, first = first.state_dict(), caffe.SGD([halves], **options)
            first.load_state_dict(state)
        first.step()
    assert torch.equal(whole, halves)


def test_xavier_has_variance_one_over_the_fan_in():
    weight = caffe.xavier_uniform_(torch.empty(1000, 800, dtype=torch.float64), fan_in=800)
    assert weight.var().item() * 800 == pytest.approx(1, abs=5 * (0.8 / weight.numel()) ** 0.5)
    assert weight.abs().max().item() <= (3 / 800) ** 0.5


def test_a_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"lr must be positive, got 0\.0"):
        caffe.SGD([nn.Parameter(torch.ones(1))], lr=0.0)


def test_copies_keep_the_rate_policy():
    weight = nn.Parameter(torch.ones(2))
    optimizer = caffe.SGD([weight], lr=0.1, gamma=1.0, power=1.0)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for _ in range(4):
            twin.param_groups[0]["params"][0].grad = torch.zeros(2)
            twin.step()
        assert twin.param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_a_group_that_is_added_later_follows_the_policy():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = caffe.SGD([first], lr=0.1, gamma=1.0, power=1.0)
    first.grad = torch.zeros(1)
    optimizer.step()
    optimizer.add_param_group({"params": [second], "lr": 0.2})
    second.grad = torch.zeros(1)
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 / 2, 0.2 / 2])


def test_biases_of_recurrent_layers_are_biases_too():
    groups = caffe.Solver()(nn.LSTM(3, 2)).param_groups
    assert [len(group["params"]) for group in groups] == [2, 2]


def test_a_scheduler_of_torch_is_refused_in_place_of_being_ignored():
    model = nn.Linear(2, 2)
    optimizer = caffe.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    with pytest.raises(ValueError, match="sets its own rates"):
        optimizer.step()
