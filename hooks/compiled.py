"""Record a compiled model: its layers keep the names that they have without torch.compile.

python hooks/compiled.py [RUN.zarr]
"""

import shutil
import sys

import torch
from torch import nn

from rmtnet import Recorder
from rmtnet.schedules import every

path = sys.argv[1] if len(sys.argv) > 1 else "compiled.zarr"
torch.manual_seed(0)
# Torch's own backend needs a C++ compiler; without one the traced graph runs as it is.
backend = "inductor" if shutil.which("g++") else "eager"
model = torch.compile(nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1)), backend=backend)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
inputs = torch.randn(512, 20)
targets = inputs[:, :1] * inputs[:, 1:2]

with Recorder(model, path, layers=["0", "2"], when=every(10)).attach(optimizer) as recorder:
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        recorder.log(loss=loss)

print(f"recorded; now:  rmtnet analyze {path}")
