"""Pruning to a sparsity, group lasso, and their combination."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.testing import assert_close

from rmtnet import pruning
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.pruning import (
    BlockDiagonalPruning,
    Combined,
    GradualPruning,
    GroupLasso,
    PenaltyPruning,
    RandomPruning,
    cubic,
    gradual,
    linear,
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def sparse_network(seed=0):
    torch.manual_seed(seed)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 2] = mask[3, 3] = False
    return nn.Sequential(BlockSparseLinear(12, 8, mask), nn.ReLU(), BlockSparseLinear(8, 4, torch.ones(2, 4).bool()))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


def one_step(model, optimizer, pruner, step):
    generator = torch.Generator().manual_seed(step)
    inputs, labels = torch.randn(16, 12, generator=generator), torch.randint(0, 4, (16,), generator=generator)
    optimizer.zero_grad()
    (functional.cross_entropy(model(inputs), labels) + pruner.penalty()).backward()
    optimizer.step()
    pruner.step(step)


# --- schedules


def test_ramps_are_the_published_formulas_and_never_overshoot():
    agp = cubic(100, 1100, initial=0.05, final=0.9, every=100)
    values = [agp(step) for step in range(1500)]
    for step in range(100, 1100, 100):
        assert agp(step) == pytest.approx(0.9 + (0.05 - 0.9) * (1 - (step - 100) / (10 * 100)) ** 3, rel=1e-12)
        assert agp(step + 99) == agp(step)
    assert values == sorted(values) and values[0] == 0.05 and values[1100:] == [0.9] * 400
    epochs = linear(10, 90, initial=0.1, final=0.8, every=10)
    slope = 0.7 / 8
    assert [epochs(10 * t) for t in range(1, 9)] == pytest.approx([slope * (t - 1) + 0.1 for t in range(1, 9)])
    assert linear(5, 5, final=0.3)(4) == 0.0 and linear(5, 5, final=0.3)(5) == 0.3
    odd = linear(0, 10, final=0.5, every=4)
    assert [odd(step) for step in (3, 4, 9, 10)] == pytest.approx([0.0, 0.2, 0.4, 0.5])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((5, 4), {}, "must not end before it begins"),
        ((-1, 4), {}, "begin before 0"),
        ((0, 4), {"every": 0}, "every must be at least 1"),
        ((0, 4), {"final": float("inf")}, "final must be finite"),
    ],
)
def test_wrong_ramps_are_told(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        linear(*arguments, **options)


# --- gradual pruning


def test_agp_removes_the_smallest_and_keeps_them_removed():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = cubic(2, 12, final=0.75, every=2)
    pruner = GradualPruning(schedule)(model, optimizer)
    dead = torch.zeros(8, 12, dtype=torch.bool)
    for step in range(1, 21):
        one_step(model, optimizer, pruner, step)
        weight, mask = model[0].weight.detach(), model[0].weight_mask
        assert int((~mask).sum()) == (round(96 * schedule(step)) if step >= 2 else 0)
        assert bool((~mask)[dead].all()) and bool((weight[~mask] == 0).all())
        dead = ~mask.clone()
    assert pruner.statistics() == {"0.sparsity": 0.75, "0.alive": 24.0, "2.sparsity": 0.75, "2.alive": 8.0}
    assert [removal.step for removal in pruner.removals if removal.layer == "0"] == [4, 6, 8, 10, 12]


def test_what_is_removed_is_what_is_smallest_and_its_mass_is_told():
    model = network()
    before = model[0].weight.detach().clone()
    pruner = GradualPruning(linear(0, 1, final=0.5), layers=["0"])(model, sgd(model))
    pruner.step(1)
    order = before.abs().flatten().argsort()
    expected = torch.zeros(96, dtype=torch.bool)
    expected[order[:48]] = True
    assert torch.equal(~model[0].weight_mask.flatten(), expected)
    (removal,) = pruner.removals
    lost = before.flatten()[order[:48]].double()
    assert (removal.step, removal.layer, removal.count) == (1, "0", 48)
    assert removal.l1 == pytest.approx(lost.abs().sum().item())
    assert removal.share == pytest.approx((lost.square().sum() / before.double().square().sum()).item())


@pytest.mark.parametrize("unit", ["weights", "outputs"])
def test_an_exact_number_of_units_is_left(unit):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    recipe = GradualPruning(linear(1, 9, every=3), unit, kept={"0": 2, "3": 3})
    pruner = recipe(model, sgd(model))
    for step in range(1, 15):
        pruner.optimizer.zero_grad()
        model(torch.randn(4, 2, 4, 4)).square().mean().backward()
        pruner.optimizer.step()
        pruner.step(step)
    if unit == "weights":
        assert [int(torch.count_nonzero(model[k].weight)) for k in (0, 3)] == [2, 3]
        return
    for place, kept in ((0, 2), (3, 3)):
        rows = model[place].weight.detach().flatten(1).any(1)
        assert int(rows.sum()) == kept and not bool(model[place].bias[~rows].any())
        assert bool(model[place].weight.detach()[rows].all())


def test_blocks_of_a_block_sparse_layer_are_frozen():
    model = sparse_network()
    optimizer = sgd(model)
    pruner = GradualPruning(linear(2, 8, final=0.5, every=2), "blocks")(model, optimizer)
    norms = None
    for step in range(1, 12):
        if step == 3:
            norms = pruning.block_norms(model[0].weight.detach())
        one_step(model, optimizer, pruner, step)
        kept = model[0].kept
        assert bool((model[0].weight.detach()[~kept] == 0).all()) and model[0].weight.shape[0] == 22
    assert norms is not None and int(kept.sum()) == 11 and int(model[2].kept.sum()) == 4
    assert pruner.statistics()["0.sparsity"] == 0.5  # of the blocks that the layer began with


def test_blocks_of_a_dense_layer():
    model = network()
    norms = pruning.block_norms(model[0].weight.detach(), (2, 3))
    pruner = GradualPruning(linear(0, 1, final=0.5), "blocks", layers=["0"], block=(2, 3))(model, sgd(model))
    pruner.step(1)
    dead = pruning.block_norms(model[0].weight.detach(), (2, 3)) == 0
    assert int(dead.sum()) == 8 and float(norms[dead].max()) < float(norms[~dead].min())


def test_averages_of_asgd_are_pruned_at_once():
    model = network()
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.1, t0=0)
    pruner = GradualPruning(linear(3, 3, final=0.5))(model, optimizer)
    for step in range(1, 4):
        one_step(model, optimizer, pruner, step)
    dead = ~model[0].weight_mask
    assert int(dead.sum()) == 48 and not bool(optimizer.state[model[0].weight]["ax"][dead].any())


def test_the_lowest_of_the_whole_model():
    model = network()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    pruner = GradualPruning(linear(0, 1, final=0.4), "weights", scope="model")(model, sgd(model))
    pruner.step(1)
    # All of the second layer is smaller than the first: but one weight of it stays.
    assert int(model[2].weight_mask.sum()) == 1
    assert int((~model[0].weight_mask).sum()) == round(0.4 * 128) - 31


def test_of_the_whole_model_each_layer_keeps_one():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(4)])
    with pytest.raises(ValueError, match=r"sparsity 0\.87 leaves 2 of 16 units, and each of 4 layers keeps one"):
        GradualPruning(linear(0, 1, final=0.87), scope="model")(model, sgd(model))
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    GradualPruning(linear(0, 1, final=0.75), scope="model")(model, sgd(model)).step(1)
    assert [int(layer.weight_mask.sum()) for layer in model] == [1, 1, 1, 1]
    # What would leave nothing of one layer by itself may be asked of all.
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 1))
    GradualPruning(linear(0, 1, final=0.98), scope="model")(model, sgd(model)).step(1)
    assert int(model[0].weight_mask.sum() + model[1].weight_mask.sum()) == 8


@pytest.mark.parametrize("scope", gradual.SCOPES)
def test_norms_are_ranked_only_where_something_is_due(monkeypatch, scope):
    ranked, lowest = [], gradual._lowest
    monkeypatch.setattr(gradual, "_lowest", lambda *arguments: ranked.append(1) or lowest(*arguments))
    model = network()
    pruner = GradualPruning(cubic(2, 10, final=0.5, every=4), scope=scope)(model, sgd(model))
    for step in range(20):
        pruner.step(step)
    assert len(ranked) == 2 * (2 if scope == "layer" else 1)  # at steps 6 and 10
    pruner.load_state_dict(pruner.state_dict())
    for layer in (model[0], model[2]):
        layer.weight_mask.fill_(True)  # as that of an older model
    pruner.step(20)
    assert pruner.statistics()["0.sparsity"] > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_lowest_are_those_of_a_stable_sort(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-1, 5, (60,), generator=generator).to(dtype)
    scores[7] = torch.inf
    for count in range(61):
        expected = torch.zeros(60, dtype=torch.bool)
        expected[scores.argsort(stable=True)[:count]] = True
        assert torch.equal(gradual._lowest(scores, count), expected)


def test_random_pruning_is_exact_and_repeats():
    masks = []
    for seed in (0, 0, 1):
        model = sparse_network()
        RandomPruning(0.5, seed=seed)(model, sgd(model))
        masks.append(model[0].kept.clone())
        assert int(model[0].kept.sum()) == 11 and not bool(model[0].weight[~model[0].kept].any())
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_a_container_names_what_it_holds():
    model = nn.ModuleDict({"lstm": sparse_network(), "head": nn.Linear(4, 4)})
    pruner = RandomPruning(0.25, layers=["lstm"])(model, sgd(model))
    assert [units.name for units in pruner.units] == ["lstm.0", "lstm.2"]


def test_a_run_goes_on_from_its_state(tmp_path):
    def begun():
        model = sparse_network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        recipe = Combined((GroupLasso(1e-2), GradualPruning(linear(1, 9, final=0.5), "blocks")))
        return model, optimizer, recipe(model, optimizer)

    whole, part, last = begun(), begun(), begun()
    for step in range(1, 13):
        one_step(*whole, step)
        if step <= 5:
            one_step(*part, step)
    torch.save([each.state_dict() for each in part], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for each, state in zip(reversed(last), reversed(states), strict=True):
        each.load_state_dict(state)
    for step in range(6, 13):
        one_step(*last, step)
    assert torch.equal(whole[0][0].weight, last[0][0].weight) and torch.equal(whole[0][0].kept, last[0][0].kept)
    assert whole[2].statistics() == last[2].statistics()


# --- group lasso


def test_group_lasso_is_the_sum_of_norms_with_its_gradient():
    model = sparse_network().double()
    pruner = GroupLasso(0.3)(model, sgd(model))
    weights = [model[0].weight, model[2].weight]
    expected = 0.3 * sum(float(torch.linalg.matrix_norm(block)) for weight in weights for block in weight.detach())
    value = pruner.penalty()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    norms = pruning.block_norms(weights[0].detach())[:, None, None]
    assert_close(weights[0].grad, 0.3 * weights[0].detach() / norms)


def test_the_constrained_form_has_a_hinge():
    model = network()
    total = float(pruning.block_norms(model[0].weight.detach(), (2, 3)).sum())
    for limit, expected in ((total + 1, 0.0), (total - 1, 0.5)):
        value = GroupLasso(0.5, ["0"], (2, 3), limit=limit)(model, sgd(model)).penalty()
        assert value.item() == pytest.approx(expected, abs=1e-5)
        model.zero_grad()
        value.backward()
        assert bool(model[0].weight.grad.any()) == (expected > 0)


def test_removed_blocks_have_no_penalty_and_no_gradient():
    model = sparse_network()
    optimizer = sgd(model)
    GroupLasso(1.0)(model, optimizer)
    model[0].remove_blocks(torch.arange(22) < 20)
    pruner = GroupLasso(1.0, ["0"])(model, optimizer)
    pruner.penalty().backward()
    assert torch.isfinite(model[0].weight.grad).all() and not model[0].weight.grad[:20].any()


def proximal(weight, width, limit=None):
    """The proximal map of ``width max(sum_i ||w_i|| - limit, 0)`` over rows, found by search of the multiplier."""
    norms = weight.norm(dim=1, keepdim=True)

    def shrunk(u):
        return weight * torch.relu(1 - u * width / norms)

    if limit is None:
        return shrunk(1.0)
    low, high = 0.0, 1.0
    if norms.sum() <= limit:
        return weight
    if shrunk(1.0).norm(dim=1).sum() >= limit:
        return shrunk(1.0)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if shrunk(middle).norm(dim=1).sum() > limit else (low, middle)
    return shrunk(high)


@pytest.mark.parametrize("limit", [None, 0.0, 0.5, 3.0, 1e3])
@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_the_proximal_step_is_the_proximal_map(alpha, limit):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8, bias=False)).double()
    optimizer = sgd(model, momentum=0.0)
    pruner = GroupLasso(alpha, block=(1, 12), limit=limit, proximal=True)(model, optimizer)
    weight = model[0].weight.detach().clone()
    model[0].weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert_close(model[0].weight.detach(), proximal(weight, 0.1 * alpha, limit), rtol=1e-9, atol=1e-12)
    assert not pruner.penalty().requires_grad


def test_the_proximal_form_makes_blocks_zero_and_the_optimum_is_that_of_the_subgradient():
    """Least squares with group lasso: the proximal gradient's fixed point fulfils the conditions of optimality."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    inputs = torch.randn(50, 6, dtype=torch.float64)
    target = inputs @ torch.diag(torch.tensor([2.0, 1.0, 0.01, 0.01, 1.0, 0.0], dtype=torch.float64))[:, :4]
    optimizer = sgd(model, momentum=0.0)
    pruner = GroupLasso(0.2, block=(2, 3), proximal=True)(model, optimizer)
    for _ in range(1500):
        optimizer.zero_grad()
        (0.5 * (model(inputs) - target).square().sum() / 50).backward()
        optimizer.step()
    weight, gradient = model[0].weight.detach(), model[0].weight.grad
    for rows, columns in ((0, 0), (0, 3), (2, 0), (2, 3)):
        block = weight[rows : rows + 2, columns : columns + 3]
        slope = gradient[rows : rows + 2, columns : columns + 3]
        if block.any():
            assert_close(slope, -0.2 * block / block.norm(), atol=1e-6, rtol=1e-6)
        else:
            assert slope.norm() <= 0.2 + 1e-9
    assert pruner.statistics()["0.zero_blocks"] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_16_bit_weights_are_summed_in_32(dtype):
    model = nn.Sequential(nn.Linear(1024, 1024, dtype=dtype))
    weight = nn.init.uniform_(model[0].weight, 1, 2, generator=torch.Generator().manual_seed(0))
    pruner = GroupLasso(1.0, block=(16, 16))(model, sgd(model))
    norms = weight.detach().double().unflatten(0, (64, 16)).unflatten(2, (64, 16)).square().sum((1, 3)).sqrt()
    assert pruner.penalty().item() == pytest.approx(norms.sum().item(), rel=1e-6)  # above 65504, float16's largest
    pruner.penalty().backward()
    expected = weight.detach().double() / norms.repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert_close(weight.grad.double(), expected, rtol=1e-2, atol=0)


