"""The order in which a dense layer is closest to blocks: planted ones are found, and none is worse than before."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rmtnet.pruning import BlockDiagonalPruning, block_permutation, hidden_permutation, permute_hidden


def inside(out, width, blocks):
    return torch.block_diag(*[torch.ones(out // blocks, width // blocks)] * blocks)


def planted(out, width, blocks, noise, seed=0):
    """A block diagonal matrix with noise, shuffled; and the share of its mass off the blocks before that."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator) * inside(out, width, blocks)
    weight += noise * torch.randn(out, width, generator=generator)
    mass = weight.double().square()
    off = 1 - float((mass * inside(out, width, blocks)).sum() / mass.sum())
    rows, columns = torch.randperm(out, generator=generator), torch.randperm(width, generator=generator)
    return weight[rows][:, columns], off


def off_blocks(weight, blocks, norm=2):
    mass = weight.double().abs() ** norm
    return 1 - float((mass * inside(*weight.shape, blocks)).sum() / mass.sum())


@pytest.mark.parametrize(("shape", "noise"), [((60, 40, 5), 0.3), ((20, 30, 2), 0.3), ((64, 128, 16), 0.1)])
@pytest.mark.parametrize("norm", [1, 2])
def test_a_planted_order_is_found(shape, noise, norm):
    weight, off = planted(*shape, noise)
    found = block_permutation(weight, shape[2], norm=norm)
    ordered = weight[found.rows][:, found.columns]
    assert found.off_block == pytest.approx(off_blocks(ordered, shape[2], norm))
    assert found.identity == pytest.approx(off_blocks(weight, shape[2], norm))
    assert found.saved == found.identity - found.off_block > 0.2
    if norm == 2:
        assert found.off_block <= off + 1e-6
    for order, size in ((found.rows, shape[0]), (found.columns, shape[1])):
        assert sorted(order.tolist()) == list(range(size))


@pytest.mark.slow
def test_lenets_first_inner_product_layer_in_100_blocks():
    weight, off = planted(500, 800, 100, 0.1)
    found = block_permutation(weight, 100)
    assert found.identity > 0.98 and found.off_block < off + 0.01


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_worse_than_the_order_there_was(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 20, generator=generator)
    assert block_permutation(weight, 4, seed=seed).saved > 0
    best = weight * inside(12, 20, 4)
    found = block_permutation(best, 4, starts=0)
    assert found.off_block == pytest.approx(0) and found.saved == pytest.approx(0)


def test_a_small_matrix_against_all_orders():
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double()
    orders = list(itertools.permutations(range(4)))
    best = min(off_blocks(weight[list(rows)][:, list(columns)], 2) for rows in orders for columns in orders)
    assert block_permutation(weight, 2, starts=8).off_block == pytest.approx(best)
    for fixed, places in (("rows", lambda order: weight[:, order]), ("columns", lambda order: weight[order])):
        best = min(off_blocks(places(list(order)), 2) for order in orders)
        found = block_permutation(weight, 2, fixed=fixed)
        assert found.off_block == pytest.approx(best)
        kept = found.rows if fixed == "rows" else found.columns
        assert kept.tolist() == [0, 1, 2, 3]


def test_matrices_with_empty_rows_and_of_zeros_have_an_order():
    weight, _ = planted(20, 30, 2, 0.0)
    weight[::3] = 0
    assert block_permutation(weight, 2).off_block == pytest.approx(0, abs=1e-9)
    assert block_permutation(torch.zeros(4, 4), 2).rows.tolist() == [0, 1, 2, 3]
    assert block_permutation(torch.ones(4, 4), 1).off_block == pytest.approx(0)


def test_the_nodes_between_two_layers_have_one_best_order():
    first, second = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.randn(2, 4)
    shares = []
    for order in itertools.permutations(range(4)):
        own = [off_blocks(first[list(order)], 2), off_blocks(second[:, list(order)], 2)]
        shares.append((sum(own), order))
    found = hidden_permutation(first, second, (2, 2))
    own = off_blocks(first[found], 2) + off_blocks(second[:, found], 2)
    assert own == pytest.approx(min(shares)[0])


def test_another_order_of_hidden_nodes_computes_and_trains_the_same():
    networks = []
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    for permuted in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(4):
            if permuted and step == 2:
                permute_hidden(model[0], model[3], order, optimizer)
                permute_hidden(model[3], model[5], torch.arange(7, -1, -1), optimizer)
            images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            functional.cross_entropy(model(images), torch.arange(5) % 3).backward()
            optimizer.step()
        networks.append(model)
    images = torch.randn(4, 1, 6, 6)
    assert_close(networks[1](images), networks[0](images), rtol=1e-4, atol=1e-5)
    assert_close(networks[1][0].weight, networks[0][0].weight[order], rtol=1e-4, atol=1e-5)


def test_pruning_that_reorders_first_loses_less():
    lost = []
    for reorder in ((), (("0", "2"),)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
        inputs = torch.randn(3, 12)
        expected = model(inputs)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        recipe = BlockDiagonalPruning({"0": 4, "2": 2}, dense=2, pruning=1, alpha=0.0, threshold=0.0, reorder=reorder)
        pruner = recipe(model, optimizer)
        pruner.step(2)
        assert_close(model(inputs), expected)
        pruner.step(3)
        lost.append(sum(removal.share for removal in pruner.removals))
    assert lost[1] < lost[0]


def test_mistakes_are_told():
    weight = torch.ones(4, 6)
    for wrong, message in (
        ({"blocks": 4}, "blocks must divide both sides of the weight: 4, 4 x 6"),
        ({"blocks": 0}, "blocks must divide"),
        ({"norm": 3}, "norm must be 1 or 2, got 3"),
        ({"fixed": "both"}, "fixed must be 'rows', 'columns' or None"),
    ):
        with pytest.raises(ValueError, match=message):
            block_permutation(weight, **{"blocks": 2, **wrong})
    with pytest.raises(ValueError, match="weight must be a finite matrix"):
        block_permutation(torch.full((4, 4), np.nan), 2)
    with pytest.raises(ValueError, match="must read the first's 4 outputs, it has 6 inputs"):
        hidden_permutation(weight, weight, (2, 2))
    first, second = nn.Linear(6, 4), nn.Linear(5, 3)
    with pytest.raises(ValueError, match="second layer's 5 inputs are no multiple of the first's 4 outputs"):
        permute_hidden(first, second, torch.arange(4))
    with pytest.raises(ValueError, match="order must be a permutation of the 4 outputs"):
        permute_hidden(first, nn.Linear(4, 3), torch.tensor([0, 0, 1, 2]))
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="reorder: 2 gets no blocks"):
        BlockDiagonalPruning({"0": 4}, 1, 1, 0.1, 0.1, reorder=[("0", "2")])(
            model, torch.optim.SGD(model.parameters(), lr=0.1)
        )
