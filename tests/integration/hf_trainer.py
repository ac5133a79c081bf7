"""A Hugging Face `Trainer` as the command of a sweep: a tiny GPT-2 of random weights learns to count, on CPUs.

hf_trainer.py --lr LR --steps STEPS --batch TOKENS --layers LAYERS; its paths come from the environment of the run.
"""

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

VOCAB, CONTEXT = 32, 32


class Counting(Dataset):
    """Sequences that count upwards by a stride; sequence i is the same whenever it is read."""

    def __init__(self, sequences: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.starts = torch.randint(VOCAB, (sequences,), generator=generator)
        self.strides = torch.randint(1, 4, (sequences,), generator=generator)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        tokens = (self.starts[i] + self.strides[i] * torch.arange(CONTEXT)) % VOCAB
        return {"input_ids": tokens, "labels": tokens}


class Reporting(TrainerCallback):
    """Writes a line per log, and ends training with a checkpoint once any rank was asked to stop."""

    def __init__(self, metrics: Path) -> None:
        self.metrics = metrics
        self.asked = False
        signal.signal(signal.SIGTERM, self.ask)

    def ask(self, *_) -> None:
        self.asked = True

    def on_log(self, _args, state, _control, logs=None, **_):
        if state.is_world_process_zero and "loss" in (logs or {}):
            row = {"step": state.global_step, "steps": state.max_steps, **logs}
            with self.metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def on_step_end(self, _args, _state, control, **_):
        asked = torch.tensor(float(self.asked))
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)  # all ranks leave at the same step
        if asked > 0:
            self.asked = control.should_save = control.should_training_stop = True
        return control


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8 * CONTEXT, help="tokens per step")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    checkpoints = os.environ["SWEEPER_CHECKPOINTS"]
    world_size = int(os.environ.get("WORLD_SIZE", "1"))

    torch.manual_seed(asked.seed)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": 32, "n_layer": asked.layers, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, **dropout, use_cache=False))
    reporting = Reporting(Path(os.environ["SWEEPER_METRICS"]))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=checkpoints,
            learning_rate=asked.lr,
            lr_scheduler_type="linear",
            max_steps=asked.steps,
            per_device_train_batch_size=asked.batch // CONTEXT // world_size,
            per_device_eval_batch_size=64,
            seed=asked.seed,
            use_cpu=True,
            ddp_backend="gloo" if world_size > 1 else None,
            logging_steps=1,
            save_steps=5,
            save_total_limit=1,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Counting(4096, seed=1),
        eval_dataset=Counting(64, seed=2),
        callbacks=[reporting],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints))
    if trainer.state.global_step < asked.steps:
        return
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        result = Path(os.environ["SWEEPER_RESULT"])
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps({"loss": loss, "params": model.num_parameters(), "perplexity": math.exp(loss)}))
        partial.replace(result)


if __name__ == "__main__":
    main()
    # Threads of gloo that still hold a tensor when the interpreter goes down abort the process.
    time.sleep(0.2)
