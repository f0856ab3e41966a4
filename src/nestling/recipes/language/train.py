"""Training a language model: from a recipe to a Hugging Face folder."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import InputError
from nestling.recipes.files import UNFINISHED, make_folder, plain_errors, write_atomically
from nestling.recipes.language.checkpoints import (
    Training,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    save_model,
)
from nestling.recipes.language.corpus import find_corpus, split_corpus
from nestling.recipes.language.log import PICTURE, TrainingLog, draw_losses
from nestling.recipes.language.models import make_config
from nestling.recipes.language.optimizer import build_optimizer, learning_rate, set_learning_rate, watches_layers
from nestling.recipes.language.parallel import World, average_gradients_now, in_world, spread
from nestling.recipes.language.recipe import RECIPE, Recipe, read_recipe
from nestling.recipes.language.sizes import size_named
from nestling.recipes.language.token_data import ABOUT, Rows, TokenData, prepare_tokens
from nestling.recipes.language.tokenizer import load_tokenizer

__all__ = ["StepListener", "TrainResult", "token_losses", "train"]

DATA = "data"


class StepListener:
    """Is told how a training goes; this one is silent."""

    def on_step(self, row: dict[str, Any], recipe: Recipe) -> None:
        """A step was taken; `row` is its line of the log, with "tokens_per_second" and "seconds_left"."""

    def say(self, message: str) -> None:
        """Something a person should know, in one line."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training ended.

    folder: of the model, or of the last checkpoint where it was paused.   finished: whether all steps are done.
    step: taken.   parameters: of the model.   validation_bits: bits per byte of the validation part; None without one.
    writes: whether this is the process that writes files and speaks.
    """

    folder: Path
    finished: bool
    step: int
    parameters: int
    validation_bits: float | None
    writes: bool = True


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    pause_after: int | None = None,
    parallel: str = "ddp",
    device: str = "auto",
    tensorboard: bool = False,
    listener: StepListener | None = None,
) -> TrainResult:
    """Train as the recipe says, from the beginning or from the newest checkpoint.

    A resumed training is the same, bit for bit, as one that was never stopped (on the same machine, with the same
    number of threads and processes).

    Args:
        recipe: everything that decides the figures.
        out: recipe.json, data/, log.jsonl, loss.png, checkpoints/step-N/, and at the end model/.
        resume: go on in `out`, begin if there is nothing.
        pause_after: save and stop after so many steps of this call; None trains to the end.
        parallel: "ddp" or "fsdp", where torchrun started several processes.
        device: "auto", "cpu" or "cuda".
        tensorboard: whether to write for TensorBoard too.
        listener: is told of every step, in the process that writes.

    Raises:
        InputError: what cannot be trained so, or a loss that is no number.
        CheckpointError, ResourceError: of the files.
    """
    listener = listener or StepListener()
    with in_world(parallel, device) as world:
        _check_fits(recipe, world)
        if world.writes:
            _open_folder(out, recipe, resume=resume)
            _prepare(out, recipe, listener)
        world.wait()
        run = _Run(recipe, out, world, listener if world.writes else StepListener())
        run.start()
        log = TrainingLog(out, run.training.step, tensorboard=tensorboard) if world.writes else None
        try:
            return run.go(log, pause_after)
        finally:
            if log is not None:
                log.close()


class _Run:
    """One training in this process."""

    def __init__(self, recipe: Recipe, out: Path, world: World, listener: StepListener) -> None:
        self.recipe, self.out, self.world, self.listener = recipe, out, world, listener
        self.data = TokenData(out / DATA)
        self.rows = Rows(self.data.parts["train"], recipe.length, recipe.seed)
        tokenizer = load_tokenizer(recipe.tokenizer)
        model = _build_model(recipe, tokenizer)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.module = spread(model, world)
        self.training = Training(model, tokenizer, build_optimizer(recipe, model))

    def start(self) -> None:
        """Go to the newest checkpoint if there is one."""
        folder = newest_checkpoint(self.out)
        if folder is not None:
            load_checkpoint(folder, self.training, self.world)
            self.listener.say(f"goes on from step {self.training.step} of {self.recipe.steps}")

    def go(self, log: TrainingLog | None, pause_after: int | None) -> TrainResult:
        """Take the steps that are left."""
        recipe, training = self.recipe, self.training
        first = training.step
        last = recipe.steps if pause_after is None else min(recipe.steps, first + pause_after)
        began, before = time.perf_counter(), training.seconds
        folder, bits, evaluated = self.out, None, -1
        self.module.train()
        while training.step < last:
            row = self._step()
            training.seconds = before + time.perf_counter() - began
            spent = (training.seconds - before) / (training.step - first)
            row["tokens_per_second"] = round(recipe.batch_size * recipe.length / spent, 1)
            row["seconds_left"] = round(spent * (recipe.steps - training.step), 1)
            if log is not None:
                log.add(**row)
            self.listener.on_step(row, recipe)
            if recipe.evaluate_every and training.step % recipe.evaluate_every == 0:
                bits, evaluated = self._evaluate(log), training.step
            if recipe.save_every and training.step % recipe.save_every == 0 and training.step < last:
                folder = save_checkpoint(self.out, training, self.world)
        finished = training.step == recipe.steps
        if finished and evaluated != training.step:
            bits = self._evaluate(log)
        if training.step > first or newest_checkpoint(self.out) is None:
            folder = save_checkpoint(self.out, training, self.world)
        if finished:
            folder = save_model(self.out, training, self.world)
        if log is not None:
            draw_losses(log.rows, self.out / PICTURE)
        return TrainResult(
            folder=folder,
            finished=finished,
            step=training.step,
            parameters=self.parameters,
            validation_bits=bits,
            writes=self.world.writes,
        )

    def _step(self) -> dict[str, Any]:
        """One optimizer step; its line of the log."""
        recipe, world, training = self.recipe, self.world, self.training
        share = recipe.batch_size // world.size
        first = training.step * recipe.batch_size + world.rank * share
        rows = self.rows.take(first, share).to(world.device)
        pieces = rows.split(recipe.micro_batch)
        # Every process has the mean over all rows of the step in its gradient, after averaging over processes.
        scale = world.size / (recipe.batch_size * recipe.length)
        training.optimizer.zero_grad()
        total = torch.zeros((), device=world.device)
        for number, piece in enumerate(pieces):
            with average_gradients_now(self.module, world, number == len(pieces) - 1):
                loss = token_losses(self.module, piece, recipe.precision).sum() * scale
                loss.backward()
            total += loss.detach() / world.size
        if world.size > 1:
            torch.distributed.all_reduce(total)
        value = total.item()
        if not math.isfinite(value):
            raise InputError(
                f"the loss is {value} at step {training.step + 1}: lower --lr, or lengthen the warm-up; the last "
                "checkpoint is whole"
            )
        lr = learning_rate(recipe, training.step)
        norm = self._clip()
        set_learning_rate(training.optimizer, lr)
        training.optimizer.step()
        training.step += 1
        tokens = training.step * recipe.batch_size * recipe.length
        return {"step": training.step, "tokens": tokens, "loss": value, "lr": lr, "gradient_norm": norm}

    def _clip(self) -> float:
        """Length of the whole gradient before it is cut to `clip`."""
        most = self.recipe.clip or math.inf
        norm: Any = nn.utils.clip_grad_norm_(self.training.model.parameters(), most)
        return float(norm.full_tensor() if self.world.is_sharded else norm)

    @torch.no_grad()
    def _evaluate(self, log: TrainingLog | None) -> float | None:
        """Bits per byte of the beginning of the validation part, in rows as in training."""
        recipe, tokens = self.recipe, self.data.parts["validation"]
        count = min(recipe.evaluate_rows, (len(tokens) - 1) // recipe.length)
        if count < 1:
            return None
        ids = torch.from_numpy(tokens[: count * recipe.length + 1].astype("int64"))
        windows = ids.unfold(0, recipe.length + 1, recipe.length).to(self.world.device)
        self.module.eval()
        total = sum(
            token_losses(self.module, piece, recipe.precision).sum().item()
            for piece in windows.split(recipe.micro_batch)
        )
        self.module.train()
        bits = total / (count * recipe.length) / math.log(2)
        per_byte = bits / self.data.bytes_per_token("validation")
        step = self.training.step
        row = {"step": step, "tokens": step * recipe.batch_size * recipe.length, "bits_per_token": bits}
        if log is not None:
            log.add(**row, bits_per_byte=per_byte)
        self.listener.say(f"step {step}: validation {per_byte:.3f} bits per byte")
        return per_byte


def token_losses(model: nn.Module, rows: Tensor, precision: str = "float32") -> Tensor:
    """Loss [B, T] in nats of every token of rows [B, T + 1] but the first."""
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view_as(rows[:, 1:])


def _build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """A new model, its weights drawn with the seed."""
    from transformers import AutoModelForCausalLM

    config = make_config(recipe.model, size_named(recipe.size), vocab_size=len(tokenizer), options=recipe.options)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if recipe.checkpointing:
        model.activation_checkpointing_enable()
    return model


def _check_fits(recipe: Recipe, world: World) -> None:
    """Raises InputError for what cannot be trained with so many processes, or so many rows at once."""
    if recipe.batch_size % world.size:
        raise InputError(
            f"batch_size {recipe.batch_size} cannot be shared among {world.size} processes: give a multiple of it"
        )
    share = recipe.batch_size // world.size
    if share % min(share, recipe.micro_batch):
        raise InputError(f"micro_batch {recipe.micro_batch} does not divide the {share} rows of a step in one process")
    if watches_layers(recipe) and (world.size > 1 or share > recipe.micro_batch):
        raise InputError(
            f"optimizer {recipe.optimizer!r} needs to see all rows of a step at once: one process, and no --micro-batch"
        )
    if world.is_sharded and (recipe.optimizer.partition(":")[0] != "adamw" or recipe.levels):
        raise InputError(
            "--parallel fsdp spreads every matrix over the processes, which adamw without levels allows: choose "
            "adamw, or --parallel ddp"
        )


def _open_folder(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make `out` ready. Raises InputError where it holds other things, or another training."""
    make_folder(out)
    with plain_errors("read", out):
        present = [path for path in out.iterdir() if not path.name.endswith(UNFINISHED)]
    if not present:
        write_atomically(out / RECIPE, json.dumps(recipe.to_json(), indent=1).encode())
        return
    if not resume:
        raise InputError(f"{out} is not empty: add --resume to go on with the training in it, or choose another --out")
    if not (out / RECIPE).is_file():
        raise InputError(f"{out} is not empty but holds no training ({RECIPE} is missing): choose another folder")
    before, now = read_recipe(out / RECIPE).to_json(), recipe.to_json()
    for name, value in now.items():
        if before[name] != value:
            raise InputError(
                f"cannot resume {out}: {name} was {before[name]!r} and is now {value!r}: give the same as before, or "
                "choose another folder"
            )


def _prepare(out: Path, recipe: Recipe, listener: StepListener) -> None:
    """Tokens on the disk, once."""
    folder = out / DATA
    if (folder / ABOUT).is_file():
        return
    corpus = split_corpus(
        find_corpus(recipe.data, column=recipe.column),
        validation=recipe.validation_share,
        test=recipe.test_share,
        seed=recipe.seed,
    )
    data = prepare_tokens(folder, corpus, load_tokenizer(recipe.tokenizer), recipe.tokenizer)
    listener.say(
        "; ".join(f"{part}: {size.tokens:,} tokens of {size.documents} documents" for part, size in data.sizes.items())
    )
