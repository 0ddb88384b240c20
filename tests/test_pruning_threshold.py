"""Penalties and thresholds, against autograd of the same loss and masks made by hand."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rmtnet import pruning
from rmtnet.caffe import SGD
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.pruning import BlockDiagonalPruning, PenaltyPruning, cubic, kernels, linear


def off_blocks(out, width, blocks):
    """Bool (out, in), True off the blocks."""
    return ~torch.block_diag(*[torch.ones(out // blocks, width // blocks)] * blocks).bool()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(16, 12, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def train(model, optimizer, pruner, count, first=1):
    losses = []
    for step, (inputs, labels) in enumerate(batches(count), first):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), labels) + pruner.penalty()
        loss.backward()
        optimizer.step()
        pruner.step(step)
        losses.append(loss.item())
    return losses


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "caffe": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, gamma=0.1, power=0.75),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "asgd": lambda parameters: torch.optim.ASGD(parameters, lr=0.1, t0=0),
}


# --- penalties


def test_the_off_block_penalty_is_equation_1():
    weight = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    outside = off_blocks(6, 8, 2)
    expected = sum(abs(weight[i, j].item()) for i, j in itertools.product(range(6), range(8)) if outside[i, j])
    value = pruning.off_block_l1(weight, 2)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, weight)
    assert_close(gradient, torch.sign(weight.detach()) * outside)
    assert torch.autograd.gradcheck(lambda w: pruning.off_block_l1(w, 2), weight)


@pytest.mark.parametrize("penalty", [pruning.l1, pruning.l2, lambda w: pruning.block_norms(w, (3, 2)).sum()])
def test_penalties_have_the_gradient_of_their_value(penalty):
    weight = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, weight)


def test_norms_of_blocks():
    weight = torch.randn(6, 8, dtype=torch.float64)
    norms = pruning.block_norms(weight, (3, 2))
    assert norms.shape == (2, 4)
    assert norms[1, 2].item() == pytest.approx(np.linalg.norm(weight[3:, 4:6]), rel=1e-12)
    stack = torch.stack([weight[3:, 4:6], weight[:3, :2]])
    assert_close(pruning.block_norms(stack), norms[[1, 0], [2, 0]])


def test_a_block_of_zeros_has_a_gradient_of_zeros():
    weight = torch.zeros(4, 4, requires_grad=True)
    pruning.block_norms(weight, (2, 2)).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(4, 4))


def test_sums_of_16_bit_weights_do_not_overflow():
    weight = torch.full((512, 512), 2.0, dtype=torch.float16)
    assert pruning.l1(weight).item() == 2**19 and pruning.l2(weight).item() == 2**19


# --- iterative pruning to block diagonal


class Reference:
    """IP-BDIP with autograd and explicit masks, as the paper has it."""

    def __init__(self, model, optimizer, blocks, begin, end, alpha, threshold):
        self.layers = [(model.get_submodule(name), count) for name, count in blocks.items()]
        self.outside = [off_blocks(*layer.weight.shape, count) for layer, count in self.layers]
        self.dead = [torch.zeros_like(outside) for outside in self.outside]
        self.begin, self.end, self.alpha, self.threshold = begin, end, alpha, threshold
        self.now = 0

    def penalty(self):
        if not self.begin <= self.now < self.end:
            return torch.zeros(())
        terms = zip(self.layers, self.outside, strict=True)
        return self.alpha * sum((layer.weight.abs() * outside).sum() for (layer, _), outside in terms)

    @torch.no_grad()
    def step(self, step):
        self.now = step
        for (layer, _), outside, dead in zip(self.layers, self.outside, self.dead, strict=True):
            layer.weight[dead] = 0
            if self.begin < step <= self.end:
                dead |= outside & (layer.weight.abs() <= self.threshold)
            if step >= self.end:
                dead |= outside
            layer.weight[dead] = 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_as_autograd_and_masks_do_also_after_packing(name):
    settings = {"alpha": 0.02, "threshold": 0.03}
    runs = []
    for dense in (True, False):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        if dense:
            pruner = Reference(model, optimizer, {"0": 4, "2": 2}, 5, 20, **settings)
        else:
            pruner = BlockDiagonalPruning({"0": 4, "2": 2}, dense=5, pruning=15, **settings)(model, optimizer)
        runs.append((train(model, optimizer, pruner, 40), model))
    (expected, reference), (losses, model) = runs
    assert type(model[0]) is BlockDiagonalLinear and model[2].blocks == 2
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for place in (0, 2):
        assert_close(model[place].to_dense().weight, reference[place].weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loops", [True, False])
def test_compiled_loops_and_torch_do_the_same(monkeypatch, loops):
    if loops and kernels.compiled(kernels.shrink) is None:
        pytest.skip("numba is not installed")
    if not loops:
        monkeypatch.setattr(kernels, "can_run", lambda weight: False)
    for norm, shape in ((1, (12, 8)), (1, (4, 3, 2, 2)), (2, (12, 8))):
        blocks = 4 if len(shape) == 2 and norm == 1 else 1
        module = nn.Linear(8, 12) if len(shape) == 2 else nn.Conv2d(3, 4, 2)
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
        module.weight = nn.Parameter(weight.clone())
        module.register_buffer("weight_mask", mask.clone())
        outside = off_blocks(12, 8, 4) if blocks == 4 else torch.ones(shape, dtype=torch.bool)
        region = pruning.region.Region(module, norm, blocks)
        module.weight.grad = torch.ones(shape)
        region.add_gradient(0.5)
        region.add_gradient(0.5)  # the same numbers: not again
        own = torch.sign(weight) if norm == 1 else weight
        assert_close(module.weight.grad, 1 + 0.5 * own * outside)
        region.shrink(0.4)
        alive = (mask & (weight.abs() > 0.4)) | (~outside & mask)
        expected = torch.where(alive | ~outside, weight, 0)
        if not loops:
            expected = torch.where(alive, expected, 0)  # what else is dead within a block is 0 already
        kept = outside | mask
        assert_close(module.weight.detach()[kept], expected[kept])
        assert torch.equal(module.weight_mask, alive)
        norm_of = (module.weight.detach() * outside).double().abs().pow(norm).sum() / norm
        assert region.value().item() == pytest.approx(norm_of.item(), rel=1e-5)


def test_phases_and_what_is_told_of_them():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recipe = BlockDiagonalPruning({"0": 4}, dense=3, pruning=4, alpha=1.0, threshold=0.01, measure=True)
    pruner = recipe(model, optimizer)
    dead = torch.zeros(8, 12, dtype=torch.bool)
    for step, (inputs, labels) in enumerate(batches(7), 1):
        penalty = pruner.penalty()
        assert (penalty.item() > 0) == (step > 3) and penalty.shape == ()
        if step > 3:
            assert penalty.item() == pytest.approx(pruning.off_block_l1(model[0].weight, 4).item(), rel=1e-5)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        if step <= 3:
            assert bool(model[0].weight_mask.all())
        else:
            weight = model[0].weight.detach()
            assert bool((weight[dead] == 0).all())  # momentum has not revived them
            dead = ~model[0].weight_mask.clone()
            assert bool((weight[dead] == 0).all()) and bool((weight[off_blocks(8, 12, 4) & ~dead].abs() > 0.01).all())
            assert pruner.statistics()["0.sparsity"] == pytest.approx(dead.double().mean().item())
        pruner.step(step)
    assert pruner.packed and pruner.penalty().item() == 0
    assert pruner.statistics() == {"0.sparsity": 0.75, "0.alive": 24.0}
    assert [removal.step for removal in pruner.removals] == [3, 4, 5, 6, 7]
    assert sum(removal.count for removal in pruner.removals) >= 72
    assert all(0 <= removal.share < 1 and removal.l1 >= 0 for removal in pruner.removals)


def test_a_threshold_and_a_strength_may_follow_the_steps():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recipe = BlockDiagonalPruning(
        {"2": 2}, dense=0, pruning=10, alpha=linear(0, 10, final=2.0), threshold=cubic(0, 10, final=0.2)
    )
    pruner = recipe(model, optimizer)
    before = model[2].weight.detach().clone()
    pruner.step(4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    alive = (before.abs() > 0.2 * (1 - 0.5**3)) | ~off_blocks(4, 8, 2)
    assert torch.equal(model[2].weight_mask, alive)
    assert pruner.penalty().item() == pytest.approx(0.8 * pruning.off_block_l1(model[2].weight, 2).item(), rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_those_of_the_scaled_loss_under_amp(fused):
    """GradScaler: unscaled gradients reach the step, and a step that is skipped removes and adds nothing."""
    model, other = network(), network()
    pruners = []
    for each, scale in ((model, 2.0**10), (other, 1.0)):
        optimizer = torch.optim.Adam(each.parameters(), lr=1e-2, fused=fused)
        pruner = BlockDiagonalPruning({"0": 4}, dense=0, pruning=9, alpha=0.1, threshold=0.01)(each, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        pruners.append(pruner)
        for step, (inputs, labels) in enumerate(batches(6), 1):
            optimizer.zero_grad()
            scaler.scale(functional.cross_entropy(each(inputs), labels) + pruner.penalty()).backward()
            scaler.step(optimizer)
            scaler.update()
            pruner.step(step)
    assert_close(model[0].weight, other[0].weight)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "recipe",
    [
        BlockDiagonalPruning({"0": 4}, dense=0, pruning=9, alpha=0.1, threshold=0.1),
        PenaltyPruning(alpha=0.1, threshold=0.1, end=9),
    ],
)
def test_a_step_that_is_skipped_removes_nothing(fused, recipe):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    recipe(model, optimizer)
    before = model[0].weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(torch.full((1, 12), torch.inf)).sum()).backward()
    scaler.step(optimizer)
    assert torch.equal(model[0].weight.detach(), before) and bool(model[0].weight_mask.all())


def test_frozen_layers_have_no_penalty():
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = PenaltyPruning(alpha=0.1, threshold=0.0, end=9)(model, optimizer)
    before = [model[k].weight.detach().clone() for k in (0, 2)]
    train(model, optimizer, pruner, 3)
    assert torch.equal(model[0].weight, before[0]) and model[0].weight.grad is None
    assert not torch.equal(model[2].weight, before[1])


def test_weights_may_change_their_kind_of_number():
    model = network().double()
    pruner = PenaltyPruning(alpha=0.1, threshold=0.01, end=9)(model, torch.optim.SGD(model.parameters(), lr=0.1))
    expected = pruner.penalty().item()
    model.bfloat16()
    assert pruner.penalty().item() == pytest.approx(expected, rel=1e-2)


def test_weights_are_counted_only_where_so_many_are_to_be_left(monkeypatch):
    counted = []
    count_above = pruning.region.Region.count_above
    monkeypatch.setattr(
        pruning.region.Region, "count_above", lambda *arguments: counted.append(1) or count_above(*arguments)
    )
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recipe = PenaltyPruning(alpha=0.1, threshold=0.01, end=9, layers=["0", "2"], kept={"2": 5})
    train(model, optimizer, recipe(model, optimizer), 3)
    assert len(counted) == 3


def test_closures_are_given_the_penalty_too():
    results = []
    for closed in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        BlockDiagonalPruning({"0": 4}, dense=0, pruning=9, alpha=0.1, threshold=0.0)(model, optimizer)
        inputs, labels = next(batches(1))

        def closure(model=model, optimizer=optimizer, inputs=inputs, labels=labels):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()

        if closed:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        results.append(model[0].weight.detach())
    assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("stop", [2, 8, 20])
def test_a_run_goes_on_from_its_state(stop, tmp_path):
    recipe = BlockDiagonalPruning({"0": 4, "2": 2}, dense=4, pruning=9, alpha=0.05, threshold=0.02)

    def begun():
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return model, optimizer, recipe(model, optimizer)

    whole, part, last = begun(), begun(), begun()
    data = list(batches(30))

    def advance(training, first, end):
        model, optimizer, pruner = training
        for step in range(first, end):
            optimizer.zero_grad()
            (functional.cross_entropy(model(data[step][0]), data[step][1]) + pruner.penalty()).backward()
            optimizer.step()
            pruner.step(step + 1)

    advance(whole, 0, 30)
    advance(part, 0, stop)
    torch.save([each.state_dict() for each in part], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for each, state in zip(reversed(last), reversed(states), strict=True):
        each.load_state_dict(state)
    advance(last, stop, 30)
    for name, parameter in whole[0].named_parameters():
        assert torch.equal(parameter, last[0].get_parameter(name)), name
    assert whole[2].removals == last[2].removals


def test_a_packed_pruner_takes_no_older_state():
    model = network()
    pruner = BlockDiagonalPruning({"0": 4}, dense=0, pruning=1, alpha=0.0, threshold=0.0)(
        model, torch.optim.SGD(model.parameters(), lr=0.1)
    )
    state = copy.deepcopy(pruner.state_dict())
    pruner.step(1)
    with pytest.raises(ValueError, match="before it was packed"):
        pruner.load_state_dict(state)


# --- unstructured


@pytest.mark.parametrize("norm", [1, 2])
def test_traditional_pruning_leaves_exactly_what_is_asked_for(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(40, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    kept = {"0": 10, "2": 37}
    pruner = PenaltyPruning(alpha=0.02, threshold=0.02, norm=norm, begin=2, end=20, kept=kept)(model, optimizer)
    for step in range(1, 31):
        optimizer.zero_grad()
        (model(torch.randn(8, 3, 12)).square().mean() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(step)
        alive = {name: int(model.get_submodule(name).weight_mask.sum()) for name in kept}
        assert all(alive[name] >= count for name, count in kept.items())
    assert alive == kept
    assert {name: int(torch.count_nonzero(model.get_submodule(name).weight)) for name in kept} == kept
    assert pruner.statistics() == {
        "0.sparsity": pytest.approx(26 / 36), "0.alive": 10.0, "2.sparsity": pytest.approx(203 / 240), "2.alive": 37.0
    }  # fmt: skip


def test_a_threshold_that_is_too_high_does_not_remove_too_much():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    largest = model[0].weight.detach().abs().flatten().sort(descending=True)
    pruner = PenaltyPruning(alpha=0.0, threshold=10.0, end=2, kept={"0": 7})(model, optimizer)
    train(model, optimizer, pruner, 2)
    assert torch.equal(model[0].weight_mask.flatten().nonzero().flatten(), largest.indices[:7].sort().values)


def test_asgd_averages_of_removed_weights_are_zero():
    model = network()
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.1, t0=0)
    pruner = PenaltyPruning(alpha=0.05, threshold=0.05, end=5, layers=["0"])(model, optimizer)
    train(model, optimizer, pruner, 10)
    dead = ~model[0].weight_mask
    assert bool(dead.any()) and not bool(optimizer.state[model[0].weight]["ax"][dead].any())


def test_another_optimizer_takes_over():
    model = network()
    pruner = PenaltyPruning(alpha=0.05, threshold=0.05, end=5, layers=["0"])(
        model, torch.optim.SGD(model.parameters(), lr=0.1)
    )
    train(model, pruner.optimizer, pruner, 5)
    pruner.attach(torch.optim.ASGD(model.parameters(), lr=0.1))
    train(model, pruner.optimizer, pruner, 5, first=6)
    assert bool((~model[0].weight_mask).any()) and not bool(model[0].weight[~model[0].weight_mask].any())
    pruner.detach()
    train(model, pruner.optimizer, pruner, 1, first=11)
    assert bool(model[0].weight[~model[0].weight_mask].any())


# --- mistakes

GOOD = {"blocks": {"0": 4}, "dense": 1, "pruning": 2, "alpha": 0.1, "threshold": 0.1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -1.0}, "alpha must be finite and not negative, got -1.0"),
        ({"threshold": -1e-9}, "threshold must be finite and not negative"),
        ({"threshold": float("nan")}, "threshold must be finite"),
        ({"threshold": linear(0, 5, initial=-1.0)}, "threshold must be finite and not negative, got -1.0"),
        ({"dense": -1}, "dense must be a whole number"),
        ({"pruning": 0}, "pruning must be at least 1"),
        ({"blocks": {"0": 1}}, "at least 2"),
        ({"blocks": {}}, "names no layer"),
        ({"blocks": {"0": 5}}, "5 blocks do not divide the 12 in_features of 0"),
        ({"blocks": {"ip1": 4}}, "no layer to prune matches 'ip1'; there are 0, 2"),
    ],
)
def test_wrong_recipes_are_told(wrong, message):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        BlockDiagonalPruning(**{**GOOD, **wrong})(model, optimizer)


def test_a_wrapped_model_is_refused_before_it_trains():
    model = nn.DataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="pack the module, then wrap it anew"):
        BlockDiagonalPruning(**GOOD)(model, optimizer)
    pruner = PenaltyPruning(alpha=0.1, threshold=0.1, end=3, layers=["0"])(model, optimizer)
    assert pruner.units[0].module is model.module[0]


def test_weights_that_are_no_numbers_are_told():
    model = network()
    with torch.no_grad():
        model[0].weight[1, 1] = torch.nan
    with pytest.raises(ValueError, match="weight of 0 holds NaN"):
        BlockDiagonalPruning(**GOOD)(model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor", "Muon"])
def test_an_optimizer_that_cannot_go_on_with_blocks_is_refused_before_it_trains(name):
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    model = network()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    pruner = BlockDiagonalPruning(**GOOD)(model, torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = getattr(torch.optim, name)(matrices)
    for begin in (pruner.attach, lambda optimizer: BlockDiagonalPruning(**GOOD)(model, optimizer)):
        with pytest.raises(ValueError, match=f"{name} .*: take another optimizer"):
            begin(optimizer)
    PenaltyPruning(alpha=0.1, threshold=0.1, end=3)(model, optimizer)


def test_a_shared_weight_is_refused_before_it_trains():
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 12))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are one parameter"):
        BlockDiagonalPruning({"1": 4}, dense=1, pruning=2, alpha=0.1, threshold=0.1)(
            model, torch.optim.SGD(model.parameters(), lr=0.1)
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"end": 0}, "end after it begins"),
        ({"begin": 3, "end": 2}, "end after it begins"),
        ({"norm": 3}, "norm must be 1 or 2"),
        ({"kept": {"0": 0}}, "kept of 0 must be a whole number from 1 to its 96 units"),
        ({"kept": {"0": 97}}, "from 1 to its 96"),
        ({"layers": ["9"]}, "no layer to prune matches '9'"),
    ],
)
def test_wrong_penalty_recipes_are_told(wrong, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        PenaltyPruning(**{"alpha": 0.1, "threshold": 0.1, "end": 5, **wrong})(
            model, torch.optim.SGD(model.parameters(), lr=0.1)
        )
