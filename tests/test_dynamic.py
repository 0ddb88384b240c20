import copy
import io
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rmtnet.layers import dynamic_products as products
from rmtnet.layers import dynamic_training
from rmtnet.layers.dynamic import DynamicBlockSparseLinear, counting_open
from rmtnet.layers.gating import RankGate, SoftmaxGate, rank_gates, set_sparsity, set_temperature
from rmtnet.matrices import matrices
from rmtnet.pruning.schedules import linear

sides = st.integers(1, 5)
closed = st.floats(0, 1, exclude_max=True)


def made(in_features=20, out_features=36, block=(9, 5), **options):
    torch.manual_seed(0)
    return DynamicBlockSparseLinear(in_features, out_features, block, **options)


def gates_by_definition(values, opened):
    """Equation 1 of the paper in float64, in plain loops."""
    gates = np.zeros(values.shape)
    for row, logits in zip(gates, values.double().numpy(), strict=True):
        positive = np.maximum(logits, 0)
        kept = sorted(range(len(row)), key=lambda i: (-positive[i], i))[:opened]
        row[kept] = positive[kept] if positive.any() else 1
        row /= row.mean()
    return torch.from_numpy(gates)


def outputs_by_definition(layer, inputs, gates):
    """(G * W) h + bias in float64, each input by its own dense matrix."""
    (rows, columns), (_, height, width) = layer.grid, layer.weight.shape
    spread = torch.from_numpy(np.kron(gates.detach().view(-1, rows, columns).double(), np.ones((1, height, width))))
    matrix = layer.to_dense().weight.detach().double()
    outputs = torch.stack([(gate * matrix) @ one for gate, one in zip(spread, inputs.double(), strict=True)])
    return outputs if layer.bias is None else outputs + layer.bias.detach().double()


def values_of(gate, inputs):
    return gate.linear(gate.features(inputs)).detach()


