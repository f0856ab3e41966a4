"""Train a small model on a synthetic task from nothing, choose its learning rate, and test it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from nestling.errors import InputError
from nestling.recipes.language.optimizer import optimizer_for
from nestling.recipes.suite.mad_compression import Decoder
from nestling.recipes.suite.small_models import Sizes, make_small_model
from nestling.recipes.suite.synthetic import Answers, SyntheticTask, loss_of, score

__all__ = ["Training", "choose_rate", "learner", "run_cell", "test", "train", "validation_loss"]

# Sequences of training, validation and test are drawn from generators far apart.
TRAINING_SEED, VALIDATION_SEED, TEST_SEED = 1_000_000, 2_000_000, 4_000_000
TRIAL_SEEDS = (977, 978, 979, 980)
AS_GOOD = 0.01  # nats an answer

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every model is trained: warm-up, cosine to a tenth of the rate, gradients clipped at length 1.

    steps:        of a full training.
    trial_steps:  of the training of every rate that is tried.
    batch:        sequences of a step.
    rates:        learning rates to choose from.
    optimizer:    NAME or NAME:option=value,..., as `nestling train` takes it.
    num_test:     sequences of a validation and of every part of the test.
    sizes:        of the models.
    """

    steps: int = 2000
    trial_steps: int = 250
    batch: int = 16
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 2e-2)
    optimizer: str = "adam"
    num_test: int = 256
    sizes: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        if min(self.steps, self.trial_steps, self.batch, self.num_test) < 1 or not self.rates:
            raise InputError(f"training: expected numbers >= 1 and at least one rate, got {self}")


def learner(task: SyntheticTask, model_name: str, sizes: Sizes, seed: int) -> nn.Module:
    """A new model for a task: tokens [B, T] to logits [B, T, S]."""
    if sizes.conv_width is None and task.kind == "set":
        sizes = replace(sizes, conv_width=1)
    model = make_small_model(model_name, vocab_size=task.vocab_size, sizes=sizes, seed=seed)
    if task.decoder is None:
        return Answers(model, task.num_answers)
    return Decoder(model, dim=model.config.hidden_size, num_answers=task.num_answers)


def train(
    module: nn.Module, task: SyntheticTask, how: Training, *, rate: float, seed: int, steps: int, report: Report
) -> None:
    """Train on fresh sequences of the first part; a step whose gradient is not finite is left out."""
    generator = torch.Generator().manual_seed(TRAINING_SEED + seed)
    optimizer = optimizer_for(module, how.optimizer, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
    module.train()
    for step in range(steps):
        batch = task.batch(how.batch, task.parts[0], generator)
        loss = loss_of(module(batch.tokens), batch, task.kind)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if norm.isfinite():
            optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 4) == 0:
            report(f"  step {step + 1} of {steps}: loss {loss.item():.4f}")


def _share_of_rate(step: int, steps: int) -> float:
    """Linear over the first tenth, then a cosine from 1 to 1/10."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


def validation_loss(module: nn.Module, task: SyntheticTask, how: Training) -> float:
    """Loss on sequences of the first part that are used for nothing else; infinite when it is not a number."""
    batch = task.batch(how.num_test, task.parts[0], torch.Generator().manual_seed(VALIDATION_SEED))
    module.eval()
    with torch.no_grad():
        loss = loss_of(module(batch.tokens), batch, task.kind).item()
    return loss if math.isfinite(loss) else math.inf


def choose_rate(task: SyntheticTask, model_name: str, how: Training, report: Report) -> tuple[float, dict[str, float]]:
    """The smallest rate whose validation loss after `trial_steps` is within `AS_GOOD` of the lowest; losses by rate.

    A loss is the mean over four seeds that are used for nothing else: a large rate can be best with one seed and fail
    with another, so the largest rate is not taken where a smaller one is as good.
    """
    losses: dict[str, float] = {}
    for rate in how.rates:
        found = []
        for seed in TRIAL_SEEDS:
            module = learner(task, model_name, how.sizes, seed)
            train(module, task, how, rate=rate, seed=seed, steps=how.trial_steps, report=_silent)
            found.append(validation_loss(module, task, how))
        losses[repr(rate)] = sum(found) / len(found)
        report(f"  rate {rate}: validation losses {', '.join(f'{loss:.4f}' for loss in found)}")
    lowest = min(losses.values())
    return min(rate for rate in how.rates if losses[repr(rate)] <= lowest + AS_GOOD), losses


def _silent(line: str) -> None:
    del line


def test(module: nn.Module, task: SyntheticTask, how: Training, seed: int) -> dict[str, dict[str, float]]:
    """Scores on fresh sequences of every part."""
    module.eval()
    found = {}
    for number, part in enumerate(task.parts):
        generator = torch.Generator().manual_seed(TEST_SEED + 1000 * number + seed)
        found[part] = score(module, task.batch(how.num_test, part, generator), task.kind)
    return found


def run_cell(
    task: SyntheticTask, model_name: str, how: Training, *, rate: float, seed: int, report: Report
) -> dict[str, Any]:
    """Train and test one model with one seed.

    Returns:
        scores by part, the number of parameters, seconds (of the clock, and of the processor), and what was done, as
        plain data.
    """
    started = (time.perf_counter(), time.process_time())
    module = learner(task, model_name, how.sizes, seed)
    train(module, task, how, rate=rate, seed=seed, steps=how.steps, report=report)
    return {
        "task": task.name,
        "model": model_name,
        "seed": seed,
        "rate": rate,
        "scores": test(module, task, how, seed),
        "validation_loss": validation_loss(module, task, how),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "seconds": round(time.perf_counter() - started[0], 1),
        "cpu_seconds": round(time.process_time() - started[1], 1),
        "training": asdict(how),
    }
