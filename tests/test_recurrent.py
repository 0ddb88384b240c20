import copy
import io
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from rmtnet.layers.recurrent import BlockSparseLSTM, passes
from rmtnet.layers.recurrent.recurrence import lstm_recurrence
from rmtnet.matrices import matrices
from rmtnet.pruning.packing import pack

WAYS = ["blocks", "fused"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Each of the two ways to run a layer."""
    take(request.param, monkeypatch)
    return request.param


def take(way, monkeypatch):
    monkeypatch.setattr(passes, "DENSE_ABOVE", 1.0 if way == "blocks" else -1.0)
    monkeypatch.setattr(passes, "SPARSE_FROM", 1)


def random_masks(inputs, hidden, block, density=0.5, generator=None, **options):
    """A mask for every matrix, no grid empty."""
    names = BlockSparseLSTM(inputs, hidden, block=block, **options)._widths()
    rows, columns = block
    masks = {}
    for name, width in names.items():
        grid = torch.rand(4 * hidden // rows, width // columns, generator=generator) < density
        grid[0, 0] = True
        masks[name] = grid
    return masks


def sister(inputs=4, hidden=6, block=(3, 2), density=0.5, dtype=torch.float64, weight_drop=0.0, **options):
    """A block LSTM with random blocks, and the dense LSTM with the same matrices."""
    torch.manual_seed(0)
    masks = random_masks(inputs, hidden, block, density, **options)
    layer = BlockSparseLSTM(inputs, hidden, dtype=dtype, block=block, mask=masks, weight_drop=weight_drop, **options)
    return layer, layer.to_lstm()


def run(lstm, *inputs):
    """Outputs and final states, and the gradients of a random sum of them."""
    output, (h, c) = lstm(*inputs)
    flat = output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output
    generator = torch.Generator().manual_seed(3)
    scores = [torch.rand(value.shape, generator=generator, dtype=torch.float64).to(h.device) for value in (flat, h, c)]
    loss = sum((score * value).sum() for score, value in zip(scores, (flat, h, c), strict=True))
    lstm.zero_grad()
    loss.backward()
    return flat, h, c


def assert_same_gradients(layer, dense):
    """The dense gradient at the blocks; biases likewise."""
    for name, matrix in layer.named_children():
        gradient = getattr(dense, name).grad
        _, rows, columns = matrix.weight.shape
        grid = gradient.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2)
        expected = grid[matrix.block_row, matrix.block_col] * matrix.kept[:, None, None]
        torch.testing.assert_close(matrix.weight.grad, expected, rtol=1e-10, atol=1e-12)
        if layer.bias:
            torch.testing.assert_close(
                matrix.bias.grad, getattr(dense, name.replace("weight", "bias")).grad, rtol=1e-10, atol=1e-12
            )


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same(ours, theirs, **tolerances):
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, **(tolerances or {"rtol": 1e-10, "atol": 1e-12}))


@settings(max_examples=60)
@given(
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    block=st.sampled_from([(1, 1), (3, 2), (2, 1), (6, 2)]),
    density=st.sampled_from([0.1, 0.5, 1.0]),
    steps=st.integers(1, 4),
    batch=st.integers(1, 3),
    with_state=st.booleans(),
    way=st.sampled_from(WAYS),
)
def test_it_is_the_lstm_of_torch_with_masked_weights_in_values_and_gradients(
    layers, bias, batch_first, bidirectional, block, density, steps, batch, with_state, way
):
    options = {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    with pytest.MonkeyPatch.context() as monkeypatch:
        take(way, monkeypatch)
        layer, dense = sister(block=block, density=density, **options)
        inputs = leaf(*((batch, steps) if batch_first else (steps, batch)), 4)
        state = [leaf(layers * (1 + bidirectional), batch, 6) for _ in range(2)] if with_state else []
        leaves = [inputs, *state]
        arguments = (inputs, tuple(state)) if with_state else (inputs,)
        theirs = run(dense, *arguments)
        expected = [tensor.grad.clone() for tensor in leaves]
        for tensor in leaves:
            tensor.grad = None
        assert_same(run(layer, *arguments), theirs)
    assert_same([tensor.grad for tensor in leaves], expected)
    assert_same_gradients(layer, dense)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_recurrence_passes_gradcheck(reverse):
    row, col = torch.tensor([0, 1, 3, 5, 7, 2]), torch.tensor([0, 1, 0, 1, 1, 0])
    sizes = torch.tensor([3, 2, 2, 1])
    gates, weight, h, c = leaf(8, 16), leaf(6, 2, 2), leaf(3, 4), leaf(3, 4)

    def flat(gates, weight, h, c):
        hidden, (last_h, last_c) = lstm_recurrence(gates, weight, row, col, (h, c), sizes, reverse)
        return hidden, last_h, last_c

    assert torch.autograd.gradcheck(flat, (gates, weight, h, c))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences_are_torchs(way, enforce_sorted, bidirectional):
    layer, dense = sister(num_layers=2, bidirectional=bidirectional)
    lengths = [4, 4, 2, 1] if enforce_sorted else [2, 4, 1, 4]
    sequences = [torch.randn(length, 4, dtype=torch.float64) for length in lengths]
    packed = pack_sequence(sequences, enforce_sorted=enforce_sorted)
    state = tuple(leaf(2 * (1 + bidirectional), 4, 6) for _ in range(2))
    leaves = [packed.data.requires_grad_(), *state]
    theirs = run(dense, packed, state)
    expected = [tensor.grad.clone() for tensor in leaves]
    for tensor in leaves:
        tensor.grad = None
    assert_same(run(layer, packed, state), theirs)
    assert_same([tensor.grad for tensor in leaves], expected)
    assert_same_gradients(layer, dense)
    ours, reference = (pad_packed_sequence(lstm(packed)[0], batch_first=True) for lstm in (layer, dense))
    assert_same(ours, reference)


def test_matrices_in_one_buffer_are_the_same_in_cudnns_order():
    weights = [[leaf(4, 2), leaf(4, 1)], [leaf(4, 2), leaf(4, 1)]]
    biases = [[leaf(4), leaf(4)], [leaf(4), leaf(4)]]
    together = passes._in_one_buffer(weights, biases)
    tensors = [tensor for group in together for own in group for tensor in own]
    assert [tensor.storage_offset() for tensor in tensors] == [0, 8, 12, 20, 24, 28, 32, 36]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert_same(tensors, [tensor for group in (weights, biases) for own in group for tensor in own], rtol=0, atol=0)
    (together[0][1][0].sum() * 3).backward()
    assert torch.equal(weights[1][0].grad, torch.full((4, 2), 3.0, dtype=torch.float64))


def test_one_sequence_without_a_batch_is_torchs(way):
    layer, dense = sister(num_layers=2, batch_first=True)
    inputs, state = leaf(5, 4), (leaf(2, 6), leaf(2, 6))
    assert_same(run(layer, inputs, state), run(dense, inputs, state))
    assert layer(inputs)[0].shape == dense(inputs)[0].shape == (5, 6)


def test_a_new_one_has_all_blocks_and_the_start_of_torchs_lstm():
    layer = BlockSparseLSTM(100, 400, 2, block=50)
    assert {name: tuple(matrix.weight.shape) for name, matrix in layer.named_children()} == {
        "weight_ih_l0": (32 * 2, 50, 50),
        "weight_hh_l0": (32 * 8, 50, 50),
        "weight_ih_l1": (32 * 8, 50, 50),
        "weight_hh_l1": (32 * 8, 50, 50),
    }
    for parameter in layer.parameters():
        assert parameter.abs().max() <= 1 / 20
        # Uniform: kurtosis 9/5, so the sampled variance has the relative error sqrt(0.8 / entries).
        assert parameter.var().item() * 3 * 400 == pytest.approx(1, abs=5 * (0.8 / parameter.numel()) ** 0.5)


def test_without_a_block_size_each_gate_is_one_block():
    layer = BlockSparseLSTM(3, 5, 2)
    assert [tuple(matrix.weight.shape) for matrix in layer.children()] == [(4, 5, 3), (4, 5, 5), (4, 5, 5), (4, 5, 5)]


def test_from_lstm_and_to_lstm_are_inverse_on_the_blocks_and_copy():
    dense = nn.LSTM(4, 6, 2, bidirectional=True).eval()
    layer = BlockSparseLSTM.from_lstm(dense, block=2)
    back = layer.to_lstm()
    assert_same(back.state_dict().values(), dense.state_dict().values(), rtol=0, atol=0)
    assert not layer.training and not back.training
    assert_same(layer(torch.ones(3, 2, 4))[1], dense(torch.ones(3, 2, 4))[1], rtol=0, atol=1e-6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert dense.weight_hh_l0.abs().sum() > 0 and back.weight_hh_l0.abs().sum() > 0

    grid = torch.zeros(12, 3, dtype=torch.bool)
    grid[5, 1] = True
    masked = BlockSparseLSTM.from_lstm(dense, block=2, mask={"weight_hh_l1_reverse": grid}).to_lstm()
    expected = torch.zeros_like(dense.weight_hh_l1_reverse)
    expected[10:12, 2:4] = dense.weight_hh_l1_reverse[10:12, 2:4]
    assert torch.equal(masked.weight_hh_l1_reverse, expected)
    assert torch.equal(masked.weight_hh_l1, dense.weight_hh_l1)


def test_removed_blocks_stay_zero_and_get_no_gradient(way):
    layer, _ = sister(num_layers=2, density=1.0)
    generator = torch.Generator().manual_seed(1)
    removed = {}
    for name, matrix in layer.named_children():
        removed[name] = torch.rand(len(matrix.kept), generator=generator) < 0.5
        matrix.remove_blocks(removed[name])
    dense = layer.to_lstm()
    inputs = leaf(3, 2, 4)
    assert_same(run(layer, inputs), run(dense, inputs))
    assert_same_gradients(layer, dense)
    for name, matrix in layer.named_children():
        assert matrix.weight.grad[removed[name]].abs().sum() == 0
    layer.reset_parameters()
    assert all((matrix.weight[removed[name]] == 0).all() for name, matrix in layer.named_children())


def test_dropout_stands_between_layers_only_while_training(way):
    layer, dense = sister(num_layers=2, dropout=1.0)
    inputs = leaf(3, 2, 4)
    silent = layer(inputs)[0]
    other = layer(inputs * 2)[0]
    assert torch.equal(silent, other), "all of the first layer's outputs are dropped"
    assert not torch.equal(layer(inputs)[1][0][0], layer(2 * inputs)[1][0][0])
    assert_same([silent], [dense(inputs)[0]])
    assert_same([layer.eval()(inputs)[0]], [dense.eval()(inputs)[0]])

    half, _ = sister(num_layers=2, dropout=0.5)
    torch.manual_seed(1)
    assert not torch.equal(half(inputs)[0], half(inputs)[0])


def test_weight_drop_is_one_draw_a_pass_over_the_recurrent_weights(way):
    layer, dense = sister(weight_drop=0.5, density=1.0)
    inputs = leaf(5, 2, 4)
    torch.manual_seed(7)
    kept = nn.functional.dropout(layer.weight_hh_l0.weight.detach(), 0.5)  # the draw that the pass will make
    dropped = copy.deepcopy(layer).eval()
    with torch.no_grad():
        dropped.weight_hh_l0.weight.copy_(kept)
    torch.manual_seed(7)
    assert_same(run(layer, inputs), run(dropped.to_lstm(), inputs))
    assert (layer.weight_hh_l0.weight.grad[kept == 0] == 0).all()
    assert (layer.weight_hh_l0.weight.grad[kept != 0] != 0).all()
    assert (layer.weight_ih_l0.weight.grad != 0).all(), "input weights are not dropped"
    assert_same(run(layer.eval(), inputs), run(dense, inputs))


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_batches_single_rows_and_single_steps_are_torchs(way, batch):
    layer, dense = sister(num_layers=2, bidirectional=True)
    for steps in (1, 3):
        inputs = torch.randn(steps, batch, 4, dtype=torch.float64)
        assert_same(run(layer, inputs), run(dense, inputs))


def test_a_sequence_without_steps_is_torchs_error(way):
    layer, dense = sister()
    messages = []
    for lstm in (layer, dense):
        with pytest.raises(RuntimeError) as error:
            lstm(torch.zeros(0, 2, 4, dtype=torch.float64))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_non_contiguous_inputs_and_frozen_weights(way):
    layer, dense = sister(num_layers=2)
    inputs = leaf(4, 2, 5).transpose(0, 2)
    assert_same(run(layer, inputs), run(dense, inputs))
    layer.requires_grad_(False)
    dense.requires_grad_(False)
    for lstm in (layer, dense):
        lstm(inputs := leaf(3, 2, 4))
    ours, theirs = (torch.autograd.grad(lstm(inputs)[0].sum(), inputs) for lstm in (layer, dense))
    assert_same(ours, theirs)
    assert not layer(inputs.detach())[0].requires_grad


def test_state_survives_a_pickle_free_save_and_load_and_deepcopy(way):
    layer, _ = sister(num_layers=2)
    other, _ = sister(num_layers=2)
    layer.weight_hh_l0.remove_blocks(layer.weight_hh_l0.block_row == 0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    inputs = leaf(3, 2, 4)
    assert_same(run(other, inputs), run(layer, inputs), rtol=0, atol=0)
    assert_same(run(copy.deepcopy(layer), inputs), run(layer, inputs), rtol=0, atol=0)


def test_double_and_half_precision(way):
    layer, dense = sister(num_layers=2, dtype=torch.float32)
    inputs = torch.randn(3, 2, 4)
    assert layer.double()(inputs.double())[0].dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16):
        low = layer.to(dtype)(inputs.to(dtype))[0]
        assert low.dtype == dtype
        torch.testing.assert_close(low.float(), dense(inputs)[0], rtol=0, atol=0.02)


def test_autocast_is_torchs(way):
    layer, dense = sister(num_layers=2, bidirectional=True, dtype=torch.float32)
    inputs, state = torch.randn(3, 2, 4), (torch.randn(4, 2, 6), torch.randn(4, 2, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for arguments in ((inputs,), (inputs, state)):
            ours, theirs = layer(*arguments), dense(*arguments)
            assert ours[0].dtype == theirs[0].dtype == torch.bfloat16
            torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0.02)
            torch.testing.assert_close(ours[1][1], theirs[1][1], rtol=0, atol=0.02, check_dtype=False)
    ours[0].float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_it_compiles_as_one_graph_and_not_again_when_blocks_are_removed():
    layer, dense = sister(bidirectional=True, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in (3, 5):
        inputs = torch.randn(steps, 2, 4)
        output, (h, _) = compiled(inputs)
        torch.testing.assert_close(output, dense(inputs)[0])
    (output.sum() + h.sum()).backward()
    ours = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    output, (h, _) = layer(inputs)
    (output.sum() + h.sum()).backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad)
    layer.weight_hh_l0.remove_blocks(layer.weight_hh_l0.block_row < 4)
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(compiled(inputs)[0], layer.to_lstm()(inputs)[0])


def test_it_exports_for_any_length_and_batch():
    layer, dense = sister(num_layers=2, dtype=torch.float32)
    length, batch = (torch.export.Dim(name, min=2) for name in ("length", "batch"))
    program = torch.export.export(
        layer.eval(), (torch.randn(3, 2, 4),), dynamic_shapes={"input": {0: length, 1: batch}}
    )
    inputs = torch.randn(7, 5, 4)
    torch.testing.assert_close(program.module()(inputs)[0], dense(inputs)[0])


class Tagger(nn.Module):
    """Written for torch's LSTM, as taggers are."""

    def __init__(self, lstm):
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.lstm = lstm
        self.scores = nn.Linear(2 * lstm.hidden_size, 3)

    def forward(self, words, lengths):
        self.lstm.flatten_parameters()
        packed = pack_padded_sequence(self.words(words), lengths, batch_first=True, enforce_sorted=False)
        output, _ = self.lstm(packed)
        return self.scores(pad_packed_sequence(output, batch_first=True)[0])


def test_a_tagger_learns_with_it_as_with_torchs(way):
    torch.manual_seed(0)
    dense = Tagger(nn.LSTM(4, 6, batch_first=True, bidirectional=True)).double()
    blocks = copy.deepcopy(dense)
    blocks.lstm = BlockSparseLSTM.from_lstm(dense.lstm, block=2)
    words, lengths = torch.randint(0, 20, (5, 7)), torch.tensor([3, 7, 1, 5, 7])
    tags = torch.randint(0, 3, (5, 7))
    curves = []
    for model in (dense, blocks):
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        curves.append([])
        for _ in range(20):
            loss = nn.functional.cross_entropy(model(words, lengths).flatten(0, 1), tags.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curves[-1].append(loss.item())
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)
    assert curves[1][-1] < 0.8 * curves[1][0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_on_a_gpu_it_is_torchs_and_cudnn_has_nothing_to_compact(bidirectional, packed):
    layer, dense = (lstm.cuda() for lstm in sister(num_layers=2, bidirectional=bidirectional))
    inputs = torch.randn(5, 3, 4, dtype=torch.float64, device="cuda")
    if packed:
        inputs = pack_padded_sequence(inputs, [5, 3, 2])
    dense.flatten_parameters()
    theirs = run(dense, inputs)
    assert_same(run(layer, inputs), theirs)  # cuDNN's warning of weights in pieces would be an error
    assert_same_gradients(layer, dense)
    by_steps = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(run(by_steps, inputs), theirs)
    low = copy.deepcopy(layer).float()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        data = inputs.float() if not packed else pack_padded_sequence(torch.randn(5, 3, 4, device="cuda"), [5, 3, 2])
        outputs = [lstm(data)[0] for lstm in (low, copy.deepcopy(dense).float())]
    # cuDNN's LSTM is run in float16, whatever autocast asks for.
    dtypes = {(output.data if packed else output).dtype for output in outputs}
    assert len(dtypes) == 1 and dtypes < {torch.float16, torch.bfloat16}


def test_a_model_with_it_is_recorded_by_torchs_names():
    model = nn.ModuleDict({"lstm": BlockSparseLSTM(4, 6, block=(3, 2), mask={"weight_hh_l0": torch.eye(8, 3) > 0})})
    found = {matrix.name: matrix for matrix in matrices(model)}
    assert list(found) == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    layout = found["lstm.weight_hh_l0"].layout
    assert (layout.out_features, layout.in_features, layout.block_row) == (24, 6, (0, 1, 2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"block": 4}, "block must divide hidden_size: 4 of 4 x 4 does not divide 6"),
        ({"block": (6, 3)}, "block must divide input_size: 3 of 6 x 3 does not divide 4"),
        ({"block": 0}, "block must divide hidden_size: 0 of 0 x 0 does not divide 6"),
        (
            {"mask": {"weight_hh_l0": torch.ones(12, 2, dtype=torch.bool)}},
            "mask of weight_hh_l0 must be (12, 3) for blocks of 2 x 2, got (12, 2)",
        ),
        ({"mask": {"weight_hh": torch.ones(12, 3) > 0}}, "mask names weight_hh; the matrices are weight_ih_l0, w"),
        ({"mask": {"weight_hh_l0": torch.zeros(12, 3) > 0}}, "mask keeps no block"),
        ({"dropout": 1.5}, "dropout must be a probability in [0, 1], got 1.5"),
        ({"weight_drop": -0.1}, "weight_drop must be a probability in [0, 1], got -0.1"),
        ({"weight_drop": float("nan")}, "weight_drop must be a probability in [0, 1], got nan"),
        ({"proj_size": 3}, "proj_size must be 0: a BlockSparseLSTM has no projections, got 3"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"input_size": 0}, "input_size must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_one_clear_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BlockSparseLSTM(**{"input_size": 4, "hidden_size": 6, "block": 2, **change})


def test_bad_inputs_are_told():
    layer = BlockSparseLSTM(4, 6, block=2)
    with pytest.raises(ValueError, match="2 or 3 axes or be packed, got 4"):
        layer(torch.zeros(1, 1, 1, 4))
    with pytest.raises(RuntimeError, match="input must have 4 features, got 5"):
        layer(torch.zeros(3, 2, 5))
    with pytest.raises(RuntimeError, match=re.escape("initial c must be (1, 2, 6), got (1, 3, 6)")):
        layer(torch.zeros(3, 2, 4), (torch.zeros(1, 2, 6), torch.zeros(1, 3, 6)))
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        dense = nn.LSTM(4, 6)
        dense.weight_hh_l0.data[0, 0] = float("nan")
        BlockSparseLSTM.from_lstm(dense, block=2)


def test_dropout_without_a_second_layer_warns_as_torch_does():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BlockSparseLSTM(4, 6, dropout=0.5)
    assert len(caught) == 1 and "one only" in str(caught[0].message)


def test_training_goes_on_alike_when_removed_blocks_are_packed_away(way):
    torch.manual_seed(0)
    layer = BlockSparseLSTM(4, 6, 2, block=(3, 2), dtype=torch.float64)
    models = [layer, copy.deepcopy(layer)]
    inputs, targets = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 6, dtype=torch.float64)
    curves = []
    for model in models:
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        curves.append([])
        for step in range(12):
            if step == 4:
                for matrix in model.children():
                    matrix.remove_blocks((matrix.block_row + matrix.block_col) % 3 > 0)
            if step == 6 and model is models[1]:
                pack(model, optimizer)
            loss = (model(inputs)[0] - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curves[-1].append(loss.item())
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)
    assert [len(matrix.weight) for matrix in models[1].children()] == [
        int(matrix.kept.sum()) for matrix in models[0].children()
    ]
    assert_same(models[1].to_lstm().state_dict().values(), models[0].to_lstm().state_dict().values())


@pytest.mark.parametrize(
    "other", [nn.GRU(4, 4), nn.RNN(4, 4), nn.LSTMCell(4, 4)], ids=lambda value: type(value).__name__
)
def test_what_is_no_lstm_is_refused(other):
    with pytest.raises(TypeError, match=r"must be a torch.nn.LSTM, got (GRU|RNN|LSTMCell)"):
        BlockSparseLSTM.from_lstm(other)
