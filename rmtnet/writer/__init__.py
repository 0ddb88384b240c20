"""The process that writes a run: it takes rows out of the ring and puts them into the store.  It knows no torch.

The trainer asks for things over a connection (``(number, method, arguments)`` -> ``(number, failed, result)``) and puts
rows into the ring.  Whatever ends the trainer ends the connection: then what the ring holds is committed, and the
process ends too.
"""

from rmtnet.writer.layouts import METRICS, NOTES, PIECE, ROWS, Entry, Layout
from rmtnet.writer.serving import serve
from rmtnet.writer.work import Writer

__all__ = ["METRICS", "NOTES", "PIECE", "ROWS", "Entry", "Layout", "Writer", "serve"]
