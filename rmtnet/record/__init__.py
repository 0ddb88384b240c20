"""Recording: what a layer holds while any loop trains it."""

from rmtnet.record.link import WriterFailed
from rmtnet.record.recorder import Recorder

__all__ = ["Recorder", "WriterFailed"]
