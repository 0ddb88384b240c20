"""Packing: the same outputs, smaller files, the optimizer and the record going on."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.testing import assert_close

from rmtnet import store
from rmtnet.caffe import SGD, Solver
from rmtnet.layers.block_diagonal import BlockDiagonalLinear
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.layers.recurrent.lstm import BlockSparseLSTM
from rmtnet.networks import LeNet5
from rmtnet.pruning import BlockDiagonalPruning, GradualPruning, linear, pack, pack_nodes
from rmtnet.record import Recorder

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "plain": lambda groups: torch.optim.SGD(groups, lr=0.05),
    "caffe": lambda groups: SGD(groups, lr=0.05, momentum=0.9, gamma=0.1, power=0.75),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-2, amsgrad=True),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "asgd": lambda groups: torch.optim.ASGD(groups, lr=0.05, t0=0),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, centered=True, momentum=0.5),
}


def masked(linear, mask):
    """A layer pruned to a mask."""
    linear.register_buffer("weight_mask", mask.clone())
    with torch.no_grad():
        linear.weight.mul_(mask)
    return linear


def block_mask(out, width, blocks):
    return torch.block_diag(*[torch.ones(out // blocks, width // blocks)] * blocks).bool()


def spread(grid, block):
    return torch.as_tensor(grid).bool().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


GRID = [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        masked(nn.Linear(12, 16), spread(GRID, (4, 4))), nn.ReLU(), masked(nn.Linear(16, 8), block_mask(8, 16, 4))
    )


def groups(model):
    """Several groups, biases apart."""
    return [
        {"params": [model[2].weight, model[0].bias], "lr": 0.02},
        {"params": [model[0].weight]},
        {"params": [model[2].bias]},
    ]


def one_step(model, optimizer, step, masks=()):
    generator = torch.Generator().manual_seed(step)
    inputs, labels = torch.randn(16, 12, generator=generator), torch.randint(0, 8, (16,), generator=generator)
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(inputs), labels)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for layer, mask in masks:
            layer.weight.mul_(mask)
    return loss.item()


# --- the form


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_forms_and_their_outputs(bias, dtype):
    torch.manual_seed(0)
    inputs = torch.randn(5, 12, dtype=dtype)
    for mask, kind, shape in (
        (block_mask(16, 12, 4), BlockDiagonalLinear, (4, 4, 3)),
        (spread(GRID, (4, 4)), BlockSparseLinear, (3, 4, 4)),
        (spread([[0, 1]], (16, 6)), BlockSparseLinear, (1, 16, 6)),
        # Two blocks on the diagonal, of which one is empty: no block diagonal layer.
        (spread([[1, 0], [0, 0]], (8, 6)), BlockSparseLinear, (1, 8, 6)),
    ):
        model = nn.Sequential(masked(nn.Linear(12, 16, bias=bias, dtype=dtype), mask)).eval()
        expected = model(inputs)
        assert pack(model) == ["0"]
        assert type(model[0]) is kind and model[0].weight.shape == shape and model[0].weight.dtype == dtype
        assert (model[0].bias is not None) == bias and not model[0].training
        tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
        assert_close(model(inputs), expected, rtol=tolerance, atol=tolerance)


def test_a_form_that_is_asked_for():
    model = nn.Sequential(masked(nn.Linear(12, 16), block_mask(16, 12, 4)), nn.Linear(16, 4))
    inputs = torch.randn(3, 12)
    expected = model(inputs)
    for form, kind, blocks in ((2, BlockDiagonalLinear, 2), ((2, 6), BlockSparseLinear, 8)):
        packed = copy.deepcopy(model)
        assert pack(packed, layers={"0": form}) == ["0"]
        assert type(packed[0]) is kind and len(packed[0].weight) == blocks
        assert_close(packed(inputs), expected)


def test_removed_blocks_leave_a_block_sparse_layer():
    torch.manual_seed(0)
    layer = BlockSparseLinear(12, 16, torch.tensor(GRID).bool() | torch.eye(4, 3).bool())
    model = nn.Sequential(layer)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 12)).sum().backward()
    optimizer.step()
    layer.remove_blocks(torch.tensor([False, True, False, True, False]))
    inputs, moments = torch.randn(3, 12), optimizer.state[layer.weight]["exp_avg"].clone()
    expected = model(inputs)
    assert pack(model, optimizer) == ["0"]
    assert len(model[0].weight) == 3 and bool(model[0].kept.all())
    assert_close(model(inputs), expected)
    assert_close(optimizer.state[model[0].weight]["exp_avg"], moments[[0, 2, 4]])
    assert pack(model) == []


def test_an_lstm_is_pruned_and_packed():
    torch.manual_seed(0)
    model = nn.ModuleDict({"lstm": BlockSparseLSTM(8, 12, block=4), "head": nn.Linear(12, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = GradualPruning(linear(1, 3, final=0.75), "blocks", layers=["lstm"])(model, optimizer)
    inputs = torch.randn(5, 2, 8)
    for step in range(1, 6):
        optimizer.zero_grad()
        model["head"](model["lstm"](inputs)[0]).square().mean().backward()
        optimizer.step()
        pruner.step(step)
    expected = model["lstm"](inputs)[0]
    assert pack(model, optimizer, layers="lstm.weight_*") == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert [len(model["lstm"].get_submodule(name).weight) for name in ("weight_ih_l0", "weight_hh_l0")] == [6, 9]
    assert_close(model["lstm"](inputs)[0], expected)
    assert model["lstm"].weight_hh_l0.weight in optimizer.state


def test_what_gains_nothing_stays():
    torch.manual_seed(0)
    unstructured = masked(nn.Linear(12, 16), torch.rand(16, 12) > 0.5)
    mostly_alive = masked(nn.Linear(12, 16), spread([[1, 1, 1], [1, 0, 1]], (8, 4)))
    whole = masked(nn.Linear(12, 16), torch.ones(16, 12).bool())
    model = nn.Sequential(unstructured, mostly_alive, whole, nn.Linear(16, 2))
    assert pack(model) == [] and all(type(layer) is nn.Linear for layer in model)
    assert pack(model, layers=["1"]) == ["1"]
    for name in ("0", "2"):
        with pytest.raises(ValueError, match=f"{name} has no dead blocks of 16 weights or more"):
            pack(model, layers=[name])


def test_pruned_by_torch():
    def begun():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
        prune.custom_from_mask(model[0], "weight", block_mask(16, 12, 4))
        prune.custom_from_mask(model[0], "bias", torch.arange(16) % 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    (model, optimizer), (reference, other) = begun(), begun()
    for step in range(3):
        one_step(model, optimizer, step)
        one_step(reference, other, step)
    assert pack(model, optimizer) == ["0"]
    assert type(model[0]) is BlockDiagonalLinear and set(model.state_dict()) == {
        "0.weight", "0.bias", "2.weight", "2.bias"
    }  # fmt: skip
    inputs = torch.randn(4, 12)
    assert_close(model(inputs), reference(inputs))
    assert one_step(model, optimizer, 3) == pytest.approx(one_step(reference, other, 3), rel=1e-6)


def test_the_same_layer_in_two_places_is_replaced_in_both():
    layer = masked(nn.Linear(8, 8), block_mask(8, 8, 4))
    model = nn.Sequential(layer, nn.ReLU(), layer)
    inputs = torch.randn(3, 8)
    expected = model(inputs)
    assert pack(model) == ["0"] and model[0] is model[2]
    assert_close(model(inputs), expected)


# --- the optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_it_would_have(name):
    model, reference = network(), network()
    masks = [(reference[k], reference[k].weight_mask) for k in (0, 2)]
    optimizer, other = OPTIMIZERS[name](groups(model)), OPTIMIZERS[name](groups(reference))
    for step in range(5):
        one_step(model, optimizer, step, [(model[k], model[k].weight_mask) for k in (0, 2)])
        one_step(reference, other, step, masks)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    other_scheduler = torch.optim.lr_scheduler.StepLR(other, 4, 0.5)
    assert pack(model, optimizer) == ["0", "2"]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1, 1]
    assert optimizer.param_groups[0]["params"][0] is model[2].weight
    assert optimizer.param_groups[1]["params"][0] is model[0].weight
    assert {id(parameter) for parameter in optimizer.state} <= {id(parameter) for parameter in model.parameters()}
    for step in range(5, 15):
        loss, expected = one_step(model, optimizer, step), one_step(reference, other, step, masks)
        assert loss == pytest.approx(expected, rel=1e-5)
        scheduler.step()
        other_scheduler.step()
    assert len(seen) == 10
    assert_close(model[0].to_dense().weight, reference[0].weight, rtol=1e-4, atol=1e-6)
    if name == "asgd":
        average = other.state[reference[2].weight]["ax"]
        assert_close(optimizer.state[model[2].weight]["ax"][1], average[2:4, 4:8])
    loaded = OPTIMIZERS[name](groups(model))
    loaded.load_state_dict(optimizer.state_dict())


def test_a_gradient_that_is_there_is_cut_too():
    model = network()
    model(torch.randn(4, 12)).sum().backward()
    gradient = model[2].weight.grad.clone()
    pack(model)
    assert_close(model[2].weight.grad[3], gradient[6:, 12:])


def test_random_numbers_of_the_training_are_not_used():
    model = network()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pack(model)
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_state_is_refused_and_nothing_changed():
    for make, message in (
        (lambda p: torch.optim.Adafactor(p), "Adafactor keeps 'row_var' of 0, of shape .* cannot be cut"),
        (lambda p: torch.optim.LBFGS(p), "LBFGS keeps one vector of all parameters"),
    ):
        model = network()
        optimizer = make(model.parameters())
        if "LBFGS" not in message:
            one_step(model, optimizer, 0)
        with pytest.raises(ValueError, match=message):
            pack(model, optimizer)
        assert type(model[0]) is nn.Linear and optimizer.param_groups[0]["params"][0] is model[0].weight


# --- the record


def test_a_recorded_run_goes_on_with_a_second_form(tmp_path):
    torch.manual_seed(0)
    model = LeNet5()
    optimizer = Solver()(model)
    pruner = BlockDiagonalPruning({"ip1": 100, "ip2": 10}, dense=1, pruning=2, alpha=1e-3, threshold=1e-3)(
        model, optimizer
    )
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    path = tmp_path / "run.zarr"
    with Recorder(model, path, layers=["ip1", "conv1"], what=("weights", "updates")).attach(optimizer):
        for step in range(1, 6):
            optimizer.zero_grad()
            (functional.cross_entropy(model(images), labels) + pruner.penalty()).backward()
            optimizer.step()
            pruner.step(step)
    run = store.open_run(path)
    assert run.forms("ip1") == ["ip1@0", "ip1@1"] and run.forms("conv1") == ["conv1"]
    assert run["ip1@0"].shape[1:] == (1, 500, 800) and run["ip1@1"].shape[1:] == (100, 5, 8)
    assert run["ip1@1"].attrs["form"] == "block_diagonal"
    assert run["conv1"]["step"].values.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(run["ip1@1"][-1], model.ip1.weight.detach())


# --- file and speed


def test_the_file_of_a_packed_lenet_is_smaller():
    def size(*layers):
        buffer = io.BytesIO()
        torch.save([layer.state_dict() for layer in layers], buffer)
        return buffer.tell()

    model = LeNet5()
    before = size(model.ip1, model.ip2)
    for layer, blocks in ((model.ip1, 100), (model.ip2, 10)):
        masked(layer, block_mask(*layer.weight.shape, blocks))
    images = torch.rand(3, 1, 28, 28)
    expected = model(images)
    assert pack(model) == ["ip1", "ip2"]
    assert_close(model(images), expected, rtol=1e-5, atol=1e-6)
    assert before / size(model.ip1, model.ip2) > 60


# --- nodes


def test_node_pruning_to_two_outputs_and_packing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pruner = GradualPruning(linear(1, 5), "outputs", kept={"0": 2})(model, optimizer)
    for step in range(1, 8):
        one_step(model, optimizer, step)
        pruner.step(step)
    rows = model[0].weight.detach().any(1).nonzero().flatten()
    inputs, moments = torch.randn(5, 12), optimizer.state[model[3].weight]["exp_avg"].clone()
    expected = model.eval()(inputs)
    assert pack_nodes(model, [("0", "3")], optimizer) == {"0": 2}
    assert model[0].weight.shape == (2, 12) and model[3].weight.shape == (8, 2) and model[0].bias.shape == (2,)
    assert_close(model(inputs), expected)
    assert_close(optimizer.state[model[3].weight]["exp_avg"], moments[:, rows])
    one_step(model, optimizer, 8)  # with the pruner's hook
    assert model[0].weight.grad.shape == (2, 12)


def test_wrong_pairs_of_layers_are_told():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 16))
    with pytest.raises(ValueError, match="no linear layer is named 'ip1'; there are 0, 2, 3"):
        pack_nodes(model, [("ip1", "2")])
    with pytest.raises(ValueError, match="3 must read the 16 outputs of 0, it has 8"):
        pack_nodes(model, [("0", "3")])
    masked(model[0], spread([[1], [0]], (8, 12)))
    with pytest.raises(ValueError, match="without weights has a bias"):
        pack_nodes(model, [("0", "2")])
    model[0].weight_mask.zero_()
    with pytest.raises(ValueError, match="no output of 0 is left"):
        pack_nodes(model, [("0", "2")])


# --- mistakes


def test_mistakes_are_told():
    model = network()
    with pytest.raises(ValueError, match="no layer to prune matches 'ip1'; there are 0, 2"):
        pack(model, layers=["ip1"])
    with pytest.raises(ValueError, match="0 has 28 weights alive off the 4 diagonal blocks"):
        pack(model, layers={"0": 4})
    with pytest.raises(ValueError, match="3 blocks do not divide the 8 outputs and 16 inputs of 2"):
        pack(model, layers={"2": 3})
    with pytest.raises(ValueError, match="blocks of 3 x 3 do not divide"):
        pack(model, layers={"2": (3, 3)})
    with pytest.raises(ValueError, match="no layer that can be pruned"):
        pack(nn.Sequential(nn.ReLU()), layers=["0"])
    assert pack(nn.Sequential(nn.Linear(2, 2))) == []
    sparse = nn.Sequential(BlockSparseLinear(4, 4, [[True]]))
    sparse[0].remove_blocks(torch.tensor([True]))
    with pytest.raises(ValueError, match="no block of 0 is left"):
        pack(sparse)
    tied = nn.Sequential(nn.Embedding(8, 8), masked(nn.Linear(8, 8), block_mask(8, 8, 4)))
    tied[0].weight = tied[1].weight
    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are one parameter"):
        pack(tied)
    with pytest.raises(ValueError, match="pack the module, then wrap it anew"):
        pack(nn.DataParallel(model))
