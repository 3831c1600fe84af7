"""Hugging Face Trainer: the worker's optimizer is passed in, all else stays.

Install: `pip install transformers accelerate`. Run: `python examples/embed_hf_trainer.py`.
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import gradmq

BATCH = 16

torch.manual_seed(0)
config = GPT2Config(
    vocab_size=32, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1
)
model = GPT2LMHeadModel(config)  # made from its settings: nothing is downloaded
counting = torch.arange(64) % 32
data = [{"input_ids": counting[i : i + 16], "labels": counting[i : i + 16]} for i in range(32)] * 8


class TellTheRun(TrainerCallback):
    """The run's figures learn the loss, and the Trainer learns when the run is over."""

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "loss" in logs:
            optimizer.report(loss=float(logs["loss"]))

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= worker.stopping


with (
    tempfile.TemporaryDirectory() as folder,
    gradmq.LocalCluster(model, optimizer=gradmq.SGD(lr=0.3)) as cluster,
    gradmq.Worker(model, cluster.address) as worker,
):
    optimizer = worker.optimizer(samples_per_step=BATCH)
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=4,
        lr_scheduler_type="constant",  # the learning rate is the server's
        logging_steps=16,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        optimizers=(optimizer, None),
        callbacks=[TellTheRun()],
    )
    trainer.train()
    worker.drain()
    updates = cluster.versions()[0][1]

losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
print(f"loss fell from {losses[0]:.3f} to {losses[-1]:.3f} in {updates} updates")
