"""The Triton programs of gated blocks. Loaded at the first launch, never before: they need Triton.

The grid of blocks is ``rows`` x ``cols``, and block (i, j) is number ``i * cols + j`` of the weight and of the gates.
With OVERLAP a program starts while the one before still runs, and waits for its results (Hopper and newer).
"""

# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def choose(
    scores, open_blocks, kept, sums, number,
    LEAST: tl.constexpr, OVERLAP: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The scores of a tile that are among the largest of their input, the others as 0; and their sum.

    How many scores come before one is counted: that leaves nothing to wait for, which a search would at every step.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    own = tl.program_id(1) * TILE + tl.arange(0, TILE)
    first = tl.program_id(0).to(tl.int64) * number
    score = tl.load(scores + first + own, mask=own < number, other=0.0).to(tl.float32)
    score = tl.where(score < LEAST, LEAST, score)
    rank = tl.zeros((TILE,), dtype=tl.int32)
    for start in range(0, number, CHUNK):
        place = start + tl.arange(0, CHUNK)
        other = tl.load(scores + first + place, mask=place < number, other=0.0).to(tl.float32)
        other = tl.where(other < LEAST, LEAST, other)
        equal = (other[None, :] == score[:, None]) & (place[None, :] < own[:, None])
        rank += tl.sum(((other[None, :] > score[:, None]) | equal).to(tl.int32), 1)
    is_open = (own < number) & (rank < tl.load(open_blocks).to(tl.int32))
    score = tl.where(is_open, score, 0.0)
    tl.store(kept + first + own, score, mask=own < number)
    tl.store(sums + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(score, 0))


