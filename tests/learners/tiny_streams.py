"""One stream of two experiences for each kind of problem, small enough for every strategy in a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.learners import STRATEGIES, Strategy
from nestling.streams.base import Examples, Experience, Kind, Predictor, Stream, Training
from nestling.streams.class_incremental import accuracy

CASES = [(name, kind) for name, strategy in STRATEGIES.items() for kind in sorted(strategy.kinds)]


class Tokens(nn.Module):
    """Next-token logits from the present token alone, with dropout so that training itself is random."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, 16)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(16, num_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(self.embedding(tokens)))


def perceptron(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, num_outputs))


def tiny_stream(kind: Kind, epochs: int = 25) -> Stream:
    """classification: four blobs, two at a time, on a large common offset (as pixels have);
    regression: one linear map, a different region of inputs at a time;
    language: cycles over the tokens 0 to 3, then over 2 to 5 the other way round.
    """
    build = {"classification": _classification, "regression": _regression, "language": _language}[kind]
    return build(Training(epochs=epochs, batch_size=16, lr=1e-2))


def build_strategy(name: str, stream: Stream, seed: int = 0, **options: object) -> Strategy:
    """The strategy on a module whose initial weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = stream.make_model()
    return STRATEGIES[name](module, stream.problem, training=stream.training, seed=seed, **options)


def learn_all(strategy: Strategy, stream: Stream) -> Strategy:
    for experience in stream.experiences:
        for _ in strategy.learn(experience.train):
            pass
    return strategy


def _experience(name: str, inputs: Tensor, targets: Tensor) -> Experience:
    half = len(inputs) // 2
    parts = [Examples(inputs=inputs[at], targets=targets[at]) for at in (slice(None, half), slice(half, None))]
    return Experience(name=name, train=parts[0], test=parts[1])


def _classification(training: Training) -> Stream:
    generator = torch.Generator().manual_seed(1)
    centres = 3 + 1.5 * torch.randn(4, 8, generator=generator)
    experiences = []
    for pair in ((0, 1), (2, 3)):
        targets = torch.tensor(pair).repeat(64)
        inputs = centres[targets] + 0.7 * torch.randn(128, 8, generator=generator)
        experiences.append(_experience(f"{pair}", inputs, targets))
    return Stream(
        name="tiny-classification",
        kind="classification",
        experiences=tuple(experiences),
        num_outputs=4,
        metric="accuracy",
        higher_is_better=True,
        make_model=lambda: perceptron(8, 4),
        evaluate=accuracy,
        training=training,
    )


def _regression(training: Training) -> Stream:
    generator = torch.Generator().manual_seed(2)
    slope = torch.randn(6, 2, generator=generator)
    experiences = []
    for task in range(2):
        inputs = torch.randn(128, 6, generator=generator)
        inputs[:, 0] += 6 * task - 3
        experiences.append(_experience(f"{task}", inputs, inputs @ slope))

    def evaluate(predict: Predictor, experience: Experience) -> float:
        return functional.mse_loss(predict(experience.test.inputs), experience.test.targets).item()

    return Stream(
        name="tiny-regression",
        kind="regression",
        experiences=tuple(experiences),
        num_outputs=2,
        metric="mean squared error",
        higher_is_better=False,
        make_model=lambda: perceptron(6, 2),
        evaluate=evaluate,
        training=training,
    )


def _language(training: Training) -> Stream:
    generator = torch.Generator().manual_seed(3)
    experiences = []
    for task in range(2):
        start = torch.randint(4, (64, 1), generator=generator)
        step = torch.arange(12) * (1 + 2 * task)
        text = 2 * task + (start + step) % 4
        experiences.append(_experience(f"{task}", text[:, :-1], text[:, 1:]))

    def evaluate(predict: Predictor, experience: Experience) -> float:
        logits = predict(experience.test.inputs)
        return functional.cross_entropy(logits.flatten(0, 1), experience.test.targets.flatten()).item()

    return Stream(
        name="tiny-language",
        kind="language",
        experiences=tuple(experiences),
        num_outputs=8,
        metric="nats per token",
        higher_is_better=False,
        make_model=lambda: Tokens(8),
        evaluate=evaluate,
        training=training,
    )
