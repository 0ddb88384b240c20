"""Products of block layers as Triton kernels, for shapes at which a library call is measurably worse on a GPU.

Both products add the bias and apply a ReLU in the same kernel, have gradients of any order, run under
``torch.compile`` without breaking the graph, and take float32, float16 and bfloat16, with sums in float32. Products
of float32 keep its precision unless ``torch.backends.cuda.matmul`` allows TF32.

Triton is imported at the first call: :func:`available` tells whether a call would work.
"""

from rmtnet.layers.kernels.index import BlockIndex, block_index
from rmtnet.layers.kernels.launch import available
from rmtnet.layers.kernels.products import block_diagonal, block_sparse

__all__ = ["BlockIndex", "available", "block_diagonal", "block_index", "block_sparse"]
