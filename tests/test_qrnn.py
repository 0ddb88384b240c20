import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from rmtnet.layers import BlockSparseLinear
from rmtnet.layers.recurrent import pooling
from rmtnet.layers.recurrent.pooling import linear_scan
from rmtnet.layers.recurrent.qrnn import QRNN, QRNNState
from rmtnet.matrices import matrices

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same(ours, theirs, **tolerances):
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, **(tolerances or {"rtol": 1e-10, "atol": 1e-12}))


# The scan.


def scanned(decay, update, initial, reverse):
    """By a loop in numpy."""
    states = [np.asarray(initial)]
    steps = range(len(decay))
    for t in reversed(steps) if reverse else steps:
        states.append(np.asarray(decay[t]) * states[-1] + np.asarray(update[t]))
    return torch.from_numpy(np.stack(states[::-1] if reverse else states))


@settings(max_examples=30)
@given(steps=st.integers(1, 6), shape=st.lists(st.integers(1, 4), max_size=3), reverse=st.booleans())
def test_the_scan_is_a_loop(steps, shape, reverse):
    shapes = (steps, *shape), (steps, *shape), tuple(shape)
    decay, update, initial = (torch.randn(each, dtype=torch.float64) for each in shapes)
    expected = scanned(decay, update, initial, reverse)
    assert_same([linear_scan(decay, update, initial, reverse=reverse)], [expected])
    with torch.no_grad():
        assert_same([linear_scan(decay, update, initial, reverse=reverse)], [expected])


@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_has_gradients_and_their_gradients(reverse):
    inputs = leaf(4, 2, 3), leaf(4, 2, 3), leaf(2, 3)
    scan = partial(linear_scan, reverse=reverse)
    assert torch.autograd.gradcheck(scan, inputs)
    assert torch.autograd.gradgradcheck(scan, inputs)


