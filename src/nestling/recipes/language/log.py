"""What a training leaves for people: lines of JSON, TensorBoard, and the curve of the loss."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from nestling.errors import ResourceError
from nestling.recipes.files import plain_errors, write_atomically

__all__ = ["LOG", "PICTURE", "TrainingLog", "draw_losses", "read_log"]

LOG, PICTURE, BOARD = "log.jsonl", "loss.png", "tensorboard"
_SMOOTH = 50  # points that are left of a long curve of training losses


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a kill has cut is left out."""
    path = out / LOG
    if not path.exists():
        return []
    with plain_errors("read", path):
        lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class TrainingLog:
    """Writes a line per event, and the same to TensorBoard if asked.

    Args:
        out: the folder of the run.
        step: of the checkpoint the training goes on from; later lines are taken back, for they come again.
        tensorboard: whether to write for TensorBoard too.

    Raises:
        ResourceError: tensorboard is not installed, or the folder cannot be written.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        self.board = _summary_writer(out / BOARD, step) if tensorboard else None
        self.rows = [row for row in read_log(out) if row.get("step", 0) <= step]
        content = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(out / LOG, content.encode())
        with plain_errors("write", out / LOG):
            self.file = open(out / LOG, "a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def add(self, **row: Any) -> None:
        """One line; numbers go to TensorBoard under their names."""
        self.rows.append(row)
        with plain_errors("write", Path(self.file.name)):
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def draw_losses(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss (means of neighbouring steps) and validation, over tokens, as a PNG."""
    training = [(row["tokens"], row["loss"] / _NAT) for row in rows if "loss" in row]
    validation = [(row["tokens"], row["bits_per_token"]) for row in rows if "bits_per_token" in row]
    if not training:
        return
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes: Any = figure.subplots()
        share = max(1, len(training) // _SMOOTH)
        groups = [training[begin : begin + share] for begin in range(0, len(training), share)]
        points = [tuple(sum(column) / len(group) for column in zip(*group)) for group in groups]
        axes.plot(*zip(*points), color="#0072B2", label="training")
        if validation:
            axes.plot(*zip(*validation), "o-", color="#D55E00", markersize=3, label="validation")
        axes.set(xlabel="tokens", ylabel="bits per token")
        axes.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


_NAT = 0.6931471805599453  # ln 2: nats of a bit


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ResourceError(
            "tensorboard is not installed: pip install 'nestling[train]', or leave out --tensorboard"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