def test_removed_blocks_that_momentum_has_filled_have_no_norm():
    model = sparse_network()
    dense = network()
    for layer in (model[0], dense[0]):
        pruner = GroupLasso(1.0, ["0"], None if layer is model[0] else (2, 3))
        pruner = pruner(model if layer is model[0] else dense, sgd(model))
        blocks = torch.arange(22) < 20 if layer is model[0] else None
        if blocks is None:
            layer.register_buffer("weight_mask", torch.zeros(8, 12, dtype=torch.bool))
            layer.weight_mask[:2, :3] = True
            expected, share = layer.weight[:2, :3].norm().item(), 15 / 16
        else:
            layer.remove_blocks(blocks)
            with torch.no_grad():
                layer.weight[blocks] = 5.0
            expected, share = layer.weight[20:].flatten(1).norm(dim=1).sum().item(), 20 / 22
        assert pruner.penalty().item() == pytest.approx(expected, rel=1e-6)
        pruner.penalty().backward()
        assert int(torch.count_nonzero(layer.weight.grad)) == (6 if blocks is None else 8)
        assert pruner.statistics() == {"0.zero_blocks": pytest.approx(share)}


def test_the_proximal_form_shrinks_once_at_each_step_of_the_optimizer():
    class Inner(torch.optim.SGD):
        def step(self, closure=None):  # torch calls the hooks for both classes
            return super().step(closure)

    ends = []
    for make in (torch.optim.SGD, Inner):
        model = network()
        optimizer = make(model.parameters(), lr=0.1, fused=True)
        model[2].requires_grad_(False)
        frozen = model[2].weight.detach().clone()
        GroupLasso(0.1, block=(4, 4), proximal=True)(model, optimizer)
        expected = model[0].weight.detach().clone()
        model[0].weight.grad = torch.zeros_like(expected)
        for _ in range(3):  # nobody calls the pruner's step
            optimizer.step()
            norms = pruning.block_norms(expected, (4, 4)).repeat_interleave(4, 0).repeat_interleave(4, 1)
            expected *= torch.relu(1 - 0.01 / norms)
        ends.append(model[0].weight.detach())
        assert_close(ends[-1], expected)
        assert torch.equal(model[2].weight, frozen)
        # As GradScaler does where it found infinite gradients.
        optimizer.grad_scale, optimizer.found_inf = torch.ones(1), torch.ones(1)
        optimizer.step()
        assert_close(model[0].weight.detach(), expected)


