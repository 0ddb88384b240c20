import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from rmtnet.layers import kernels
from rmtnet.layers.kernels.launch import gradient_tiles, precision, product_tiles

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def python(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
def test_kernels_give_the_dense_product_under_the_interpreter():
    if numbers(version("triton")) < (3, 7) and numbers(version("numpy")) >= (2, 4):
        pytest.skip("the interpreter of Triton below 3.7 fails with numpy 2.4 and newer")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "interpreted_kernels.py")
    said = python(*command, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert re.search(r"\d+ passed", said) and "skipped" not in said


COMPILED = """
import re, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rmtnet.layers.kernels import programs

POINTERS = {"x", "weight", "bias", "y", "grad", "weight_grad", "bias_grad"}
NUMBERS = {"row_start": "*i32", "by_row": "*i32", "block_row": "*i32", "block_col": "*i32", "kept": "*i1"}

def assembled(name, kind, capability, constants):
    program = getattr(programs, name)
    signature = {
        each: "constexpr" if each in constants else f"*{kind}" if each in POINTERS else NUMBERS.get(each, "i32")
        for each in program.arg_names
    }
    # What the launcher finds out: pointers and sizes are multiples of 16.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, each in enumerate(program.arg_names) if signature[each] != "constexpr"
    }
    source = ASTSource(fn=program, signature=signature, constexprs=constants, attrs=aligned)
    return compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4, "num_stages": 3})

for name, kind, constants in eval(sys.argv[1]):
    for capability in (80, 90):
        made = assembled(name, kind, capability, constants)
        ptx = made.asm["ptx"]
        counts = (len(re.findall(what, ptx)) for what in (r"mma[.]", r"cp[.]async", r"[.]local"))
        print(name, capability, len(made.asm["cubin"]), made.metadata.shared, *counts)
"""
SMALL = {"OUT": 4, "WIDTH": 4, "TILE_BATCH": 16, "TILE": 128, "x_col": 1, "block_col": None}
TILED = {"OUT": 64, "WIDTH": 64, "TILE_BATCH": 64, "TILE_OUT": 64, "TILE_IN": 32, "x_col": 1, "PRECISION": "ieee"}
PROGRAMS = {
    "small_product": SMALL | {"RELU": True, "w_in": 1, "by_row": None},
    "small_gradient": SMALL | {"block_row": None, "g_col": 1},
    "tiled_product": TILED | {"RELU": True, "w_in": 1},
    "tiled_gradient": TILED | {"TILE_BATCH": 32, "TILE_IN": 64, "g_col": 1},
}
USUAL = [
    ("small_product", "fp32", {}),
    ("small_gradient", "bf16", {}),
    ("tiled_product", "fp32", {"PRECISION": "tf32x3"}),
    ("tiled_gradient", "bf16", {}),
]
OTHERS = [
    ("small_product", "bf16", {"OUT": 15, "WIDTH": 15}),
    ("small_gradient", "fp32", {"OUT": 15, "WIDTH": 15}),
    ("tiled_product", "bf16", {"TILE_BATCH": 128, "TILE_OUT": 128, "TILE_IN": 64}),
    ("tiled_product", "fp32", {"PRECISION": "tf32", "OUT": 50, "WIDTH": 80, "row_start": None, "kept": None}),
    ("tiled_gradient", "fp32", {"PRECISION": "tf32x3"}),
    ("tiled_gradient", "fp16", {"OUT": 50, "WIDTH": 80}),
]


@needs_triton
@pytest.mark.parametrize("cases", [USUAL, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["usual", "others"])
def test_programs_compile_for_ampere_and_hopper(tmp_path, cases):
    given = repr([(name, kind, PROGRAMS[name] | more) for name, kind, more in cases])
    options = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    lines = [line.split() for line in python("-c", COMPILED, given, **options).splitlines()]
    assert [line[:2] for line in lines] == [[name, each] for name, _, _ in cases for each in ("80", "90")]
    for name, *numbers_of in lines:
        _, binary, shared, matrix, asynchronous, local = map(int, numbers_of)
        assert binary > 1000
        # 99 KB is what a program has on the smallest GPUs of the generation.
        assert shared <= 99 * 1024
        assert local == 0
        assert (matrix > 0) == name.startswith("tiled")
        assert cases is OTHERS or (asynchronous > 0) == name.startswith("tiled")


def test_kernels_take_what_is_on_a_gpu():
    assert not kernels.available(torch.ones(1), torch.ones(1))


@needs_triton
def test_kernels_take_one_kind_of_tensor(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.available(torch.ones(1), torch.ones(1))
    assert not kernels.available(torch.ones(1), torch.ones(1).half())
    assert not kernels.available(torch.ones(1), torch.ones(1, device="meta"))
    assert not kernels.available(torch.ones(1).double())


def test_layers_load_no_triton():
    code = "import sys, rmtnet.layers; print(*(name for name in sys.modules if name.startswith('triton')))"
    assert python("-c", code).split() == []


def test_precision_follows_torch_s_setting():
    before = torch.get_float32_matmul_precision()
    try:
        found = {}
        for setting in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(setting)
            found[setting] = precision(torch.float32)
        assert found == {"highest": "tf32x3", "high": "tf32", "medium": "tf32"}
        assert precision(torch.bfloat16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("item_bytes", [2, 4])
@pytest.mark.parametrize("batch", [1, 100, 100_000])
@pytest.mark.parametrize("groups", [1, 32, 4096])
@pytest.mark.parametrize("out, width", [(1, 200), (16, 16), (50, 80), (1150, 400)])
def test_tiles_are_powers_of_two_that_hold_no_more_than_needed(item_bytes, batch, groups, out, width):
    for tiles in (f(batch, groups, out, width, item_bytes) for f in (product_tiles, gradient_tiles)):
        for tile, size in zip(tiles[:3], (batch, out, width), strict=True):
            assert tile.bit_count() == 1 and 16 <= tile <= max(16, 2 * size - 1)
        # Operands of the tiles in flight fit the shared memory of any GPU since Ampere.
        slices = {
            "product": tiles.width * (tiles.batch + tiles.out),
            "gradient": tiles.batch * (tiles.out + tiles.width),
        }
        assert min(slices.values()) * item_bytes * tiles.stages <= 99 * 1024
