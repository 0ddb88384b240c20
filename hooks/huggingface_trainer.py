"""Record what a Hugging Face Trainer trains: one callback.  The language model is made here, nothing is downloaded.

python hooks/huggingface_trainer.py [RUN.zarr]    (pip install 'rmtnet[huggingface]')
"""

import sys
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from rmtnet.integrations.huggingface import RecorderCallback
from rmtnet.schedules import every, log_spaced

path = sys.argv[1] if len(sys.argv) > 1 else "huggingface_trainer.zarr"
set_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=32, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
# Counting from a random number: the next token is one more.
rows = (torch.randint(64, (256, 1)) + torch.arange(16)) % 64
data = [{"input_ids": row, "labels": row} for row in rows]

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=32, num_train_epochs=4, learning_rate=1e-2, logging_steps=4,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    record = RecorderCallback(path, layers=["*_proj"], when=log_spaced() | every(8))
    Trainer(LlamaForCausalLM(config), arguments, train_dataset=data, callbacks=[record]).train()

print(f"recorded; now:  rmtnet analyze {path}")
