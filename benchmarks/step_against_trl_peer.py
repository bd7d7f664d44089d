"""TRL's side of `step_against_trl`: GRPOTrainer with transformers' generation, in an environment of its own.

Reads one JSON object with the workload from its first argument, trains, and prints a JSON line at the end of each step:
`{"step", "end" (Unix time), "tokens" (generated), "mixed" (share of groups whose rewards differ)}`.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.step_against_trl_rewards import REWARDS


class Recorder(TrainerCallback):
    """The reward function of the run, and the line at the end of each of its steps."""

    __name__ = "reward"

    def __init__(self, rewards: str, group: int) -> None:
        self._reward, self._group = REWARDS[rewards], group
        self._tokens, self._mixed = 0, []

    def __call__(self, completions: list[Any], answer: list[str], completion_ids: list[list[int]], **_: Any):
        """Rewards of one generation batch; TRL gives each prompt's `group` completions in a row."""
        rewards = [
            self._reward(one, completion[-1]["content"]) for one, completion in zip(answer, completions, strict=True)
        ]
        self._tokens += sum(map(len, completion_ids))
        groups = [rewards[i : i + self._group] for i in range(0, len(rewards), self._group)]
        self._mixed += [len(set(group)) > 1 for group in groups]
        return rewards

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One optimiser step is done."""
        mixed = sum(self._mixed) / len(self._mixed)
        record = {"step": state.global_step, "end": time.time(), "tokens": self._tokens, "mixed": mixed}
        print(json.dumps(record), flush=True)
        self._tokens, self._mixed = 0, []


def main() -> None:
    """Trains as many steps as the prompts suffice for."""
    work = json.loads(sys.argv[1])
    rows = [json.loads(line) for line in Path(work["data"]).read_text().splitlines()]
    dataset = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": row["question"] + work["suffix"]}], "answer": row["answer"]}
            for row in rows
        ]
    )
    on_gpu = torch.cuda.is_available()
    half = work["dtype"] == "bfloat16"
    recorder = Recorder(work["rewards"], work["group"])
    config = GRPOConfig(
        output_dir=work["output"],
        max_steps=work["steps"],
        # One generation for all rollouts of a step, and gradients in parts that fit into memory.
        per_device_train_batch_size=work["micro_batch"],
        gradient_accumulation_steps=work["prompts"] * work["group"] // work["micro_batch"],
        num_generations=work["group"],
        max_completion_length=work["tokens"],
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=work["learning_rate"],
        # Weights in float32 and bfloat16 by autocast, as v05ray's learner keeps float32 masters.
        model_init_kwargs={"dtype": "float32"},
        bf16=half,
        use_cpu=not on_gpu,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        seed=work["seed"],
        save_strategy="no",
        report_to="none",
        logging_steps=1_000_000,
        disable_tqdm=True,
    )
    GRPOTrainer(
        model=work["model"], reward_funcs=recorder, args=config, train_dataset=dataset, callbacks=[recorder]
    ).train()


if __name__ == "__main__":
    main()
