"""Results on disk: one self-describing Dataset, netCDF or zarr by the file's name."""

import io
import os
import shutil
import warnings
from pathlib import Path

import xarray as xr

from rmtnet.files import write_whole

_MARK = "rmtnet_results"
_SUFFIXES = (".nc", ".zarr")


def check_target(path: Path) -> None:
    """Refuse, before any work is done, a file that :func:`write` could not or should not write.

    Raises
    ------
    ValueError
        If the name ends in neither .nc nor .zarr, or something that holds no results is there.
    FileNotFoundError
        If its folder does not exist.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: results are written to a file ending in .nc or .zarr")
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write results into")
    if path.exists() and not _holds_results(path):
        raise ValueError(f"{path} exists and holds no results of rmtnet: not overwritten; choose another name")


def write(results: xr.Dataset, path: Path) -> None:
    """Write ``results``, replacing earlier ones, whole or not at all."""
    check_target(path)
    results = results.assign_attrs({_MARK: 1})
    if path.suffix == ".zarr":
        _write_zarr(results, path)
        return
    numbers = [name for name, values in results.items() if values.dtype.kind in "fi"]
    # Through memory: on a full disk the HDF5 library ends the whole process.
    buffer = io.BytesIO()
    results.to_netcdf(buffer, engine="h5netcdf", encoding={name: {"zlib": True, "complevel": 4} for name in numbers})
    write_whole(path, buffer.getbuffer())


def _write_zarr(results: xr.Dataset, path: Path) -> None:
    partial, old = (path.with_name(f".{path.name}.{state}") for state in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with warnings.catch_warnings():
            # zarr has no final specification of variable-length strings yet; our readers are zarr-python's.
            warnings.simplefilter("ignore")
            results.to_zarr(partial, mode="w", consolidated=True)
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


def read(path: Path) -> xr.Dataset:
    """Read a Dataset of results into memory.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing at ``path``, or no Dataset that can be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: write it with  rmtnet analyze RUN... -o {path}")
    try:
        with _open(path) as results:
            return results.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no Dataset: write it with  rmtnet analyze RUN... -o FILE.nc") from error


def _open(path: Path) -> xr.Dataset:
    if path.is_dir():
        return xr.open_zarr(path, consolidated=False, chunks=None)
    return xr.open_dataset(path, engine="h5netcdf")


def _holds_results(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path) as results:
                return _MARK in results.attrs
    except Exception:
        return False