class TestRankGates:
    @settings(max_examples=80)
    @given(
        entries=st.lists(
            st.lists(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, 3.0]), min_size=7, max_size=7), max_size=4
        ),
        opened=st.integers(1, 7),
        sorting=st.booleans(),
    )
    def test_ties_zeros_and_counts_are_those_of_the_definition(self, entries, opened, sorting):
        values = torch.tensor(entries, dtype=torch.float64).view(-1, 7)
        choose = products._choose_by_sorting if sorting else rank_gates
        gates = choose(values, torch.tensor(opened))
        torch.testing.assert_close(gates, gates_by_definition(values, opened), rtol=1e-12, atol=1e-12)
        assert ((gates != 0).sum(-1) == opened).all()
        torch.testing.assert_close(gates.mean(-1), torch.ones(len(values), dtype=torch.float64), rtol=1e-14, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("opened", [1, 57, 576])
    def test_exactly_as_many_are_open_in_any_type(self, dtype, opened):
        values = torch.randn(30, 576, dtype=dtype)
        gates = rank_gates(values, opened)
        assert gates.dtype == torch.promote_types(dtype, torch.float32)
        assert ((gates != 0).sum(-1) == opened).all()
        torch.testing.assert_close(gates.mean(-1), torch.ones(30, dtype=gates.dtype), rtol=1e-6, atol=0)

    def test_gradient_is_that_of_the_definition(self):
        values = torch.randn(5, 12, dtype=torch.float64).abs().add(0.1).requires_grad_()
        kept = torch.where(values >= values.detach().topk(4).values[:, -1:], values, 0)
        weights = torch.randn(5, 12, dtype=torch.float64)
        expected = torch.autograd.grad((weights * kept / kept.mean(-1, keepdim=True)).sum(), values)
        found = torch.autograd.grad((weights * rank_gates(values, 4)).sum(), values)
        torch.testing.assert_close(found, expected)
        assert torch.autograd.gradcheck(lambda values: rank_gates(values, 4), values)

    def test_where_no_value_is_positive_the_first_are_open_without_gradient(self):
        values = torch.tensor([[-1.0, -2.0, 0.0, -3.0]], requires_grad=True)
        gates = rank_gates(values, 3)
        torch.testing.assert_close(gates.detach(), torch.tensor([[4 / 3, 4 / 3, 4 / 3, 0]]))
        gates[0, 0].backward()
        assert values.grad.tolist() == [[0, 0, 0, 0]]

    def test_what_is_no_number_stays_none(self):
        for choose in (rank_gates, products._choose_by_sorting):
            gates = choose(torch.tensor([[1.0, torch.nan, 2.0], [1.0, 2.0, 3.0]]), torch.tensor(1))
            assert gates[0].isnan().all()
            assert gates[1].tolist() == [0, 0, 3]


@pytest.fixture(params=["numba", "grouped", "grouped in a loop", "all blocks"])
def way(request, monkeypatch):
    """Each way to form the product without gradients."""
    if request.param != "numba":
        monkeypatch.setattr(products, "_numba", lambda: None)
        monkeypatch.setattr(products, "MOST_OPEN", 1 if "grouped" in request.param else -1)
    if request.param == "grouped in a loop":
        monkeypatch.delattr(nn.functional, "grouped_mm", raising=False)
    return request.param


class TestProduct:
    @pytest.mark.usefixtures("way")
    @settings(max_examples=25)
    @given(
        grid=st.tuples(sides, sides),
        block=st.tuples(st.integers(1, 18), sides),
        sparsity=closed,
        batch=st.sampled_from([0, 1, 2, 3, 7, 40, 300]),
        bias=st.booleans(),
        double=st.booleans(),
    )
    def test_every_way_gives_what_the_definition_gives(self, grid, block, sparsity, batch, bias, double):
        dtype = torch.float64 if double else torch.float32
        sizes = grid[1] * block[1], grid[0] * block[0]
        layer = DynamicBlockSparseLinear(*sizes, block, sparsity, bias, dtype=dtype)
        inputs = torch.randn(batch, sizes[0], dtype=dtype)
        opened = max(1, round((1 - sparsity) * grid[0] * grid[1]))
        gates = gates_by_definition(values_of(layer.gate, inputs), opened)
        expected = outputs_by_definition(layer, inputs, gates) if batch else torch.empty(0, sizes[1]).double()
        tolerance = 1e-11 if double else 1e-5 * max(1.0, float(gates.max()) if batch else 1)
        trained = layer(inputs)
        torch.testing.assert_close(layer.gates(inputs).double(), gates, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(trained.double(), expected, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            for found in (layer(inputs), layer(inputs, gates=layer.gates(inputs))):
                assert found.dtype == dtype
                torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("chunk", [1, 100, 2**20])
    @pytest.mark.parametrize("bias", [True, False])
    def test_gradients_of_inputs_weights_and_gates(self, chunk, bias, monkeypatch):
        monkeypatch.setitem(dynamic_training.CHUNK, "cpu", chunk)
        layer = made(6, 8, (2, 3), bias=bias, gate_hidden=4, dtype=torch.float64)
        names = [name for name, _ in layer.named_parameters()]
        inputs = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)

        def called(inputs, *values):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (inputs,))

        assert torch.autograd.gradcheck(called, (inputs, *layer.parameters()))

    def test_closed_gates_have_gradients_of_their_own(self):
        """The product's derivative by a gate is what the block would add, open or not."""
        layer = made(dtype=torch.float64)
        inputs, gates = torch.randn(4, 20, dtype=torch.float64), torch.rand(4, 16, dtype=torch.float64)
        gates[:, ::2] = 0
        products.gated_linear(inputs, layer.weight, gates.requires_grad_()).sum().backward()
        for block in (0, 1):
            i, j = layer.block_row[block], layer.block_col[block]
            part = inputs[:, 5 * j : 5 * j + 5] @ layer.weight[block].T
            assert i == 0
            torch.testing.assert_close(gates.grad[:, block], part.sum(-1).detach())

    def test_any_number_of_axes_and_any_strides(self, way):
        layer = made(sparsity=0.8)
        inputs = torch.randn(3, 2, 40)[..., ::2]
        with torch.no_grad():
            expected = torch.stack([layer(one.contiguous()) for one in inputs])
            torch.testing.assert_close(layer(inputs), expected)
            torch.testing.assert_close(layer(inputs[0, 0]), expected[0, 0])
            torch.testing.assert_close(layer(inputs.mT.contiguous().mT), expected)
            assert layer(inputs[:0]).shape == (0, 2, 36)
        torch.testing.assert_close(layer(inputs).detach(), expected)
        layer(inputs).sum().backward()  # a gradient with strides of 0
        torch.testing.assert_close(layer.bias.grad, torch.full((36,), 6.0))

    @pytest.mark.usefixtures("way")
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("batch", [1, 40])
    def test_half_precision(self, dtype, batch):
        layer = made(128, 256, 32, sparsity=0.7, dtype=dtype)
        inputs = torch.randn(batch, 128, dtype=dtype)
        expected = outputs_by_definition(layer, inputs, layer.gates(inputs))
        with torch.no_grad():
            skipped = layer(inputs)
        for found in (layer(inputs), skipped):
            assert found.dtype == dtype
            assert (found.double() - expected).abs().max() < 8 * torch.finfo(dtype).eps * expected.abs().max()

    @pytest.mark.parametrize("batch", [1, 40])
    def test_autocast_multiplies_in_its_type_and_trains_in_float32(self, batch):
        layer = made(128, 256, 32, sparsity=0.7)
        inputs = torch.randn(batch, 128)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = layer(inputs)
            gates = layer.gates(inputs)
            with torch.no_grad():
                skipped = layer(inputs)
        assert outputs.dtype == skipped.dtype == torch.bfloat16
        expected = outputs_by_definition(layer, inputs, gates)
        for found in (outputs, skipped):
            assert (found.double() - expected).abs().max() < 0.03 * expected.abs().max()
        outputs.sum().backward()
        assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())

    @pytest.mark.usefixtures("way")
    def test_an_input_that_is_no_number_gives_none(self):
        layer = made()
        inputs = torch.randn(2, 20)
        inputs[1, 3] = torch.nan
        with torch.no_grad():
            outputs = layer(inputs)
            assert layer(inputs[1:]).isnan().all()
        assert outputs[0].isfinite().all()
        assert outputs[1].isnan().all()

    def test_memory_of_a_step_is_less_than_twice_a_dense_layers(self):
        """Of what is held at once, by torch's own count of allocations."""

        def peak(layer):
            inputs = torch.randn(128, 1024, requires_grad=True)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
                layer(inputs).sum().backward()
            held = np.cumsum([event.nbytes() for event in found.profiler.kineto_results.events() if is_memory(event)])
            return held.max() + sum(parameter.nbytes for parameter in layer.parameters())

        def is_memory(event):
            return event.name() == "[memory]"

        assert peak(DynamicBlockSparseLinear(1024, 2048, 128)) <= 2 * peak(nn.Linear(1024, 2048))


