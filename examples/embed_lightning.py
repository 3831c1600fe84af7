"""PyTorch Lightning: ``configure_optimizers`` returns the worker's optimizer, all else stays.

Install: `pip install lightning`. Run: `python examples/embed_lightning.py`.
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradmq

BATCH = 32


class Regression(lightning.LightningModule):
    worker: gradmq.Worker

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.net(inputs), targets)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.worker.optimizer(samples_per_step=BATCH)

    def on_train_batch_end(self, *_: object) -> None:
        if self.worker.stopping:  # the run asks its workers to finish
            self.trainer.should_stop = True


torch.manual_seed(0)
inputs = torch.randn(512, 8)
data = DataLoader(TensorDataset(inputs, inputs @ torch.randn(8, 2)), BATCH, shuffle=True)
module = Regression()
trainer = lightning.Trainer(
    max_epochs=6,
    gradient_clip_val=1.0,
    devices=1,  # Lightning's own data parallelism stays off: start more workers instead
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)

with gradmq.LocalCluster(module, optimizer=gradmq.SGD(lr=0.1)) as cluster:
    with gradmq.Worker(module, cluster.address) as module.worker:
        trainer.fit(module, data)
        module.worker.drain()
    updates = cluster.versions()[0][1]

print(f"loss fell from {module.losses[0]:.3f} to {module.losses[-1]:.3f} in {updates} updates")
