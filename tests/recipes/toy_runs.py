"""Streams and listeners for the tests of runs: small enough for a second."""

from __future__ import annotations

import torch
from torch import nn

from nestling.recipes import Event, Listener
from nestling.streams import Examples, Experience, Stream, Training
from nestling.streams.class_incremental import accuracy


class KilledError(Exception):
    """Stands for a kill at a safe point."""


class KillAt(Listener):
    """Ends the run at event number `last`."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.count = 0

    def on_event(self, event: Event) -> None:
        self.count += 1
        if self.count > self.last:
            raise KilledError


class Recorder(Listener):
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.messages: list[str] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def say(self, message: str) -> None:
        self.messages.append(message)


def toy_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 6))


def wide_model() -> nn.Module:
    return nn.Linear(4, 9)


def toy_stream(epochs: int = 3) -> Stream:
    """Three experiences of two classes: six blobs in four dimensions."""
    generator = torch.Generator().manual_seed(7)
    centres = 2 * torch.randn(6, 4, generator=generator)

    def part(classes: tuple[int, int], count: int) -> Examples:
        targets = torch.tensor(classes).repeat(count)
        noise = torch.randn(len(targets), 4, generator=generator)
        return Examples(inputs=centres[targets] + noise, targets=targets)

    experiences = tuple(
        Experience(name=f"{a}-{a + 1}", train=part((a, a + 1), 20), test=part((a, a + 1), 10)) for a in (0, 2, 4)
    )
    return Stream(
        name="toy",
        kind="classification",
        experiences=experiences,
        num_outputs=6,
        metric="accuracy",
        higher_is_better=True,
        make_model=toy_model,
        evaluate=accuracy,
        training=Training(epochs=epochs, batch_size=8, lr=1e-2),
    )
