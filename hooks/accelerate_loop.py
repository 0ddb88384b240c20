"""Record a loop with Accelerate: what it prepared is recorded as what was given to it.

python hooks/accelerate_loop.py [RUN.zarr]    (pip install 'rmtnet[huggingface]')
"""

import sys

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rmtnet import Recorder
from rmtnet.schedules import every

path = sys.argv[1] if len(sys.argv) > 1 else "accelerate_loop.zarr"
torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
inputs = torch.randn(512, 20)
data = DataLoader(TensorDataset(inputs, inputs[:, :1] * inputs[:, 1:2]), batch_size=64, shuffle=True)
model, optimizer, data = accelerator.prepare(model, optimizer, data)

with Recorder(model, path, when=every(5)).attach(optimizer) as recorder:
    for _ in range(5):
        for batch, target in data:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(batch), target)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        recorder.log(loss=loss)

print(f"recorded; now:  rmtnet analyze {path}")