def test_lasso_and_pre_pruning_together():
    model = sparse_network()
    optimizer = sgd(model)
    pruner = Combined((GroupLasso(1e-3), RandomPruning(0.5)))(model, optimizer)
    assert pruner.penalty().requires_grad
    for step in range(1, 5):
        one_step(model, optimizer, pruner, step)
    assert not bool(model[0].weight[~model[0].kept].any())
    assert set(pruner.statistics()) == {
        f"{layer}.{what}" for layer in "02" for what in ("zero_blocks", "sparsity", "alive")
    }


def test_what_several_have_removed_is_told_in_its_order():
    model = network()
    first = GradualPruning(linear(0, 4, final=0.5, every=2), layers=["0"])
    second = GradualPruning(linear(0, 4, final=0.5), layers=["2"])
    pruner = Combined((GroupLasso(0.1, ["0"], (2, 3)), Combined((first, second))))(model, sgd(model))
    for step in range(1, 5):
        pruner.step(step)
    assert [(each.step, each.layer) for each in pruner.removals] == [
        (1, "2"), (2, "0"), (2, "2"), (3, "2"), (4, "0"), (4, "2")
    ]  # fmt: skip
    assert [units.name for units in pruner.units] == ["0", "2"]


@pytest.mark.parametrize(
    "other", [GradualPruning(linear(0, 5, final=0.5)), Combined((GroupLasso(0.1, ["*"], (2, 2)),))]
)
def test_a_layer_that_will_be_replaced_is_no_other_recipes(other):
    model = network()
    blocks = BlockDiagonalPruning({"0": 4}, dense=1, pruning=2, alpha=0.1, threshold=0.1)
    for recipes in ((blocks, other), (other, blocks)):
        with pytest.raises(ValueError, match="0 is replaced by block layers: no other recipe can prune it"):
            Combined(recipes)(model, sgd(model))
    Combined((blocks, GradualPruning(linear(0, 5, final=0.5), layers=["2"])))(model, sgd(model))


