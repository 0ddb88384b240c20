"""Record what a Lightning Trainer trains: one callback.

python hooks/lightning_trainer.py [RUN.zarr]    (pip install 'rmtnet[lightning]')
"""

import sys

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rmtnet.integrations.lightning import RecorderCallback
from rmtnet.schedules import each_epoch, every


class Product(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch, index):
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.net(inputs), targets)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


path = sys.argv[1] if len(sys.argv) > 1 else "lightning_trainer.zarr"
seed_everything(0, verbose=False)
inputs = torch.randn(512, 20)
data = DataLoader(TensorDataset(inputs, inputs[:, :1] * inputs[:, 1:2]), batch_size=64, shuffle=True)
record = RecorderCallback(path, layers=["net.*"], when=every(20) | each_epoch())
trainer = Trainer(max_epochs=6, callbacks=[record], accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(Product(), data)

print(f"recorded; now:  rmtnet analyze {path}")
