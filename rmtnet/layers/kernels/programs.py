"""The Triton programs. Loaded at the first launch, never before: they need Triton.

An argument that is None is known when a program is compiled, and what asks for it costs nothing.
"""

# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def small_product(
    x, weight, bias, y, by_row, block_col, batch, features,
    x_row, x_col, w_block, w_out, w_in,
    OUT: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr, TILE_BATCH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A tile of y, one block to each of its slices, each output summed by itself: for blocks below 16."""
    row = tl.program_id(1) * TILE_BATCH + tl.arange(0, TILE_BATCH)
    col = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = col < features
    both = (row < batch)[:, None] & inside[None, :]
    row = row.to(tl.int64)
    block = col // OUT
    if by_row is not None:
        block = tl.load(by_row + block, mask=inside, other=0)
    source = block
    if block_col is not None:
        source = tl.load(block_col + block, mask=inside, other=0)
    x_at = x + row[:, None] * x_row + (source * WIDTH * x_col)[None, :]
    w_at = weight + block * w_block + (col % OUT) * w_out
    total = tl.zeros((TILE_BATCH, TILE), dtype=tl.float32)
    for i in tl.static_range(WIDTH):
        value = tl.load(x_at + i * x_col, mask=both, other=0.0).to(tl.float32)
        total += value * tl.load(w_at + i * w_in, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        total += tl.load(bias + col, mask=inside, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)
    tl.store(y + row[:, None] * features + col[None, :], total.to(y.dtype.element_ty), mask=both)


@triton.jit
def small_gradient(
    grad, x, weight_grad, bias_grad, block_row, block_col, batch, elements, share,
    g_row, g_col, x_row, x_col,
    OUT: tl.constexpr, WIDTH: tl.constexpr, TILE_BATCH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A tile of the weight's gradient, each weight summed by itself over a share of the batch; and the bias's."""
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = place < elements
    block = place // (OUT * WIDTH)
    upper, lower = block, block
    if block_row is not None:
        upper = tl.load(block_row + block, mask=inside, other=0)
    if block_col is not None:
        lower = tl.load(block_col + block, mask=inside, other=0)
    out = upper * OUT + place // WIDTH % OUT
    g_at = grad + (out * g_col)[None, :]
    x_at = x + ((lower * WIDTH + place % WIDTH) * x_col)[None, :]
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, batch)
    total = tl.zeros((TILE_BATCH, TILE), dtype=tl.float32)
    column = tl.zeros((TILE_BATCH, TILE), dtype=tl.float32)
    for start in range(first, last, TILE_BATCH):
        row = start + tl.arange(0, TILE_BATCH)
        both = (row < last)[:, None] & inside[None, :]
        row = row.to(tl.int64)
        value = tl.load(g_at + row[:, None] * g_row, mask=both, other=0.0).to(tl.float32)
        total += value * tl.load(x_at + row[:, None] * x_row, mask=both, other=0.0).to(tl.float32)
        column += value
    shift = tl.program_id(1).to(tl.int64)
    kind = weight_grad.dtype.element_ty
    tl.store(weight_grad + shift * elements + place, tl.sum(total, 0).to(kind), mask=inside)
    first_of_row = inside & (place % WIDTH == 0)
    tl.store(bias_grad + shift * (elements // WIDTH) + out, tl.sum(column, 0).to(kind), mask=first_of_row)


@triton.jit
def tiled_product(
    x, weight, bias, y, row_start, by_row, block_col, kept, batch, features,
    x_row, x_col, w_block, w_out, w_in,
    OUT: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
):  # fmt: skip
    """A tile of one row of blocks of y: the sum over the row's blocks of x's slice times the block."""
    parts: tl.constexpr = (OUT + TILE_OUT - 1) // TILE_OUT
    steps: tl.constexpr = (WIDTH + TILE_IN - 1) // TILE_IN
    group = tl.program_id(0) // parts
    out = tl.program_id(0) % parts * TILE_OUT + tl.arange(0, TILE_OUT)
    in_out = out < OUT
    row = tl.program_id(1) * TILE_BATCH + tl.arange(0, TILE_BATCH)
    in_batch = (row < batch)[:, None]
    row = row.to(tl.int64)
    if row_start is not None:
        first = tl.load(row_start + group)
        last = tl.load(row_start + group + 1)
    else:
        first = group
        last = group + 1
    total = tl.zeros((TILE_BATCH, TILE_OUT), dtype=tl.float32)
    # One loop over the slices of all blocks, not two nested ones: loads of the next block start before this one's end.
    for step in range(first * steps, last * steps):
        block = step // steps
        if by_row is not None:
            block = tl.load(by_row + block)
        source = block
        if block_col is not None:
            source = tl.load(block_col + block)
        width = step % steps * TILE_IN + tl.arange(0, TILE_IN)
        limit = WIDTH
        if kept is not None:
            limit = tl.load(kept + block).to(tl.int32) * WIDTH
        in_block = width < limit
        x_at = x + row[:, None] * x_row + ((source * WIDTH + width) * x_col)[None, :]
        value = tl.load(x_at, mask=in_batch & in_block[None, :], other=0.0)
        w_at = weight + block.to(tl.int64) * w_block + (width * w_in)[:, None] + (out * w_out)[None, :]
        matrix = tl.load(w_at, mask=in_block[:, None] & in_out[None, :], other=0.0)
        total = tl.dot(value, matrix, total, input_precision=PRECISION)
    place = group * OUT + out
    if bias is not None:
        total += tl.load(bias + place, mask=in_out, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)
    y_at = y + row[:, None] * features + place[None, :]
    tl.store(y_at, total.to(y.dtype.element_ty), mask=in_batch & in_out[None, :])


@triton.jit
def tiled_gradient(
    grad, x, weight_grad, block_row, block_col, kept, batch,
    g_row, g_col, x_row, x_col,
    OUT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
):  # fmt: skip
    """A tile of one block of the weight's gradient: the sum over the batch of grad's slice times x's."""
    parts: tl.constexpr = (WIDTH + TILE_IN - 1) // TILE_IN
    block = tl.program_id(0)
    upper, lower = block, block
    if block_row is not None:
        upper = tl.load(block_row + block)
    if block_col is not None:
        lower = tl.load(block_col + block)
    out = tl.program_id(1) // parts * TILE_OUT + tl.arange(0, TILE_OUT)
    width = tl.program_id(1) % parts * TILE_IN + tl.arange(0, TILE_IN)
    in_out = (out < OUT)[:, None]
    in_width = (width < WIDTH)[None, :]
    g_at = grad + ((upper * OUT + out) * g_col)[:, None]
    x_at = x + ((lower * WIDTH + width) * x_col)[None, :]
    last = batch
    if kept is not None:
        last = tl.load(kept + block).to(tl.int32) * batch
    total = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    for start in range(0, last, TILE_BATCH):
        row = start + tl.arange(0, TILE_BATCH)
        in_batch = row < batch
        row = row.to(tl.int64)
        left = tl.load(g_at + (row * g_row)[None, :], mask=in_batch[None, :] & in_out, other=0.0)
        right = tl.load(x_at + (row * x_row)[:, None], mask=in_batch[:, None] & in_width, other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    at = weight_grad + (block.to(tl.int64) * OUT + out[:, None]) * WIDTH + width[None, :]
    tl.store(at, total.to(weight_grad.dtype.element_ty), mask=in_out & in_width)
