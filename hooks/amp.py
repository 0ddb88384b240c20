"""Record mixed precision with a gradient scaler and gradients accumulated over four batches.

python hooks/amp.py [RUN.zarr]
"""

import sys

import torch
from torch import nn

from rmtnet import Recorder
from rmtnet.schedules import every

path = sys.argv[1] if len(sys.argv) > 1 else "amp.zarr"
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
inputs = torch.randn(512, 20, device=device)
targets = inputs[:, :1] * inputs[:, 1:2]
# So large a scale overflows at first: those steps are skipped, and not counted as steps.
scaler = torch.amp.GradScaler(device, init_scale=2.0**20)

with Recorder(model, path, when=every(7)).attach(optimizer) as recorder:
    for _ in range(50):
        for batch, target in zip(inputs.split(128), targets.split(128), strict=True):
            with torch.autocast(device, dtype=torch.float16):
                loss = nn.functional.mse_loss(model(batch), target) / 4
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        recorder.log(loss=4 * loss)

print(f"recorded; now:  rmtnet analyze {path}")
