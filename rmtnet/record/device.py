"""Rows that come from a GPU: copied on a stream of their own, while the training goes on."""

from collections import deque
from typing import Any

import torch
from numpy.typing import NDArray

from rmtnet.ring import Bytes


class DeviceCopies:
    """Copies into memory that is shared with the writer, in flight.

    What is to be copied is first copied on the device, on the training's own stream: whatever the training then does to
    its tensors, the row is that of its step.  This takes as much of the device's memory as the rows in flight.

    Parameters
    ----------
    memory : all of the shared memory; it is pinned, without which copies would wait for one another
    """

    def __init__(self, memory: Bytes, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._events: deque[torch.cuda.Event] = deque()
        self._open = False
        self._address = memory.ctypes.data
        # Where this is refused the copies are right, and slow.
        self._pinned = int(torch.cuda.cudart().cudaHostRegister(self._address, memory.nbytes, 0)) == 0

    def put(self, values: torch.Tensor, room: NDArray[Any]) -> None:
        """Begin to copy a tensor of the device into the ring."""
        if values.device != self._device:  # of a model on several: its stream is not ours
            torch.from_numpy(room).copy_(values.detach())
            return
        snapshot = values.detach().clone()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            torch.from_numpy(room).copy_(snapshot, non_blocking=True)
        # The device's memory is not used for something else before it is copied.
        snapshot.record_stream(self._stream)

    def close_row(self) -> None:
        """All of a row has been put."""
        event = torch.cuda.Event()
        event.record(self._stream)
        self._events.append(event)

    def arrived(self, *, wait: bool) -> int:
        """How many more rows have arrived, in their order.

        Parameters
        ----------
        wait : whether to wait for all that were put
        """
        count = 0
        while self._events and (wait or self._events[0].query()):
            self._events.popleft().synchronize()
            count += 1
        return count

    def release(self) -> None:
        """Unpin the memory."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._address)
            self._pinned = False