class TestLayer:
    def test_gate_of_the_first_features_or_of_another_input(self):
        layer = made(gate_features=7, sparsity=0.75)
        inputs, others = torch.randn(5, 20), torch.randn(5, 30)
        values = nn.functional.linear(others[:, :7], layer.gate.linear.weight, layer.gate.linear.bias).detach()
        expected = outputs_by_definition(layer, inputs, gates_by_definition(values, 4))
        torch.testing.assert_close(layer(inputs, others).detach().double(), expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer(inputs, others).double(), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(layer(inputs[0], others[0]).double(), expected[0], rtol=1e-5, atol=1e-5)

    def test_a_shared_gate_is_one_gate(self):
        gate = RankGate(20, 16, sparsity=0.5)
        first, second = made(gate=gate), made(gate=gate)
        first.set_sparsity(0.75)
        assert second.sparsity == 0.75
        inputs = torch.randn(3, 20)
        gates = first.gates(inputs)
        torch.testing.assert_close(second(inputs, gates=gates), second(inputs))
        model = nn.Sequential(first, second)
        assert sum(parameter is gate.linear.weight for parameter in model.parameters()) == 1

    @pytest.mark.parametrize("sparsity", [0, 0.5, 0.97])
    def test_starts_as_a_dense_layer_of_its_size(self, sparsity):
        layer = made(256, 512, 64, sparsity=sparsity)
        assert abs(layer.weight.var().item() * 3 * 256 - 1) < 0.02
        assert layer.bias.abs().max() <= 256**-0.5

    def test_from_linear_and_back(self):
        dense = nn.Linear(20, 36)
        layer = DynamicBlockSparseLinear.from_linear(dense, (9, 5), sparsity=0.5)
        back = layer.to_dense()
        assert torch.equal(back.weight, dense.weight)
        assert torch.equal(back.bias, dense.bias)
        ones = torch.ones(3, 16)
        inputs = torch.randn(3, 20)
        torch.testing.assert_close(layer(inputs, gates=ones), dense(inputs))
        assert DynamicBlockSparseLinear.from_linear(nn.Linear(4, 4, bias=False), 2).bias is None

    def test_effective_weight_is_the_matrix_of_an_input(self):
        layer = made(bias=False)
        inputs = torch.randn(20)
        torch.testing.assert_close(layer.effective_weight(inputs) @ inputs, layer(inputs), rtol=1e-4, atol=1e-5)

    def test_copies_and_files_hold_how_many_are_open(self):
        layer = made(sparsity=0.5)
        layer.set_sparsity(0.25)
        inputs = torch.randn(4, 20)
        twin = copy.deepcopy(layer)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = made(sparsity=0.9)
        other.load_state_dict(torch.load(file, weights_only=True))
        for again in (twin, other):
            assert again.gate.open_blocks.item() == 12
            torch.testing.assert_close(again(inputs), layer(inputs), rtol=0, atol=0)
        twin.set_sparsity(0.9)
        assert layer.sparsity == 0.25

    def test_the_recorder_sees_blocks_and_open_fractions(self):
        layer = made(sparsity=0.5)
        weight, _ = matrices(nn.ModuleDict({"ip1": layer}))
        assert weight.name == "ip1"
        assert weight.shape == (16, 9, 5)
        torch.testing.assert_close(weight.layout.view(layer.weight), layer.weight)
        assert weight.gates.isnan().all()
        inputs = torch.randn(10, 20)
        with counting_open(layer), torch.no_grad():
            layer(inputs)
            layer(inputs[:1])
        layer(inputs)  # not counted
        gates = torch.cat([layer.gates(inputs), layer.gates(inputs[:1])])
        torch.testing.assert_close(weight.gates, (gates != 0).float().mean(0).view(4, 4))
        assert weight.gates.mean().item() == pytest.approx(0.5)

    def test_open_gates_are_counted_in_compiled_layers_too(self):
        layer, inputs = made(sparsity=0.5), torch.randn(10, 20)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        with counting_open(layer), torch.no_grad():
            compiled(inputs)
        torch.testing.assert_close(layer.open_fraction, (layer.gates(inputs) != 0).float().mean(0).view(4, 4))

    def test_hooks_of_the_gate_are_called_without_gradients_too(self):
        layer, seen = made(), []
        layer.gate.register_forward_hook(lambda module, inputs, gates: seen.append(gates))
        with torch.no_grad():
            layer(torch.randn(1, 20))
        assert seen[0].shape == (1, 16)

    def test_a_gradient_step_changes_all_parameters(self):
        layer = made(gate_hidden=8)
        before = copy.deepcopy(list(layer.parameters()))
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        layer(torch.randn(64, 20)).square().mean().backward()
        optimizer.step()
        assert not any(torch.equal(*pair) for pair in zip(before, layer.parameters(), strict=True))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"block": 3}, "blocks must divide the layer: 3 does not divide in_features = 8"),
            ({"block": (3, 4)}, "blocks must divide the layer: 3 does not divide out_features = 8"),
            ({"block": 0}, "the block's side must be at least 1"),
            ({"sparsity": 1}, r"must lie in \[0, 1\), got 1"),
            ({"sparsity": -0.1}, r"must lie in \[0, 1\), got -0.1"),
            ({"sparsity": float("nan")}, r"must lie in \[0, 1\), got nan"),
            ({"gate_features": 9}, "gate_features must lie between 1 and in_features = 8, got 9"),
            ({"gate_features": 0}, "gate_features must lie between 1"),
            ({"gate_hidden": 0}, "hidden layer needs at least 1 unit"),
            ({"gate": "sigmoid"}, "gate must be a Gate or one of 'relu', 'softmax', got 'sigmoid'"),
            ({"gate": RankGate(8, 5)}, "the layer has 4 blocks, but its gate is for 5"),
            ({"gate": RankGate(8, 4), "gate_hidden": 3}, "are for a new gate"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            DynamicBlockSparseLinear(8, 8, **{"block": 4, **options})

    def test_bad_inputs(self):
        layer = made()
        with pytest.raises(ValueError, match=r"the input's last axis must be 20, got \(3, 19\)"):
            layer(torch.randn(3, 19))
        with pytest.raises(ValueError, match=r"the gate needs 20 features, got an input of \(3, 4\)"):
            layer(torch.randn(3, 20), torch.randn(3, 4))
        with pytest.raises(ValueError, match=r"gates must be \(3, 16\) for this input, got \(16,\)"):
            layer(torch.randn(3, 20), gates=torch.ones(16))
        with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
            DynamicBlockSparseLinear(4, 4, 2.0)
        diverged = nn.Linear(4, 4)
        nn.init.constant_(diverged.weight, torch.nan)
        with pytest.raises(ValueError, match="NaN or infinity"):
            DynamicBlockSparseLinear.from_linear(diverged, 2)


class TestSoftmaxGate:
    def test_training_is_equation_2(self):
        torch.manual_seed(0)
        gate = SoftmaxGate(6, 8, sparsity=0.5, temperature=0.7, dtype=torch.float64)
        inputs = torch.randn(3, 6, dtype=torch.float64)
        expected = torch.zeros(3, 8, dtype=torch.float64)
        for head in range(4):
            network = gate.linear.weight[8 * head : 8 * head + 8], gate.linear.bias[8 * head : 8 * head + 8]
            expected += 1 / (1 - 0.5) * torch.softmax(nn.functional.linear(inputs, *network) / 0.7, -1)
        torch.testing.assert_close(gate(inputs), expected)
        assert torch.autograd.gradcheck(gate, inputs.requires_grad_())

    def test_evaluation_is_what_training_tends_to_as_it_cools(self):
        torch.manual_seed(0)
        gate = SoftmaxGate(6, 8, sparsity=0.5)
        inputs = torch.randn(50, 6)
        set_temperature(nn.Sequential(gate), 1e-6)
        cold = gate(inputs)
        hard = gate.eval()(inputs)
        torch.testing.assert_close(cold, hard)
        assert ((hard != 0).sum(-1) <= 4).all()
        torch.testing.assert_close(hard.mean(-1), torch.ones(50))

    def test_a_layer_with_it_trains_and_skips(self):
        layer = made(gate="softmax", sparsity=0.75)
        inputs = torch.randn(5, 20)
        layer(inputs).square().sum().backward()
        assert layer.gate.linear.weight.grad.abs().sum() > 0
        layer.eval()
        with torch.no_grad():
            skipped = layer(inputs)
        torch.testing.assert_close(skipped, layer(inputs).detach(), rtol=1e-5, atol=1e-5)
        expected = outputs_by_definition(layer, inputs, layer.gates(inputs))
        torch.testing.assert_close(skipped.double(), expected, rtol=1e-4, atol=1e-5)

    def test_fewer_heads_as_the_sparsity_rises_but_not_more(self):
        gate = SoftmaxGate(6, 8, sparsity=0.5)
        gate.set_sparsity(0.75)
        torch.testing.assert_close(gate(torch.randn(9, 6)).mean(-1), torch.ones(9))
        assert (gate.eval()(torch.randn(50, 6)) != 0).sum(-1).max() <= 2
        with pytest.raises(ValueError, match=r"heads for a sparsity of 0.5 or more, got 0.25"):
            gate.set_sparsity(0.25)

    @pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan")])
    def test_bad_temperatures(self, temperature):
        with pytest.raises(ValueError, match="temperature must be finite and greater than 0"):
            SoftmaxGate(4, 4, temperature=temperature)
        with pytest.raises(ValueError, match="temperature must be finite and greater than 0"):
            SoftmaxGate(4, 4).set_temperature(temperature)


class TestSchedule:
    @given(begin=st.integers(0, 20), length=st.integers(0, 60), final=closed)
    def test_neither_overshoots_nor_falls_back_and_ends_where_it_should(self, begin, length, final):
        gate = RankGate(2, 40, sparsity=0)
        schedule = linear(begin, begin + length, final=final)
        opened = []
        for step in range(begin + length + 5):
            set_sparsity(gate, schedule(step))
            opened.append(gate.open_blocks.item())
        assert opened[: begin + 1] == [40] * (begin + 1) or length == 0
        assert opened == sorted(opened, reverse=True)
        assert opened[-1] == max(1, round((1 - final) * 40))
        if length:
            assert max(np.abs(np.diff(opened))) <= final * 40 / length + 1

    def test_models_without_gates(self):
        with pytest.raises(ValueError, match="the model has no gates"):
            set_sparsity(nn.Linear(2, 2), 0.5)
        with pytest.raises(ValueError, match="no softmax gates"):
            set_temperature(RankGate(2, 2), 0.5)


class TestCompiled:
    def test_fifty_numbers_of_open_blocks_compile_nothing_anew(self):
        layer = made(40, 36, (9, 5), sparsity=0)  # 32 blocks
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
        inputs, one = torch.randn(6, 40), torch.randn(1, 40)
        with torch.no_grad():
            compiled(inputs), compiled(one)
        compiled(inputs).sum().backward()
        with torch.compiler.set_stance("fail_on_recompile"):
            for sparsity in np.linspace(0, 0.99, 50):
                layer.set_sparsity(sparsity)
                expected = layer(inputs)
                torch.testing.assert_close(compiled(inputs), expected, rtol=1e-5, atol=1e-5)
                with torch.no_grad():
                    torch.testing.assert_close(compiled(inputs), expected.detach(), rtol=1e-5, atol=1e-5)
                    torch.testing.assert_close(compiled(one), layer(one), rtol=1e-5, atol=1e-5)

    def test_gradients_are_those_of_the_plain_layer(self):
        layer = made(sparsity=0.6)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        inputs = torch.randn(6, 20)
        grads = []
        for module in (layer, compiled):
            layer.zero_grad()
            module(inputs).square().sum().backward()
            grads.append([parameter.grad.clone() for parameter in layer.parameters()])
        torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)

    def test_the_operators_are_what_they_say(self):
        layer = made(8, 6, 2, dtype=torch.float64)
        inputs, gates = torch.randn(3, 8, dtype=torch.float64), torch.rand(3, 12, dtype=torch.float64)
        inputs.requires_grad_(), gates.requires_grad_()
        torch.library.opcheck(dynamic_training.product, (inputs, layer.weight, gates))
        plain = (each.detach() for each in (inputs, layer.weight, gates, layer.bias))
        torch.library.opcheck(products._skipping_operator, tuple(plain))
        torch.library.opcheck(products._choice_operator, (gates.detach(), torch.tensor(3)))
        gate = layer.gate.linear.weight.detach(), layer.gate.linear.bias.detach(), layer.gate.open_blocks
        given = inputs.detach(), inputs.detach(), *gate, layer.weight.detach(), layer.bias.detach()
        torch.library.opcheck(products._inference_operator, given)

    def test_exported_for_any_batch(self):
        layer = made().eval()
        batch = torch.export.Dim("batch", min=2)
        program = torch.export.export(layer, (torch.randn(4, 20),), dynamic_shapes=({0: batch},))
        inputs = torch.randn(9, 20)
        torch.testing.assert_close(program.module()(inputs), layer(inputs), rtol=1e-5, atol=1e-5)


