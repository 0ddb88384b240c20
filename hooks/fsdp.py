"""Record a sharded model (FSDP2): every process makes the recorder and hands its shards over, rank 0 writes.

torchrun --nproc-per-node 2 hooks/fsdp.py [RUN.zarr]    or    python hooks/fsdp.py [RUN.zarr]
"""

import os
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from rmtnet import Recorder
from rmtnet.schedules import every

path = sys.argv[1] if len(sys.argv) > 1 else "fsdp.zarr"
if "RANK" not in os.environ:  # started by hand: again, as two processes
    os.execv(
        sys.executable, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *sys.argv]
    )
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
mesh = init_device_mesh("cpu", (ranks,))
model = nn.Sequential(nn.Linear(20, 63), nn.ReLU(), nn.Linear(63, 1))
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)  # of the shards
inputs = torch.randn(512, 20)
targets = inputs[:, :1] * inputs[:, 1:2]
inputs, targets = inputs[rank::ranks], targets[rank::ranks]

with Recorder(model, path, when=every(10)).attach(optimizer) as recorder:
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        recorder.log(loss=loss)

distributed.destroy_process_group()
if rank == 0:
    print(f"recorded; now:  rmtnet analyze {path}")
