"""Reading runs, beside bare xarray on the same files."""

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, TransposeCodec

from rmtnet import store

PACKED = {name: BloscCodec(cname=cname, clevel=1, shuffle=BloscShuffle.bitshuffle) for name, cname in
          {"lz4": "lz4", "delta": "zstd"}.items()}  # fmt: skip
CHUNKS = {"none": (4, 1, 500, 800), "lz4": (4, 1, 500, 800), "delta": (16, 1, 163, 800)}
"""As the recorder cuts them, of 8 MB."""


def make_run(path: Path, layers: int, steps: int, chunk: tuple[int, ...], codec: str, shape: tuple[int, ...]) -> None:
    """Every layer on its way from random weights, straight on."""
    root = zarr.create_group(path, zarr_format=3, attributes={"rmtnet_schema": 1})
    weights = root.create_group("weights")
    weights.create_array("step", data=np.arange(steps), chunks=(8192,), dimension_names=("step",), compressors=None)
    rng = np.random.default_rng(0)
    start, change = rng.normal(size=shape), 1e-4 * rng.normal(size=shape)
    for k in range(layers):
        array = weights.create_array(
            f"l{k}", shape=(steps, *shape), chunks=chunk, dtype="f4", fill_value=np.nan,
            attributes={"form": "dense"}, dimension_names=("step", f"l{k}_block", f"l{k}_out", f"l{k}_in"),
            filters=TransposeCodec(order=(1, 2, 3, 0)) if codec == "delta" else None,
            compressors=(PACKED[codec], Crc32cCodec()) if codec in PACKED else None,
            config={"write_empty_chunks": True},
        )  # fmt: skip
        for first in range(0, steps, chunk[0]):
            rows = np.arange(first, min(first + chunk[0], steps))
            array[rows[0] : rows[-1] + 1] = start + change * rows[:, None, None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)


def bare(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, group="weights", chunks=None)


class OneLayer:
    """LeNet-5's ip1 over 1,000 steps, 1.6 GB."""

    param_names = ("codec",)
    params = (["none", "lz4", "delta"],)
    timeout = 300

    def setup_cache(self) -> str:
        folder = Path.cwd()  # asv's own, which it removes
        for codec in self.params[0]:
            make_run(folder / codec, 1, 1000, CHUNKS[codec], codec, (1, 500, 800))
        return str(folder)

    def setup(self, folder: str, codec: str) -> None:
        self.path = Path(folder, codec)

    def time_all_steps(self, folder: str, codec: str) -> None:
        store.load(store.open_run(self.path)["l0"], self.path, "layer 'l0'")

    def time_all_steps_bare(self, folder: str, codec: str) -> None:
        bare(self.path)["l0"].load()

    def time_one_step(self, folder: str, codec: str) -> None:
        store.open_run(self.path)["l0"].sel(step=501).load()

    def time_one_step_bare(self, folder: str, codec: str) -> None:
        bare(self.path)["l0"].sel(step=501).load()


class ManyLayers:
    """Opening: 200 dense layers, or 100,000 steps of two."""

    param_names = ("layers, steps",)
    params = ([(200, 1000), (2, 100_000)],)
    timeout = 300

    def setup(self, size: tuple[int, int]) -> None:
        self.path = Path(tempfile.mkdtemp(), "run.zarr")
        make_run(self.path, *size, (1024, 1, 8, 8), "none", (1, 8, 8))

    def teardown(self, size: tuple[int, int]) -> None:
        shutil.rmtree(self.path.parent)

    def time_open(self, size: tuple[int, int]) -> None:
        len(store.open_run(self.path).steps)

    def time_open_bare(self, size: tuple[int, int]) -> None:
        len(bare(self.path)["step"])

    def time_every_layer(self, size: tuple[int, int]) -> None:
        list(store.open_run(self.path).values())

    def time_every_layer_bare(self, size: tuple[int, int]) -> None:
        list(bare(self.path).data_vars.values())

    def time_one_step_of_all(self, size: tuple[int, int]) -> None:
        for layer in store.open_run(self.path).values():
            layer.sel(step=501).load()

    def time_one_step_of_all_bare(self, size: tuple[int, int]) -> None:
        for layer in bare(self.path).data_vars.values():
            layer.sel(step=501).load()