# --- mistakes


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (lambda: GradualPruning(linear(0, 5)), r"sparsity, the fraction removed, must lie in \[0, 1\), got 1.0"),
        (lambda: GradualPruning(linear(0, 5, final=-0.1)), r"must lie in \[0, 1\)"),
        (lambda: RandomPruning(1.0), r"must lie in \[0, 1\)"),
        (lambda: GradualPruning(linear(0, 5, final=0.999)), "leaves nothing of 0, which has 96 units"),
        (lambda: RandomPruning(0.9, "outputs"), "leaves nothing of 2, which has 4 units"),
        (lambda: GradualPruning(linear(0, 5, initial=0.6, final=0.5)), "sparsity cannot fall, from 0.6 to 0.5"),
        (lambda: GradualPruning(linear(0, 5, initial=1.0), kept={"0": 9}), r"must lie in \[0, 1\), got 1.0"),
        (
            lambda: GradualPruning(linear(0, 5, initial=0.5), kept={"0": 90}),
            "cannot fall: 48 units of 0 are removed first, 6 in the end",
        ),
        (lambda: GradualPruning(linear(0, 5, final=0.5), "rows"), "unit must be one of weights, outputs, blocks"),
        (lambda: GradualPruning(linear(0, 5, final=0.5), "blocks"), "no layer that can be pruned this way"),
        (
            lambda: GradualPruning(linear(0, 5, final=0.5), "blocks", block=(3, 3)),
            "blocks of 3 x 3 do not divide the 8",
        ),
        (lambda: GradualPruning(linear(0, 5, final=0.5), "weights", block=(2, 2)), "block must be"),
        (lambda: GradualPruning(linear(0, 5), kept={"0": 97}), "from 1 to its 96 units, got 97"),
        (lambda: GradualPruning(linear(0, 5), kept={"0": 9}, scope="model"), "leave out scope"),
        (lambda: GradualPruning(linear(0, 5, final=0.5), scope="all"), "scope must be one of layer, model"),
        (lambda: GradualPruning(linear(0, 5, final=0.5), layers=[]), "names no layer"),
        (lambda: GradualPruning(linear(0, 5, final=0.5), layers=["ip*"]), r"no layer to prune matches 'ip\*'"),
        (lambda: GroupLasso(-1e-4), "alpha must be finite and not negative"),
        (lambda: GroupLasso(1e-4, block=(2, 3), limit=-1.0), "limit must be finite and not negative"),
        (lambda: GroupLasso(1e-4, block=(5, 3)), "blocks of 5 x 3 do not divide the 8 outputs of 0"),
    ],
)
def test_wrong_recipes_are_told(recipe, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        recipe()(model, sgd(model))


def test_other_kinds_of_mistakes():
    model = network()
    with pytest.raises(TypeError, match="optimizer must be a torch optimizer"):
        RandomPruning(0.5, "weights")(model, None)
    with pytest.raises(TypeError, match="recipes must be"):
        Combined(())
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match="weight of 0 is made from other parameters"):
        PenaltyPruning(alpha=0.1, threshold=0.1, end=3)(model, sgd(model))
    lazy = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match="has no shape yet"):
        RandomPruning(0.5, "weights")(lazy, torch.optim.SGD(lazy.parameters(), lr=0.1))


def test_a_sparsity_that_is_no_ramp_is_refused():
    with pytest.raises(TypeError, match=r"must be a ramp, such as linear\(0, 1000, final=0.8\), got 0.5"):
        GradualPruning(0.5)