def test_the_scan_takes_inputs_of_any_strides():
    decay, update, initial = leaf(5, 3, 4), leaf(3, 4, 5), leaf(4, 3)
    found = linear_scan(decay, update.permute(2, 0, 1), initial.T)
    assert_same([found], [scanned(decay.detach(), update.detach().permute(2, 0, 1), initial.detach().T, False)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_16_bits_are_summed_in_32(dtype):
    decay, update, initial = torch.full((1000, 3), 1.0), torch.full((1000, 3), 0.01), torch.zeros(3)
    update = update.to(dtype)
    found = linear_scan(decay.to(dtype), update, initial.to(dtype))
    assert found.dtype == dtype
    # Sums in 16 bits stop where an update is less than half a unit in the last place.
    torch.testing.assert_close(found[-1].float(), 1000 * update[0].float(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_is_one_operator_for_the_compiler(reverse):
    inputs = leaf(4, 2, 3), leaf(4, 2, 3), leaf(2, 3)
    torch.library.opcheck(pooling._operator, (*inputs, reverse), test_utils=("test_schema", "test_faketensor"))
    compiled = torch.compile(partial(linear_scan, reverse=reverse), fullgraph=True, backend="aot_eager")
    expected = linear_scan(*inputs, reverse=reverse)
    found = compiled(*inputs)
    assert_same([found], [expected])
    score = torch.randn_like(found)
    assert_same(torch.autograd.grad(found, inputs, score), torch.autograd.grad(expected, inputs, score))


def test_the_scan_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"decay and update must be \(time, ...\) and initial \(...\), got \(3, 2\)"):
        linear_scan(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3))


def python(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


INTERPRETED = """
import torch
from rmtnet.layers import kernels
from rmtnet.layers.recurrent.pooling import _operator, linear_scan

torch.manual_seed(0)
for shape in ((1, 1), (5, 1, 130), (7, 3)):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        for reverse in (False, True):
            inputs = [torch.randn(each).mul(0.5).to(dtype).requires_grad_() for each in (shape, shape, shape[1:])]
            exact = [each.detach().double().requires_grad_() for each in inputs]
            assert kernels.available(*inputs) and not kernels.available(*exact)
            found, expected = (linear_scan(*each, reverse=reverse) for each in (inputs, exact))
            assert found.dtype == dtype
            score = torch.randn(found.shape).to(dtype)
            theirs = torch.autograd.grad(expected, exact, score.double())
            assert torch.equal(_operator(*inputs, reverse), found)
            for our, their in zip((found, *torch.autograd.grad(found, inputs, score)), (expected, *theirs)):
                assert (our.double() - their).norm() <= tolerance * (1 + their.norm()), (shape, dtype, reverse)
            print("same")
"""


@needs_triton
def test_the_kernel_is_the_loop_under_the_interpreter():
    said = python("-c", INTERPRETED, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert said.split() == ["same"] * 18


COMPILED = """
import re, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rmtnet.layers.kernels.pooling import linear_scan as program

for kind in sys.argv[1:]:
    signature = {name: "i32" for name in program.arg_names} | {"TILE": "constexpr"}
    signature |= {name: f"*{kind}" for name in ("decay", "update", "initial", "states")}
    # What the launcher finds out: pointers and strides are multiples of 16.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(program.arg_names) if name not in ("steps", "TILE")
    }
    source = ASTSource(fn=program, signature=signature, constexprs={"TILE": 128}, attrs=aligned)
    for capability in (80, 90):
        made = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 1})
        ptx = made.asm["ptx"]
        counts = (len(re.findall(what, ptx)) for what in (r"cp[.]async[.]c[ag]", r"[.]local"))
        print(len(made.asm["cubin"]), made.metadata.shared, *counts)
"""


@needs_triton
@pytest.mark.parametrize("kind", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_kernel_compiles_for_ampere_and_hopper(tmp_path, kind):
    options = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    lines = python("-c", COMPILED, kind, **options).splitlines()
    assert len(lines) == 2
    for binary, shared, asynchronous, local in (map(int, line.split()) for line in lines):
        assert binary > 1000 and shared <= 99 * 1024 and local == 0
        assert asynchronous > 0  # loads of the next steps are under way


# The network.


def by_convolution(linear, inputs, window, output_gate, c=0.0):
    """A layer as the paper writes it: masked convolutions over (time, batch, features), then the pooling."""
    kernel = linear.weight.unflatten(1, (window, -1)).permute(0, 2, 1).flip(2)
    padded = functional.pad(inputs.permute(1, 2, 0), (window - 1, 0))
    z, f, *o = functional.conv1d(padded, kernel, linear.bias).permute(2, 0, 1).chunk(3 if output_gate else 2, -1)
    z, f = torch.tanh(z), torch.sigmoid(f)
    hidden = []
    for t in range(len(inputs)):
        c = f[t] * c + (1 - f[t]) * z[t]
        hidden.append(torch.sigmoid(o[0][t]) * c if output_gate else c)
    return torch.stack(hidden), c


def reference(qrnn, data):
    cells = []
    for layer in range(qrnn.num_layers):
        outputs = []
        for back in range(1 + qrnn.bidirectional):
            linear = qrnn.linears[layer * (1 + qrnn.bidirectional) + back]
            turned = data.flip(0) if back else data
            hidden, c = by_convolution(linear, turned, qrnn.window[layer], qrnn.output_gate)
            outputs.append(hidden.flip(0) if back else hidden)
            cells.append(c)
        data = torch.cat(outputs, -1)
    return data, torch.stack(cells)


@settings(max_examples=40)
@given(
    layers=st.integers(1, 3),
    windows=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    bias=st.booleans(),
    bidirectional=st.booleans(),
    output_gate=st.booleans(),
    batch_first=st.booleans(),
    steps=st.integers(1, 5),
    batch=st.integers(1, 3),
)
def test_it_is_the_network_of_the_paper(layers, windows, bias, bidirectional, output_gate, batch_first, steps, batch):
    torch.manual_seed(0)
    options = {"bias": bias, "bidirectional": bidirectional, "output_gate": output_gate, "batch_first": batch_first}
    qrnn = QRNN(4, 3, layers, window=windows[:layers], dtype=torch.float64, **options)
    inputs = leaf(steps, batch, 4)
    output, state = qrnn(inputs.transpose(0, 1) if batch_first else inputs)
    found = output.transpose(0, 1) if batch_first else output, state.c
    expected = reference(qrnn, inputs)
    assert_same(found, expected)
    scores = [torch.randn_like(each) for each in found]
    leaves = [inputs, *qrnn.parameters()]
    assert_same(torch.autograd.grad(found, leaves, scores), torch.autograd.grad(expected, leaves, scores))


def test_weights_of_pytorch_qrnn_are_ours_with_f_s_rows_turned():
    torch.manual_seed(0)
    theirs = nn.Linear(8, 15, dtype=torch.float64)
    inputs = leaf(6, 2, 4)
    before = torch.cat([torch.zeros(1, 2, 4), inputs[:-1]])
    z, f, o = theirs(torch.cat([inputs, before], 2)).chunk(3, 2)
    c, expected = torch.zeros(2, 5), []
    for t in range(6):
        c = f[t].sigmoid() * z[t].tanh() + (1 - f[t].sigmoid()) * c
        expected.append(o[t].sigmoid() * c)
    qrnn = QRNN(4, 5, window=2, dtype=torch.float64)
    turned = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).repeat_interleave(5)
    with torch.no_grad():
        qrnn.linears[0].weight.copy_(theirs.weight * turned[:, None])
        qrnn.linears[0].bias.copy_(theirs.bias * turned)
    assert_same([qrnn(inputs)[0]], [torch.stack(expected)])


@pytest.mark.parametrize("window", [1, 2, (2, 1, 3)])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_sequence_cut_in_two_gives_the_same_as_the_whole(window, cut):
    torch.manual_seed(0)
    qrnn = QRNN(4, 5, 3, window=window, dtype=torch.float64)
    inputs = leaf(6, 2, 4)
    whole, last = qrnn(inputs)
    first, state = qrnn(inputs[:cut])
    second, end = qrnn(inputs[cut:], state)
    assert_same([torch.cat([first, second]), end.c, *end.inputs], [whole, last.c, *last.inputs])
    score = torch.randn_like(whole)
    leaves = [inputs, *qrnn.parameters()]
    assert_same(
        torch.autograd.grad(torch.cat([first, second]), leaves, score), torch.autograd.grad(whole, leaves, score)
    )


def test_the_last_inputs_of_a_window_of_three_are_carried_through_single_steps():
    qrnn = QRNN(4, 5, 2, window=3, dtype=torch.float64)
    inputs, state, outputs = leaf(5, 2, 4), None, []
    for step in inputs.split(1):
        output, state = qrnn(step, state)
        outputs.append(output)
    assert_same([torch.cat(outputs)], [qrnn(inputs)[0]])
    assert_same([state.inputs[0]], [inputs[-2:]])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("window", [1, 2, (3, 2)])
@pytest.mark.parametrize("with_state", [False, True])
def test_packed_sequences_are_run_as_each_alone(bidirectional, window, with_state):
    torch.manual_seed(0)
    qrnn = QRNN(4, 5, 2, window=window, bidirectional=bidirectional, dtype=torch.float64)
    sequences = [torch.randn(length, 4, dtype=torch.float64) for length in (2, 5, 1, 4)]
    state = None
    if with_state:
        _, (c, inputs) = qrnn(torch.zeros(1, 4, 4, dtype=torch.float64))
        state = QRNNState(torch.randn_like(c), tuple(torch.randn_like(each) for each in inputs))
    packed, end = qrnn(pack_sequence(sequences, enforce_sorted=False), state)
    outputs, lengths = pad_packed_sequence(packed)
    for k, sequence in enumerate(sequences):
        own = state and QRNNState(state.c[:, k], tuple(each[:, k] for each in state.inputs))
        output, (c, inputs) = qrnn(sequence, own)
        assert_same([outputs[: lengths[k], k], end.c[:, k]], [output, c])
        assert_same([each[:, k] for each in end.inputs], inputs)


def test_steps_that_a_packed_sequence_does_not_have_reach_no_map():
    seen = []

    class Counting(nn.Linear):
        def forward(self, input):
            seen.append(input.numel() // self.in_features)
            return super().forward(input)

    QRNN(4, 5, 2, window=2, linear=Counting)(pack_sequence([torch.ones(3, 4), torch.ones(1, 4)]))
    assert seen == [4, 4]


def test_zoneout_keeps_states():
    torch.manual_seed(0)
    qrnn = QRNN(4, 5, zoneout=1.0)
    c = torch.randn(1, 2, 5)
    _, end = qrnn(torch.randn(6, 2, 4), QRNNState(c, (torch.zeros(0, 2, 4),)))
    assert_same([end.c], [c])


def test_zoneout_s_evaluation_is_the_mean_of_its_training():
    torch.manual_seed(0)
    qrnn = QRNN(4, 5, zoneout=0.3)
    step, c = torch.randn(1, 1, 4).expand(1, 20_000, 4), torch.randn(1, 1, 5).expand(1, 20_000, 5)
    state = QRNNState(c, (torch.zeros(0, 20_000, 4),))
    training = qrnn(step, state)[1].c
    evaluated = qrnn.eval()(step, state)[1].c
    assert_same([training.mean(1)], [evaluated[:, 0]], rtol=0, atol=0.02)
    share = (training == c).float().mean((0, 1))
    assert_same([share], [torch.full((5,), 0.3)], rtol=0, atol=0.02)


def test_dropout_stands_between_layers():
    qrnn = QRNN(4, 5, 2, dropout=1.0)
    inputs = torch.randn(6, 2, 4)
    only_bias = QRNN(5, 5)
    only_bias.linears[0].load_state_dict(qrnn.linears[1].state_dict())
    assert_same([qrnn(inputs)[0]], [only_bias(torch.zeros(6, 2, 5))[0]])
    dense = QRNN(4, 5, 2)
    dense.load_state_dict(qrnn.state_dict())
    assert_same([qrnn.eval()(inputs)[0]], [dense(inputs)[0]])
    with pytest.warns(UserWarning, match="there is one only"):
        QRNN(4, 5, dropout=0.5)


def test_dropped_weights_are_one_draw_for_all_steps_while_training():
    torch.manual_seed(0)
    qrnn = QRNN(4, 5, weight_drop=0.5)
    same = torch.randn(1, 1, 4).expand(6, 1, 4)
    output, _ = qrnn(same)
    z = (output[1:] - output[:-1])[:, 0]  # a constant map's c goes to its z geometrically
    ratios = z[1:] / z[:-1]
    assert_same(list(ratios[1:]), [ratios[0]] * 3, rtol=1e-2, atol=1e-3)
    assert not torch.equal(qrnn(same)[0], output)
    output.sum().backward()
    assert qrnn.linears[0].weight.grad.count_nonzero() <= 50
    plain = QRNN(4, 5)
    plain.load_state_dict(qrnn.state_dict())
    assert_same([qrnn.eval()(same)[0]], [plain(same)[0]])


def test_maps_of_blocks_are_dense_ones_with_zeros():
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    blocks = QRNN(4, 6, 1, window=2, linear=lambda width, out, bias: BlockSparseLinear(width, out, mask, bias))
    dense = QRNN(4, 6, 1, window=2)
    dense.linears[0] = blocks.linears[0].to_dense()
    inputs = torch.randn(5, 2, 4)
    assert_same([blocks(inputs)[0]], [dense(inputs)[0]], rtol=1e-5, atol=1e-6)
    assert [matrix.name for matrix in matrices(blocks)] == ["linears.0"]


def test_it_compiles_whole():
    torch.manual_seed(0)
    qrnn = QRNN(4, 5, 2, window=2, bidirectional=True, dtype=torch.float64)
    compiled = torch.compile(qrnn, fullgraph=True, backend="aot_eager")
    inputs = leaf(6, 2, 4)
    (output, state), (expected, wanted) = compiled(inputs), qrnn(inputs)
    assert_same([output, state.c, *state.inputs], [expected, wanted.c, *wanted.inputs])
    leaves = [inputs, *qrnn.parameters()]
    assert_same(torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(expected.sum(), leaves))


def test_autocast_leaves_it_close():
    qrnn = QRNN(16, 16, 2, window=2)
    inputs = torch.randn(6, 2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = qrnn(inputs)
        again, _ = qrnn(inputs, state)
    assert output.dtype == state.c.dtype == again.dtype == torch.bfloat16
    assert_same([output.float()], [qrnn(inputs)[0]], rtol=0, atol=0.02)


def test_it_can_be_copied_stored_and_detached():
    qrnn = QRNN(4, 5, 2, window=2)
    inputs = torch.randn(6, 2, 4)
    output, state = qrnn(inputs)
    for other in (copy.deepcopy(qrnn), pickle.loads(pickle.dumps(qrnn))):
        assert torch.equal(other(inputs)[0], output)
    assert state.c.requires_grad and state.inputs[1].requires_grad
    apart = state.detach()
    assert not any(each.requires_grad for each in (apart.c, *apart.inputs))
    assert "4, 5, num_layers=2" in repr(qrnn)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_size": 0}, "input_size must be at least 1, got 0"),
        ({"hidden_size": -1}, "hidden_size must be at least 1, got -1"),
        ({"window": 0}, "window must be at least 1, one for each of 2 layers, got 0"),
        ({"window": (2, 1, 1)}, r"window must be at least 1, one for each of 2 layers, got \(2, 1, 1\)"),
        ({"zoneout": 1.5}, r"zoneout must be a probability in \[0, 1\], got 1.5"),
        ({"dropout": float("nan")}, r"dropout must be a probability in \[0, 1\], got nan"),
        ({"weight_drop": -0.1}, r"weight_drop must be a probability in \[0, 1\], got -0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        QRNN(**({"input_size": 4, "hidden_size": 5, "num_layers": 2} | options))


def test_inputs_that_do_not_fit_are_refused():
    qrnn = QRNN(4, 5, 2, window=2)
    with pytest.raises(RuntimeError, match="input must have 4 features, got 3"):
        qrnn(torch.ones(6, 2, 3))
    with pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
        qrnn(torch.ones(0, 2, 4))
    with pytest.raises(ValueError, match="input must have 2 or 3 axes or be packed, got 4"):
        qrnn(torch.ones(1, 6, 2, 4))
    _, (c, inputs) = qrnn(torch.ones(6, 2, 4))
    with pytest.raises(RuntimeError, match=r"initial c must be \(2, 3, 5\), got \(2, 2, 5\)"):
        qrnn(torch.ones(6, 3, 4), (c, inputs))
    with pytest.raises(RuntimeError, match=r"initial inputs must be \(1, 2, 5\), got \(1, 2, 4\)"):
        qrnn(torch.ones(6, 2, 4), (c, (inputs[0], inputs[0])))
    with pytest.raises(RuntimeError, match="initial inputs must be 2 tensors, one for each direction, got 1"):
        qrnn(torch.ones(6, 2, 4), (c, inputs[:1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", [(35, 20, 1536), (300, 1, 50), (1, 7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_of_a_gpu_is_that_of_a_cpu(shape, dtype, reverse):
    torch.manual_seed(0)
    exact = [torch.rand(each, dtype=torch.float64).to(dtype).double() for each in (shape, shape, shape[1:])]
    inputs = [each.to("cuda", dtype).requires_grad_() for each in exact]
    exact = [each.requires_grad_() for each in exact]
    found, expected = (linear_scan(*each, reverse=reverse) for each in (inputs, exact))
    score = torch.rand_like(expected).to(dtype)
    gradients = torch.autograd.grad(found, inputs, score.cuda())
    wanted = torch.autograd.grad(expected, exact, score.double())
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for our, their in zip((found, *gradients), (expected, *wanted), strict=True):
        assert (our.cpu().double() - their).norm() <= tolerance * their.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_it_is_what_it_is_on_a_cpu(compiled):
    torch.manual_seed(0)
    qrnn = QRNN(40, 64, 2, window=2, bidirectional=True)
    other = copy.deepcopy(qrnn).cuda()
    inputs = torch.randn(9, 5, 40)
    expected, state = qrnn(inputs)
    output, end = (torch.compile(other, fullgraph=True) if compiled else other)(inputs.cuda())
    assert_same([output.cpu(), end.c.cpu()], [expected, state.c], rtol=1e-4, atol=1e-5)
    output.sum().backward()
    expected.sum().backward()
    for our, their in zip(other.parameters(), qrnn.parameters(), strict=True):
        torch.testing.assert_close(our.grad.cpu(), their.grad, rtol=1e-3, atol=1e-4)
