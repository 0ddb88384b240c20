"""Record a plain PyTorch loop: two lines round it, none in it.

python hooks/plain_loop.py [RUN.zarr]
"""

import sys

import torch
from torch import nn

from rmtnet import Recorder
from rmtnet.schedules import every, log_spaced

path = sys.argv[1] if len(sys.argv) > 1 else "plain_loop.zarr"
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
inputs = torch.randn(512, 20)
targets = inputs[:, :1] * inputs[:, 1:2]

# Layers by name or glob; without `layers` every matrix is recorded.
with Recorder(model, path, layers=["0", "2"], when=log_spaced(until=50) | every(50)).attach(optimizer) as recorder:
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        recorder.log(loss=loss)

print(f"recorded; now:  rmtnet analyze {path}")
