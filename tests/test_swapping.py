import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from rmtnet.layers.block_diagonal import BlockDiagonalLinear
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.layers.swapping import swap_linear

HALF = [[True, False], [False, True]]


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden = nn.Linear(32, 16)
        self.tags = nn.Linear(16, 6)

    def forward(self, words):
        return self.tags(torch.tanh(self.hidden(self.lstm(self.embedding(words))[0])))


class Mixer(nn.Module):
    """Mixes patches, then channels: its first pair of layers sees a transposed, non-contiguous input."""

    def __init__(self, patches=8, channels=12):
        super().__init__()
        self.cut = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)
        self.tokens = nn.Sequential(nn.Linear(patches, 16), nn.GELU(), nn.Linear(16, patches))
        self.channels = nn.Sequential(nn.Linear(channels, 24), nn.GELU(), nn.Linear(24, channels))
        self.head = nn.Linear(channels, 4)

    def forward(self, images):
        x = self.cut(images).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))


def encoder(layers=2):
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, layers)


MODELS = {
    "tagger": (Tagger, {"hidden": 4, "tags": HALF}, lambda batch: torch.arange(batch * 5).view(batch, 5) % 20),
    "mixer": (Mixer, {"tokens.*": 4, "channels.*": HALF, "head": 2}, lambda batch: torch.randn(batch, 3, 8, 16)),
    "encoder": (encoder, {"*.linear1": HALF, "*.linear2": 4}, lambda batch: torch.randn(batch, 7, 16)),
}
everywhere = pytest.mark.parametrize("name", MODELS)


def swapped(name):
    torch.manual_seed(0)
    make, layers, inputs = MODELS[name]
    model = make()
    masks = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in layers.items()}
    return model, swap_linear(model, masks), inputs


def with_dense(model):
    """A copy whose block layers are dense ones with zeros."""
    model = copy.deepcopy(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if hasattr(child, "to_dense"):
                setattr(parent, name, child.to_dense())
    return model


@everywhere
@pytest.mark.parametrize("batch", [1, 3])
def test_models_train_and_evaluate_as_with_masked_dense_layers(name, batch):
    model, layers, inputs = swapped(name)
    dense, x = with_dense(model), inputs(batch)
    for training in (True, False):
        model.train(training)
        dense.train(training)
        torch.testing.assert_close(model(x), dense(x))
        with torch.no_grad():
            torch.testing.assert_close(model(x), dense(x))
    model.train()(x).square().sum().backward()
    dense.train()(x).square().sum().backward()
    for path in layers:
        torch.testing.assert_close(
            model.get_submodule(path).bias.grad, dense.get_submodule(path).bias.grad, rtol=1e-4, atol=1e-5
        )


def test_an_encoder_takes_padded_batches_in_evaluation():
    model, _, inputs = swapped("encoder")
    dense, x = with_dense(model), inputs(3)
    padding = torch.arange(7)[None] >= torch.tensor([7, 5, 3])[:, None]
    with torch.no_grad():
        found = model.eval()(x, src_key_padding_mask=padding)
        expected = dense.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding])


@everywhere
def test_models_under_autocast_in_copies_and_from_files(name):
    model, _, inputs = swapped(name)
    x = inputs(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).float().sum().backward()
    expected = model.eval()(x)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = swapped(name)[0].eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(x), expected)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_in_other_precisions(name, dtype):
    model, _, inputs = swapped(name)
    x = inputs(2)
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    model(x).sum().backward()
    assert all(parameter.grad.dtype == dtype for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", ["mixer", "encoder"])
def test_models_are_exported_with_a_free_batch(name):
    model, _, inputs = swapped(name)
    model.eval()
    free = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (inputs(3),), dynamic_shapes=({0: free},))
    x = inputs(5)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixer", "encoder"])
def test_models_compile_without_a_break(name):
    model, _, inputs = swapped(name)
    x = inputs(2)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5)


