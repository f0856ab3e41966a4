"""Every strategy that has a name. Adding one = one file beside this one and one line in `STRATEGIES`."""

from __future__ import annotations

from nestling.errors import UnknownNameError
from nestling.learners.base import Strategy
from nestling.learners.continuum import Continuum
from nestling.learners.ewc import ElasticWeightConsolidation
from nestling.learners.joint import Joint
from nestling.learners.klda import KernelLDA
from nestling.learners.lwf import LearningWithoutForgetting
from nestling.learners.modular import Modular
from nestling.learners.naive import Naive
from nestling.learners.replay import Replay
from nestling.learners.ridge import RidgeRegression
from nestling.learners.slda import StreamingLDA

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        Continuum,
        Naive,
        Joint,
        Replay,
        ElasticWeightConsolidation,
        LearningWithoutForgetting,
        Modular,
        StreamingLDA,
        RidgeRegression,
        KernelLDA,
    )
}


def find_strategy(name: str) -> type[Strategy]:
    """The strategy called `name`; UnknownNameError names the nearest otherwise."""
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", name, STRATEGIES)
    return STRATEGIES[name]
