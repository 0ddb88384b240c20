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


def test_encoders_of_torch_compute_the_same_also_in_eval_mode():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    for linear_ in (model.layers[0].linear1, model.layers[0].linear2):
        masked(linear_, block_mask(*linear_.weight.shape, 4))
    inputs = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = model(inputs)
        assert pack(model) == ["layers.0.linear1", "layers.0.linear2"]
        assert_close(model(inputs), expected)
        padded = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        assert_close(model(inputs, src_key_padding_mask=padded)[0], expected[0])


def test_a_layer_whose_weight_its_owner_reads_stays():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(32, 4, batch_first=True)
    masked(model.out_proj, block_mask(32, 32, 4))
    inputs = torch.randn(2, 5, 32)
    expected = model(inputs, inputs, inputs)[0]
    assert pack(model) == []
    message = "out_proj is a NonDynamicallyQuantizableLinear, whose owner reads the weight as a matrix"
    with pytest.raises(ValueError, match=message):
        pack(model, layers=["out_proj"])
    with pytest.raises(ValueError, match=message):
        BlockDiagonalPruning({"*": 4}, dense=0, pruning=1, alpha=0.0, threshold=0.0)(
            model, torch.optim.SGD(model.parameters())
        )
    assert_close(model(inputs, inputs, inputs)[0], expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_that_is_the_model_cannot_be_replaced(compiled):
    layer = masked(nn.Linear(16, 16), block_mask(16, 16, 4))
    sparse = BlockSparseLinear(8, 8, torch.ones(2, 2).bool())
    sparse.remove_blocks(torch.tensor([True, False, False, False]))
    for model in (layer, sparse):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        weight = model.weight
        assert pack(torch.compile(model, backend="eager") if compiled else model, optimizer) == []
        with pytest.raises(ValueError, match="the model is the layer itself, which nothing can replace: put it"):
            pack(torch.compile(model, backend="eager") if compiled else model, optimizer, layers=["*"])
        assert optimizer.param_groups[0]["params"][0] is weight
    with pytest.raises(ValueError, match="the model is the layer itself"):
        BlockDiagonalPruning({"*": 4}, dense=0, pruning=1, alpha=0.0, threshold=0.0)(
            layer, torch.optim.SGD(layer.parameters())
        )


def test_hooks_of_layers_stay():
    model = network()
    prune.custom_from_mask(model[2], "weight", model[2].weight_mask)  # with a hook of its own
    model[2]._buffers["weight_mask"] = block_mask(8, 16, 4)
    calls = []
    handles = [
        each
        for k in (0, 2)
        for each in (
            model[k].register_forward_hook(lambda module, given, out: calls.append((type(module), "out"))),
            model[k].register_forward_pre_hook(
                lambda module, given, named: calls.append((type(module), "in")), with_kwargs=True
            ),
            model[k].register_full_backward_hook(lambda module, *_: calls.append((type(module), "back"))),
        )
    ]
    assert pack(model) == ["0", "2"]
    model(torch.randn(2, 12, requires_grad=True)).sum().backward()
    kinds = (BlockSparseLinear, BlockDiagonalLinear)
    assert sorted(map(str, calls)) == sorted(str((kind, what)) for kind in kinds for what in ("in", "out", "back"))
    for handle in handles:
        handle.remove()
    model(torch.randn(2, 12, requires_grad=True)).sum().backward()
    assert len(calls) == 6


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_a_weight_are_refused(register):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    getattr(model[2].weight, register)(lambda _: None)
    with pytest.raises(ValueError, match=r"2\.weight has hooks, which would be lost"):
        pack(model, optimizer)
    with pytest.raises(ValueError, match=r"2\.weight has hooks"):
        BlockDiagonalPruning({"2": 4}, dense=0, pruning=1, alpha=0.0, threshold=0.0)(model, optimizer)
    assert type(model[0]) is nn.Linear and optimizer.param_groups[0]["params"][0] is model[0].weight


def test_removed_weights_within_blocks_begin_without_momentum():
    torch.manual_seed(0)
    mask = block_mask(16, 12, 4)
    mask[1, 1] = False
    model = nn.Sequential(masked(nn.Linear(12, 16), mask))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(4, 12, generator=generator)).square().sum().backward()
        optimizer.step()
        masked(model[0], mask)
    assert bool(optimizer.state[model[0].weight]["momentum_buffer"][1, 1])
    assert pack(model, optimizer, {"0": 4}) == ["0"]
    optimizer.zero_grad()
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    optimizer.step()
    assert model[0].weight[0, 1, 1].item() == 0 and int(torch.count_nonzero(model[0].weight)) == 47


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
    gamma = 1.0 if name == "caffe" else 0.5  # it has a policy of its own
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma)
    other_scheduler = torch.optim.lr_scheduler.StepLR(other, 4, gamma)
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
        (lambda p: torch.optim.Muon([each for each in p if each.ndim == 2]), "Muon trains matrices only"),
    ):
        if "Muon" in message and not hasattr(torch.optim, "Muon"):
            continue  # older torch
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


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_packing_nodes_leaves_the_schedule_as_it_was(scope):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layers = ["0", "2"] if scope == "layer" else ["0"]
    recipe = GradualPruning(linear(0, 4, final=0.75), "outputs", layers, scope=scope)
    pruner = recipe(model, optimizer)
    left = []
    for step in range(1, 8):
        one_step(model, optimizer, step)
        pruner.step(step)
        left.append(pack_nodes(model, [("0", "2")], optimizer)["0"])
        if step == 3:  # as in a run that goes on
            state = pruner.state_dict()
            pruner.detach()
            pruner = recipe(model, optimizer)
            pruner.load_state_dict(state)
    assert left == [13, 10, 7, 4, 4, 4, 4]
    if scope == "layer":
        assert int(model[2].weight_mask.any(1).sum()) == 2


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


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 4, dtype=torch.bool), r"the weight_mask of 0 must be bool and \(16, 12\)"),
        (torch.full((16, 12), 0.5), "must be bool"),
        (torch.zeros(16, 12, dtype=torch.bool), "no weight of 0 is alive"),
    ],
    ids=["shape", "values", "all dead"],
)
def test_a_mask_that_is_none_of_the_weight_is_refused(mask, message):
    model = nn.Sequential(nn.Linear(12, 16))
    model[0].register_buffer("weight_mask", mask)
    with pytest.raises(ValueError, match=message):
        pack(model)
