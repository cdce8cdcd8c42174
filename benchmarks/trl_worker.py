"""The TRL side of beside_trl.py, run by the Python of .venv-trl: one job file, its steps as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from megaent.model_folder.tokenizer import load_tokenizer
from megaent.reward.reward import make_reward
from megaent.types import Group, Prompt, Response


def main(job: dict) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    # TRL ends a response at the tokenizer's own end; the task ends it at the first of its stop tokens.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(job["stop"][0])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = job["group_size"] * job["prompts_per_step"]
    clock, rewards = StepClock(job["minibatches"]), Rewards(job)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
            reward_funcs=rewards,
            args=GRPOConfig(
                output_dir=scratch,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=batch // job["minibatches"],
                steps_per_generation=job["minibatches"],
                num_generations=job["group_size"],
                max_completion_length=job["max_new_tokens"],
                temperature=1.0,
                generation_kwargs={"eos_token_id": job["stop"]},
                max_steps=job["steps"] * job["minibatches"],
                learning_rate=job["lr"],
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=job["warmup_steps"],
                max_grad_norm=job["clip_grad"],
                adam_beta1=job["betas"][0],
                adam_beta2=job["betas"][1],
                adam_epsilon=job["eps"],
                beta=0.0,
                loss_type="dapo",
                shuffle_dataset=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                seed=0,
            ),
            train_dataset=Dataset.from_list(job["prompts"]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    found = {"cpu_s": clock.cpu_seconds, "step_s": clock.seconds, "reward": rewards.means}
    Path(job["out"]).write_text(json.dumps(found))


class StepClock(TrainerCallback):
    """Seconds of each generation with its optimizer steps."""

    def __init__(self, optimizer_steps: int) -> None:
        self._every, self.seconds, self.cpu_seconds = optimizer_steps, [], []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: object, state: object, *_: object, **__: object) -> None:
        if state.global_step % self._every == 0:  # type: ignore[attr-defined]
            now, cpu = time.perf_counter(), time.process_time()
            self.seconds.append(now - self._last)
            self.cpu_seconds.append(cpu - self._last_cpu)
            self._last, self._last_cpu = now, cpu


class Rewards:
    """The task's own decoding and grader under the signature that TRL calls."""

    __name__ = "task"

    def __init__(self, job: dict) -> None:
        self._grader, self._stop, self.means = make_reward(job["grader"]), set(job["stop"]), []
        self._tokenizer = load_tokenizer(Path(job["model"]))

    def __call__(self, completion_ids: list[list[int]], answer: list[str], **_: object) -> list[float]:
        groups = [
            Group(index=0, prompt=Prompt(id="", tokens=(), text="", answer=key), responses=(self._said(ids),))
            for ids, key in zip(completion_ids, answer, strict=True)
        ]
        found = [group.grades[0].reward for group in self._grader.grade(groups)]
        self.means.append(sum(found) / len(found))
        return found

    def _said(self, ids: list[int]) -> Response:
        text = self._tokenizer.decode([token for token in ids if token not in self._stop])
        return Response(tokens=(), log_prob=(), finish="stop", version=0, text=text)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
