"""Writing a file whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Put ``content`` at ``path`` by one rename; what was there stays if that fails.

    Raises
    ------
    OSError
        If it cannot be written (a full disk, a read-only folder); it names ``path``.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if partial.exists():
            partial.unlink()