def train_in_parallel(rank, address, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    model, _, _ = swapped("mixer")
    parallel = nn.parallel.DistributedDataParallel(model)
    x = torch.randn(4, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    queue.put([parameter.grad.numpy() for parameter in model.parameters()])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_block_layers(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=train_in_parallel, args=(rank, tmp_path / "meet", queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    model, _, _ = swapped("mixer")
    model(torch.randn(4, 3, 8, 16, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    for gradients in found:
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(torch.from_numpy(gradient), parameter.grad, rtol=1e-4, atol=1e-6)


def test_each_way_to_say_what_comes_in_the_place():
    model = nn.ModuleDict({name: nn.Linear(8, 4) for name in ("fc1", "fc2", "gate", "head")})
    new = swap_linear(model, {"fc*": 2, "gate": torch.tensor(HALF), "head": lambda linear: nn.Identity()})
    assert {name: type(layer) for name, layer in new.items()} == {
        "fc1": BlockDiagonalLinear,
        "fc2": BlockDiagonalLinear,
        "gate": BlockSparseLinear,
        "head": nn.Identity,
    }
    assert all(model[name] is layer for name, layer in new.items())


def test_a_glob_means_the_linear_layers_it_matches():
    model = Mixer()
    assert list(swap_linear(model, {"tokens*": 4})) == ["tokens.0", "tokens.2"]
    assert isinstance(model.head, nn.Linear)


def test_dtype_mode_and_what_is_trained_are_kept():
    model = nn.Sequential(nn.Linear(8, 4, dtype=torch.float64), nn.Linear(4, 4, bias=False))
    model[0].weight.requires_grad_(False)
    model[1].eval()
    swap_linear(model, {"0": 2, "1": torch.tensor(HALF)})
    assert (model[0].weight.dtype, model[1].weight.dtype) == (torch.float64, torch.float32)
    assert (model[0].training, model[1].training) == (True, False)
    assert (model[0].weight.requires_grad, model[0].bias.requires_grad) == (False, True)
    assert model[1].bias is None


def test_a_shared_layer_is_swapped_once_and_stays_shared():
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(swap_linear(model, {"2": 4})) == ["0"]
    assert model[0] is model[2]
    assert isinstance(model[0], BlockDiagonalLinear)


def tied():
    model = nn.ModuleDict({"words": nn.Embedding(10, 8), "out": nn.Linear(8, 10)})
    model["out"].weight = model["words"].weight
    return model


def hooked():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(print)
    return model


def masked():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_buffer("weight_mask", torch.ones(4, 4, dtype=torch.bool))
    return model


@pytest.mark.parametrize(
    ("model", "layers", "error", "message"),
    [
        (Mixer, {"fc*": 2}, ValueError, "no layer matches 'fc.'; the linear layers are tokens.0, tokens.2, channels"),
        (lambda: nn.Sequential(nn.ReLU()), {"0.x": 2}, ValueError, "the linear layers are none"),
        (Mixer, {"cut": 2}, TypeError, r"'cut' matches no nn.Linear but cut \(Conv2d\)"),
        (Mixer, {"h*": 2, "head": 4}, ValueError, r"head matches both 'h\*' and 'head'"),
        (Mixer, {"head": 5}, ValueError, "head: .*5"),
        (Mixer, {"head": torch.zeros(2, 2, dtype=torch.bool)}, ValueError, "head: mask keeps no block"),
        (Mixer, {"head": lambda linear: linear.weight}, TypeError, "made of head must be a module, got Parameter"),
        (tied, {"out": 2}, ValueError, "words.weight and out.weight are one parameter"),
        (hooked, {"0": 2}, ValueError, "0 has hooks, which would be lost"),
        (masked, {"0": 2}, ValueError, "0 is masked: rmtnet.pruning.pack"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), {"0": 2}, ValueError, "0 has no shape yet"),
        (encoder, {"*": 2}, ValueError, "layers.0.self_attn.out_proj is a NonDynamicallyQuantizableLinear"),
        (
            lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))),
            {"0": 2},
            ValueError,
            "0 makes its weight from other tensors",
        ),
        (
            lambda: nn.Sequential(prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)),
            {"0": 2},
            ValueError,
            "0 makes its weight from other tensors",
        ),
    ],
)
def test_what_cannot_be_swapped_is_one_clear_error_and_the_model_stays(model, layers, error, message):
    model = model()
    before = dict(model.named_modules())
    with pytest.raises(error, match=message):
        swap_linear(model, layers)
    assert dict(model.named_modules()) == before
