"""Run tasks on a model and write what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestling.errors import UnknownNameError
from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.language.load import load_model
from nestling.recipes.suite.reading import Reader, Tokenizer
from nestling.recipes.suite.small_models import SMALL_MODELS
from nestling.recipes.suite.synthetic_table import GROUPS, SYNTHETIC_TASKS
from nestling.recipes.suite.table import READING_GROUPS, READING_TASKS
from nestling.recipes.suite.task import Report, Settings, SuiteRow
from nestling.recipes.suite.train_synthetic import Training, choose_rate, run_cell

__all__ = ["SuiteResult", "evaluate", "run_suite", "train_and_test"]


@dataclass(frozen=True)
class SuiteResult:
    """Scores of one model.

    model: its name or folder.
    rows:  the scores.
    how:   what was chosen, as plain data.
    """

    model: str
    rows: tuple[SuiteRow, ...]
    how: dict[str, Any]

    def markdown(self) -> str:
        """A table for people."""
        head = ["| task | length | metric | value | chance | samples | note |", "|---|---|---|---|---|---|---|"]
        lines = [
            f"| {row.task} | {row.length or ''} | {row.metric} | {row.value:.4g} | "
            f"{'' if row.chance is None else f'{row.chance:.3g}'} | {row.samples} | {row.note} |"
            for row in self.rows
        ]
        return "\n".join([f"# Evaluation suite: {self.model}", "", *head, *lines, ""])

    def save(self, folder: Path) -> list[Path]:
        """Write suite.json and suite.md, each whole or not at all.

        Raises:
            ResourceError: the folder cannot be written.
        """
        make_folder(folder)
        numbers = {"model": self.model, "how": self.how, "rows": [asdict(row) for row in self.rows]}
        paths = [folder / "suite.json", folder / "suite.md"]
        for path, text in zip(paths, (json.dumps(numbers, indent=1, default=str) + "\n", self.markdown())):
            write_atomically(path, text.encode())
        return paths


def evaluate(
    model: Any,
    tokenizer: Tokenizer,
    tasks: Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    report: Report = lambda _: None,
    name: str = "model",
) -> SuiteResult:
    """Score a trained causal language model of transformers.

    Args:
        model: as of AutoModelForCausalLM.
        tokenizer: its tokenizer.
        tasks: names of READING_TASKS or READING_GROUPS; None is all.
        settings: lengths, samples, data.
        report: told every score as it is known.
        name: of the model, for the tables.

    Raises:
        UnknownNameError: no such task.
        DataError: a task's files are missing; nothing is scored then.
    """
    chosen = names_of(list(READING_TASKS) if tasks is None else tasks, READING_TASKS, READING_GROUPS)
    settings = settings or Settings()
    for task in chosen:
        READING_TASKS[task].find(settings)
    reader = Reader(model, tokenizer)
    rows = [row for task in chosen for row in READING_TASKS[task].run(reader, settings, report)]
    return SuiteResult(name, tuple(rows), asdict(settings))


def train_and_test(
    model: str, tasks: Sequence[str] | None = None, *, how: Training | None = None, seed: int = 0, report: Report
) -> SuiteResult:
    """Train a small model on synthetic tasks, one new model each, and test it.

    Args:
        model: of SMALL_MODELS.
        tasks: names of SYNTHETIC_TASKS or GROUPS; None is all.
        how: the training.
        seed: of weights and sequences.
        report: told how it goes.

    Raises:
        UnknownNameError: no such task or model.
    """
    if model not in SMALL_MODELS:
        raise UnknownNameError("small model", model, SMALL_MODELS)
    how, rows = how or Training(), []
    for name in names_of(list(SYNTHETIC_TASKS) if tasks is None else tasks, SYNTHETIC_TASKS, GROUPS):
        task = SYNTHETIC_TASKS[name]
        rate, _ = choose_rate(task, model, how, report)
        cell = run_cell(task, model, how, rate=rate, seed=seed, report=report)
        for part, scores in cell["scores"].items():
            for metric, value in scores.items():
                note = f"{part}; trained with rate {rate}, {cell['parameters']} parameters"
                chance = task.chance.get(metric)
                rows.append(
                    SuiteRow(task=name, metric=metric, value=value, samples=how.num_test, chance=chance, note=note)
                )
        report(f"{name}: {cell['scores']}")
    return SuiteResult(model, tuple(rows), {**asdict(how), "seed": seed})


def run_suite(
    model: str,
    tasks: Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    training: Training | None = None,
    out: Path | None = None,
    report: Report = lambda _: None,
) -> SuiteResult:
    """The suite for a checkpoint (or hub name), or for the name of a small model that is trained first.

    Args:
        model: folder or hub name of a trained model with its tokenizer, or the folder of a training; or a name of
            SMALL_MODELS.
        tasks: of READING_TASKS, READING_GROUPS for a trained model; of SYNTHETIC_TASKS, GROUPS for a name.
        settings: for a trained model.
        training: for a name.
        out: folder for suite.json and suite.md; None writes nothing.
        report: told how it goes.

    Raises:
        UnknownNameError, DataError, InputError, ResourceError: as `evaluate`, `train_and_test` and `load_model`.
    """
    settings = settings or Settings()
    if model in SMALL_MODELS and not Path(model).exists():
        result = train_and_test(model, tasks, how=training, seed=settings.seed, report=report)
    else:
        names_of(list(READING_TASKS) if tasks is None else tasks, READING_TASKS, READING_GROUPS)
        result = evaluate(*load_model(model), tasks, settings=settings, report=report, name=model)
    if out is not None:
        result.save(out)
    return result


def names_of(wanted: Sequence[str], tasks: Any, groups: dict[str, tuple[str, ...]]) -> list[str]:
    """Names of tasks, groups resolved, each once and in the order of the table.

    Raises:
        UnknownNameError: neither a task nor a group.
    """
    chosen: set[str] = set()
    for name in wanted:
        if name not in tasks and name not in groups:
            raise UnknownNameError("task", name, [*tasks, *groups])
        chosen.update(groups.get(name, (name,)))
    return [name for name in tasks if name in chosen]
