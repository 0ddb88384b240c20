import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from rmtnet.layers import BlockDiagonalLinear
from rmtnet.matrices import described, matrices, select
from rmtnet.record.sources import Source


def now(matrix):
    """(block, out, in) as it is recorded."""
    return torch.as_tensor(Source(matrix, own_steps=False).weights()).numpy()


def named(model):
    return {matrix.name: matrix for matrix in matrices(model)}


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.norm = nn.LayerNorm(6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True)
        self.decoder = nn.Linear(6, 7)
        self.decoder.weight = self.embedding.weight
        self.ip1 = BlockDiagonalLinear(6, 4, 2)
        self.ips = nn.ParameterList([nn.Parameter(torch.ones(2, 3))])


def test_names_are_those_of_torch_without_weight_each_tied_weight_once():
    names = list(named(Mix()))
    packed = [f"lstm.weight_{kind}_l{k}{way}" for k in (0, 1) for way in ("", "_reverse") for kind in ("ih", "hh")]
    gates = [f"{name}.{gate}" for name in packed for gate in "ifgo"]
    assert names == ["embedding", *gates, "ip1", "ips.0"]


def test_a_tied_weight_is_found_by_either_name_and_says_so():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    [matrix] = select(model, ["1"])
    assert matrix.name == "0"
    assert described(matrix)["tied_to"] == "1"
    assert [matrix.name for matrix in select(model, ["1*", "0"])] == ["0"]


def test_a_parametrised_layer_is_its_effective_weight():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), layer)
    assert [matrix.name for matrix in matrices(model)] == ["0", "1"]
    assert_array_equal(now(matrices(model)[1])[0], layer.weight.detach())
    assert described(matrices(model)[1])["torch_name"] == "1.weight"


def test_names_are_free_of_what_wraps_the_model():
    model = nn.Sequential(nn.Linear(4, 3))
    assert [matrix.name for matrix in matrices(nn.DataParallel(model))] == ["0"]


def test_a_root_module_has_its_attribute_for_a_name():
    assert list(named(nn.Linear(3, 2))) == ["weight"]


@pytest.mark.parametrize(
    "kind, gates", [(nn.LSTM, "ifgo"), (nn.GRU, "rzn"), (nn.LSTMCell, "ifgo"), (nn.GRUCell, "rzn")]
)
def test_gates_are_cut_in_the_order_torch_documents(kind, gates):
    class Own(kind):
        """A subclass packs its gates as its parent does."""

    model = Own(3, 5)
    for attribute, width in [("weight_ih", 3), ("weight_hh", 5)]:
        attribute += "" if "Cell" in kind.__name__ else "_l0"
        packed = getattr(model, attribute)
        assert packed.shape == (len(gates) * 5, width)
        for k, gate in enumerate(gates):
            matrix = named(model)[f"{attribute}.{gate}"]
            assert_array_equal(now(matrix), packed.detach()[None, 5 * k : 5 * (k + 1)])
            assert (matrix.layout.form, matrix.layout.out_features, matrix.layout.in_features) == ("dense", 5, width)


def test_the_input_gate_of_an_lstm_is_the_one_that_closes_the_input():
    torch.manual_seed(0)
    cell = nn.LSTMCell(4, 3, bias=False)
    x, h, c = torch.randn(1, 4), torch.randn(1, 3), torch.randn(1, 3)
    ih = {gate: torch.from_numpy(now(named(cell)[f"weight_ih.{gate}"])[0]) for gate in "ifgo"}
    hh = {gate: torch.from_numpy(now(named(cell)[f"weight_hh.{gate}"])[0]) for gate in "ifgo"}
    i, f, g, o = (x @ ih[gate].T + h @ hh[gate].T for gate in "ifgo")
    after = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    torch.testing.assert_close(cell(x, (h, c))[1], after)
    torch.testing.assert_close(cell(x, (h, c))[0], torch.sigmoid(o) * torch.tanh(after))


def test_the_projection_of_an_lstm_is_one_matrix():
    matrix = named(nn.LSTM(6, 5, proj_size=2))["weight_hr_l0"]
    assert now(matrix).shape == (1, 2, 5)


def test_attention_is_cut_into_query_key_and_value():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
    packed = model["attn"].in_proj_weight.detach()
    assert list(named(model)) == [*(f"attn.in_proj_weight.{part}" for part in "qkv"), "attn.out_proj"]
    for k, part in enumerate("qkv"):
        assert_array_equal(now(named(model)[f"attn.in_proj_weight.{part}"])[0], packed[4 * k : 4 * k + 4])


def test_attention_with_other_widths_of_keys_keeps_torchs_names():
    names = list(named(nn.MultiheadAttention(4, 2, kdim=3, vdim=5)))
    assert names == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"]