class TestWithoutNumba:
    @pytest.fixture
    def missing(self, monkeypatch):
        """As on a machine where Numba cannot be imported."""
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.delitem(sys.modules, "rmtnet.layers.numba_kernels", raising=False)
        monkeypatch.delattr(sys.modules["rmtnet.layers"], "numba_kernels", raising=False)
        products._numba.cache_clear()
        yield
        products._numba.cache_clear()

    @pytest.mark.usefixtures("missing")
    def test_says_so_once_and_gives_the_same(self):
        layer = made(sparsity=0.75)
        inputs = torch.randn(5, 20)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            expected = layer(inputs).detach()
            with torch.no_grad():
                torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(layer(inputs[:1]), expected[:1], rtol=1e-5, atol=1e-5)
        assert [str(warning.message) for warning in told] == [
            "Numba cannot be loaded (import of numba halted; None in sys.modules): dynamic layers skip few blocks on a "
            "CPU. pip install 'rmtnet[cpu]'"
        ]

    def test_kernels_compile_where_nothing_can_be_written(self, monkeypatch):
        kernels = pytest.importorskip("rmtnet.layers.numba_kernels")
        njit = kernels.njit

        def refused(function, **options):
            if options.get("cache"):
                raise RuntimeError("cannot cache function: no locator available")
            return njit(function, **options)

        monkeypatch.setattr(kernels, "njit", refused)
        assert kernels.compiled(lambda value: 2 * value)(4) == 8