@triton.jit
def open_matvec(
    x, weight, bias, gates, sums, normed, y, cols, tiles, x_row, x_col, w_block, w_out, w_in, features,
    OUT: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr, SUMS: tl.constexpr, OVERLAP: tl.constexpr,
    TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """A few outputs of one input: the sum over the open blocks of their row, AT_ONCE slices of them at a time.

    Many loads of one step keep the memory busy: there is no next step to load for where few blocks are open. Gates that
    come with sums are divided by their mean, and stored.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    parts: tl.constexpr = (OUT + TILE_OUT - 1) // TILE_OUT
    slices: tl.constexpr = (WIDTH + TILE_IN - 1) // TILE_IN
    row = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    out = part * TILE_OUT + tl.arange(0, TILE_OUT)
    in_out = (out < OUT)[None, :, None]
    batch = tl.program_id(1).to(tl.int64)
    blocks = features // OUT * cols
    number = cols
    if gates is not None:
        col = tl.arange(0, PLACES)
        gates_at = batch * blocks + row * cols + col
        gate = tl.load(gates + gates_at, mask=col < cols, other=0.0).to(tl.float32)
        is_open = (gate != 0).to(tl.int32)
        number = tl.sum(is_open, 0)
        place = tl.where(is_open > 0, tl.cumsum(is_open, 0) - 1, -1)
    total = tl.zeros((AT_ONCE, TILE_OUT, TILE_IN), dtype=tl.float32)
    for step in range(0, number * slices, AT_ONCE):
        slice_of = step + tl.arange(0, AT_ONCE)
        source = slice_of // slices
        width = (slice_of % slices * TILE_IN)[:, None] + tl.arange(0, TILE_IN)[None, :]
        inside = (source < number)[:, None] & (width < WIDTH)
        if gates is not None:
            found = place[None, :] == source[:, None]
            source = tl.sum(tl.where(found, col[None, :], 0), 1)
            factor = tl.sum(tl.where(found, gate[None, :], 0.0), 1)
        x_at = x + batch * x_row + (source[:, None] * WIDTH + width) * x_col
        value = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
        if gates is not None:
            value *= factor[:, None]
        block_at = weight + (row * cols + source).to(tl.int64)[:, None, None] * w_block
        w_at = block_at + (out * w_out)[None, :, None] + (width * w_in)[:, None, :]
        total += tl.load(w_at, mask=inside[:, None, :] & in_out, other=0.0).to(tl.float32) * value[:, None, :]
    result = tl.sum(tl.sum(total, 2), 0)
    if sums is not None:
        tile = tl.arange(0, SUMS)
        mean = tl.sum(tl.load(sums + batch * tiles + tile, mask=tile < tiles, other=0.0), 0) / blocks
        result /= mean
        if part == 0:
            tl.store(normed + gates_at, gate / mean, mask=col < cols)
    at = row * OUT + out
    if bias is not None:
        result += tl.load(bias + at, mask=out < OUT, other=0.0).to(tl.float32)
    tl.store(y + batch * features + at, result.to(y.dtype.element_ty), mask=out < OUT)


@triton.jit
def gated_tiles(
    x, weight, bias, gates, y, batch, rows, cols, x_row, x_col, w_block, w_out, w_in,
    OUT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
):  # fmt: skip
    """A tile of y: the sum over a row of blocks of x's slice, times its gates, times the block."""
    parts: tl.constexpr = (OUT + TILE_OUT - 1) // TILE_OUT
    steps: tl.constexpr = (WIDTH + TILE_IN - 1) // TILE_IN
    group = tl.program_id(0) // parts
    out = tl.program_id(0) % parts * TILE_OUT + tl.arange(0, TILE_OUT)
    in_out = out < OUT
    row = tl.program_id(1) * TILE_BATCH + tl.arange(0, TILE_BATCH)
    in_batch = row < batch
    row = row.to(tl.int64)
    total = tl.zeros((TILE_BATCH, TILE_OUT), dtype=tl.float32)
    for step in range(0, cols * steps):
        source = step // steps
        block = group * cols + source
        width = step % steps * TILE_IN + tl.arange(0, TILE_IN)
        in_block = width < WIDTH
        gate = tl.load(gates + row * (rows * cols) + block, mask=in_batch, other=0.0)
        x_at = x + (row * x_row)[:, None] + ((source * WIDTH + width) * x_col)[None, :]
        value = tl.load(x_at, mask=in_batch[:, None] & in_block[None, :], other=0.0)
        w_at = weight + block.to(tl.int64) * w_block + (width * w_in)[:, None] + (out * w_out)[None, :]
        matrix = tl.load(w_at, mask=in_block[:, None] & in_out[None, :], other=0.0)
        total = tl.dot((value * gate[:, None]).to(matrix.dtype), matrix, total, input_precision=PRECISION)
    place = group * OUT + out
    if bias is not None:
        total += tl.load(bias + place, mask=in_out, other=0.0).to(tl.float32)[None, :]
    y_at = y + (row * rows * OUT)[:, None] + place[None, :]
    tl.store(y_at, total.to(y.dtype.element_ty), mask=in_batch[:, None] & in_out[None, :])


@triton.jit
def gated_input_gradient(
    grad, x, weight, gates, x_grad, gates_grad, batch, rows, cols,
    g_row, g_col, x_row, x_col, w_block, w_out, w_in,
    OUT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
):  # fmt: skip
    """A tile of x's gradient, and of all gates of its column what the tile's features add to their gradients.

    Both want the same product, of grad's slice and the block: one sums it times the gate, the other times x.
    """
    parts: tl.constexpr = (WIDTH + TILE_IN - 1) // TILE_IN
    source = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    width = part * TILE_IN + tl.arange(0, TILE_IN)
    in_block = width < WIDTH
    row = tl.program_id(1) * TILE_BATCH + tl.arange(0, TILE_BATCH)
    in_batch = row < batch
    row = row.to(tl.int64)
    both = in_batch[:, None] & in_block[None, :]
    place = source * WIDTH + width
    value = tl.load(x + (row * x_row)[:, None] + (place * x_col)[None, :], mask=both, other=0.0).to(tl.float32)
    total = tl.zeros((TILE_BATCH, TILE_IN), dtype=tl.float32)
    for group in range(0, rows):
        block = group * cols + source
        product = tl.zeros((TILE_BATCH, TILE_IN), dtype=tl.float32)
        for start in range(0, OUT, TILE_OUT):
            out = start + tl.arange(0, TILE_OUT)
            in_out = out < OUT
            g_at = grad + (row * g_row)[:, None] + ((group * OUT + out) * g_col)[None, :]
            left = tl.load(g_at, mask=in_batch[:, None] & in_out[None, :], other=0.0)
            w_at = weight + block.to(tl.int64) * w_block + (out * w_out)[:, None] + (width * w_in)[None, :]
            right = tl.load(w_at, mask=in_out[:, None] & in_block[None, :], other=0.0)
            product = tl.dot(left, right, product, input_precision=PRECISION)
        at = row * (rows * cols) + block
        gate = tl.load(gates + at, mask=in_batch, other=0.0).to(tl.float32)
        total += product * gate[:, None]
        shift = part.to(tl.int64) * batch * (rows * cols)
        own = tl.sum(product * value, 1)
        tl.store(gates_grad + shift + at, own.to(gates_grad.dtype.element_ty), mask=in_batch)
    x_at = x_grad + (row * cols * WIDTH)[:, None] + place[None, :]
    tl.store(x_at, total.to(x_grad.dtype.element_ty), mask=both)


@triton.jit
def gated_weight_gradient(
    grad, x, gates, weight_grad, batch, blocks, cols, g_row, g_col, x_row, x_col,
    OUT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    TILE_BATCH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
):  # fmt: skip
    """A tile of one block of the weight's gradient: the sum over the batch of grad's slice times x's and the gate."""
    parts: tl.constexpr = (WIDTH + TILE_IN - 1) // TILE_IN
    block = tl.program_id(0)
    out = tl.program_id(1) // parts * TILE_OUT + tl.arange(0, TILE_OUT)
    width = tl.program_id(1) % parts * TILE_IN + tl.arange(0, TILE_IN)
    in_out = (out < OUT)[:, None]
    in_width = (width < WIDTH)[None, :]
    g_at = grad + ((block // cols * OUT + out) * g_col)[:, None]
    x_at = x + ((block % cols * WIDTH + width) * x_col)[None, :]
    total = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    for start in range(0, batch, TILE_BATCH):
        row = start + tl.arange(0, TILE_BATCH)
        in_batch = row < batch
        row = row.to(tl.int64)
        left = tl.load(g_at + (row * g_row)[None, :], mask=in_batch[None, :] & in_out, other=0.0)
        right = tl.load(x_at + (row * x_row)[:, None], mask=in_batch[:, None] & in_width, other=0.0)
        gate = tl.load(gates + row * blocks + block, mask=in_batch, other=0.0)
        total = tl.dot(left, (right * gate[:, None]).to(left.dtype), total, input_precision=PRECISION)
    at = weight_grad + (block.to(tl.int64) * OUT + out[:, None]) * WIDTH + width[None, :]
    tl.store(at, total.to(weight_grad.dtype.element_ty), mask=in_out & in_width)