def test_a_grouped_convolution_is_block_diagonal():
    layer = nn.Conv2d(6, 4, (3, 2), groups=2, bias=False)
    [matrix] = matrices(layer)
    assert (matrix.layout.form, matrix.layout.out_features, matrix.layout.in_features) == ("block_diagonal", 4, 6 * 6)
    assert matrix.layout.block_row == matrix.layout.block_col == (0, 1)
    # The layer on one patch is the block diagonal matrix.
    patch = torch.randn(6, 3, 2)
    dense = torch.block_diag(*torch.from_numpy(now(matrix)))
    torch.testing.assert_close(dense @ patch.flatten(), layer(patch[None]).flatten())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_the_matrix_of_the_convolution_it_transposes(groups):
    layer = nn.ConvTranspose2d(4, 6, (3, 2), groups=groups, bias=False)
    [matrix] = matrices(layer)
    blocks = now(matrix)
    assert blocks.shape == (groups, 6 // groups, 4 // groups * 6)
    assert matrix.layout.form == ("dense" if groups == 1 else "block_diagonal")
    # One input pixel becomes a kernel for each output channel.
    pixel = torch.randn(4)
    image = layer(pixel[None, :, None, None])[0]
    kernels = torch.block_diag(*torch.from_numpy(blocks)).reshape(6, 4, 6)
    torch.testing.assert_close(torch.einsum("oik,i->ok", kernels, pixel), image.flatten(1))


def test_a_block_diagonal_layer_keeps_its_blocks():
    layer = BlockDiagonalLinear(6, 4, 2)
    [matrix] = matrices(layer)
    assert (matrix.layout.form, matrix.layout.out_features, matrix.layout.in_features) == ("block_diagonal", 4, 6)
    assert_array_equal(now(matrix), layer.weight.detach())


def test_blocks_elsewhere_are_block_sparse():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3, 4))
            self.block_row, self.block_col = torch.tensor([0, 1]), torch.tensor([1, 1])
            self.in_features, self.out_features = 8, 6

    [matrix] = matrices(Sparse())
    assert (matrix.layout.form, matrix.layout.block_row, matrix.layout.block_col) == ("block_sparse", (0, 1), (1, 1))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(5, 6, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 4))


def test_a_stack_of_matrices_is_block_diagonal_and_a_stacked_vector_none():
    [matrix] = matrices(Experts())
    assert (matrix.name, matrix.layout.form, matrix.layout.block_col) == ("up", "block_diagonal", (0, 1, 2, 3, 4))
    assert (matrix.layout.out_features, matrix.layout.in_features) == (30, 20)
    assert_array_equal(now(matrix), matrix.tensor.detach())


def test_a_bilinear_layer_is_a_form_for_each_output():
    layer = nn.Bilinear(3, 4, 2, bias=False)
    [matrix] = matrices(layer)
    assert (matrix.layout.form, matrix.layout.block_row, matrix.layout.block_col) == ("block_sparse", (0, 1), (0, 0))
    left, right = torch.randn(7, 3), torch.randn(7, 4)
    forms = torch.from_numpy(now(matrix))
    assert torch.allclose(layer(left, right), torch.einsum("ni,kij,nj->nk", left, forms, right), atol=1e-6)
    dense = forms.reshape(6, 4)  # its blocks at their places
    assert dense.shape == (matrix.layout.out_features, matrix.layout.in_features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_precision_is_kept_and_16_bit_types_become_float32_exactly(dtype):
    layer = nn.Linear(50, 40).to(dtype)
    [matrix] = matrices(layer)
    snapshot = now(matrix)
    assert snapshot.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert_array_equal(snapshot[0].astype(np.float64), layer.weight.detach().double())
    assert described(matrix) == {
        "torch_name": "weight", "module_type": "Linear", "original_shape": "40x50",
        "dtype_original": str(dtype).removeprefix("torch."), "tied_to": "",
    }  # fmt: skip


def test_a_linear_layer_that_stores_its_inputs_first_is_turned():
    class Conv1D(nn.Module):  # as transformers.Conv1D of GPT-2 is
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5))

    [matrix] = matrices(Conv1D())
    assert (matrix.layout.out_features, matrix.layout.in_features) == (5, 3)
    assert_array_equal(now(matrix)[0], matrix.tensor.detach().T)


@pytest.mark.parametrize("way", ["function", "method"])
def test_a_compiled_model_has_the_names_of_the_model(way):
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2)))
    if way == "method":
        model.compile(backend="eager")
        compiled = model
    else:
        model[1] = torch.compile(model[1], backend="eager")
        compiled = torch.compile(model, backend="eager")
    assert list(named(compiled)) == ["0", "1.0"]
    assert [matrix.torch_name for matrix in matrices(compiled)] == ["0.weight", "1.0.weight"]
    assert compiled(torch.ones(1, 3)).shape == (1, 2)


def test_names_and_globs_select_in_the_order_of_the_model():
    def chosen(layers):
        return [matrix.name for matrix in select(Mix(), layers)]

    assert chosen(["ip1", "embedding"]) == ["embedding", "ip1"]
    assert chosen(["ip1.weight"]) == chosen("ip1") == ["ip1"]
    assert chosen(["*_hh_l0.i"]) == ["lstm.weight_hh_l0.i"]
    assert chosen(["ip?", "ip1"]) == ["ip1"]
    assert len(chosen(None)) == 35


def test_a_name_that_matches_nothing_lists_the_names_there_are():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no layer matches 'ip1'; this model has 0, 1"):
        select(model, ["0", "ip1"])
    with pytest.raises(ValueError, match="BatchNorm1d has no weight matrix to record"):
        select(nn.BatchNorm1d(3), None)


def test_a_layer_without_shape_yet_is_named():
    with pytest.raises(ValueError, match=r"^0\.weight has no shape yet: run the model once"):
        select(nn.Sequential(nn.LazyLinear(3)), None)


def test_selecting_no_layer_at_all_is_refused():
    with pytest.raises(ValueError, match="layers names no layer; leave it out to record all"):
        select(nn.Linear(3, 2), [])
