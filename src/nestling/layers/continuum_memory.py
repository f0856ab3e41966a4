"""The continuum memory system: MLP levels that change every so many tokens while they read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import InputError, ShapeError
from nestling.layers.continuum_moves import gathered, move
from nestling.layers.continuum_options import check_options
from nestling.layers.continuum_state import ContinuumState
from nestling.layers.level_mlp import LevelMLP, Pass
from nestling.memory.base import Memory, state_dtype
from nestling.memory.state import Weights
from nestling.schedule import Level, Schedule, chunk_borders

__all__ = ["ContinuumMemory"]


class ContinuumMemory(Memory[ContinuumState]):
    """A chain of MLP levels, each with an update period of its own.

    sequential, nested   z_0 = x,  z_l = z_{l-1} + MLP_l(z_{l-1}),  y = z_k - x
    independent          y = sum_l a_l * MLP_l(x), a learned scale per channel

    One level is the MLP of a Transformer block. The first level stands next to the input.

    Every C_l tokens of a context a level moves the weights of each batch row by what it gathered since:

        delta_l <- alpha_l delta_l - eta_l G_l,   G_l = sum (or mean) over the chunk of dL_t/d delta_l           (71)

    static   the levels never move; the outer optimizer trains them.
    online   they move, and no gradient of an outer loss runs through the moves.
    meta     they move, and it does; what the objective needs is trained too.

    Objective "local", the surprise of a level about its next input u (its input is what it reads: z_{l-1} or x):

        L_t = 1/2 |MLP_{W+delta}(u_{t-1}) - MLP_W(u_{t-1}) - V u_t|^2

    A level thus learns a correction of its slow answer that resembles a learned view V of what comes next. The slow
    weights answer as before until the first move, and the correction cannot run away from them. Token t moves the
    levels once both tokens are read, and only tokens after the end of its chunk see that. Objective "given": the
    caller takes gradients of any loss, for example of next-token prediction, and hands them to `write`.

    nested: level l + 1 also learns the delta with which level l begins, from the same gradients (first order), and
    when a chunk of level l + 1 ends, level l begins again there. Periods grow, each a multiple of the one before.
    sequential, independent: the weights W are all that a level begins with, trained by the outer optimizer.       (73)

    Source: NL 7, eq. 70-74; the residual within the chain and the objective "local" are ours.

    Args:
        dim: width D of the tokens.
        hidden: width F of every level.
        levels: names, update periods in tokens, accumulation, and retention towards the start (anchor "start").
        mode: see above.
        variant: see above.
        objective: see above; without meaning in mode static.
        inner_rate: eta of all levels and maps before training, >= 0; meta learns a factor per level and map.
        limit: largest length of G_l of a row, longer ones are scaled down; None does not limit.
        activation, gated: of `LevelMLP`.

    Raises:
        InputError: a value outside its range, or periods that do not nest.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        levels: Sequence[Level] = (Level(name="level 0"),),
        mode: str = "static",
        variant: str = "sequential",
        objective: str = "local",
        inner_rate: float = 0.1,
        limit: float | None = 1.0,
        activation: str = "silu",
        gated: bool = True,
    ) -> None:
        super().__init__(dim=dim, num_heads=1, head_dim=None)
        self.schedule = Schedule(tuple(levels), unit="tokens")
        check_options(self.schedule.levels, mode, variant, objective, inner_rate, limit)
        self.mode, self.variant, self.objective = mode, variant, objective
        self.inner_rate, self.limit = inner_rate, limit
        count = len(levels)
        self.mlps = nn.ModuleList(
            LevelMLP(dim=dim, hidden=hidden, activation=activation, gated=gated) for _ in range(count)
        )
        mixed = variant == "independent" and count > 1
        self.aggregate = nn.Parameter(torch.full((count, dim), 1 / count)) if mixed else None
        self.log_gain, self.targets = None, None
        if mode != "static":
            self._learned("log_gain", torch.zeros(count, 3 if gated else 2))
            if objective == "local":
                self._learned("targets", torch.empty(count, dim, dim).uniform_(-(dim**-0.5), dim**-0.5))

    @property
    def learns(self) -> bool:
        """Whether levels move while they read."""
        return self.mode != "static" and self.inner_rate > 0

    @property
    def gathers(self) -> bool:
        """Whether reading alone moves them."""
        return self.learns and self.objective == "local"

    def initial_state(self, batch: int) -> ContinuumState:
        """Nothing moved, nothing gathered, in every row."""
        weight = self._mlp(0).down.weight
        position = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        if self.mode == "static":
            return ContinuumState(position)
        maps = [linear.weight for mlp in self._all() for linear in mlp.maps]
        dtype = state_dtype(weight)
        zeros = tuple(torch.zeros((1, *w.shape), dtype=dtype, device=w.device).expand(batch, -1, -1) for w in maps)
        begins = zeros[: -self._num_maps] if self.variant == "nested" else ()
        last = weight.new_zeros((batch, 1, self.dim), dtype=dtype)
        return ContinuumState(position, zeros, zeros, begins, begins, (last,) * len(self.mlps) if self.gathers else ())

    def mix(self, x: Tensor, state: ContinuumState) -> tuple[Tensor, ContinuumState]:
        """Read [B, T, D], and learn from it with the local objective; see `Memory.forward`."""
        if not self.gathers:
            return self._read(x, state)[0], state
        places, answers, done = state.position.tolist(), [], 0
        for end in self._cuts(places, x.shape[1]):
            y, passes = self._read(x[:, done:end], state)
            state = self._move(self._gather(passes, state, end - done))
            answers.append(y)
            done = end
        return (torch.cat(answers, dim=1) if answers else x), state

    def tokens_left(self, state: ContinuumState) -> int:
        """Tokens until the next change of any level of any row, >= 1."""
        periods = [level.update_period for level in self.schedule.levels]
        return min(period - place % period for place in state.position.tolist() for period in periods)

    def watch(self, state: ContinuumState) -> ContinuumState:
        """The state with deltas that gradients can be taken of: new leaves, or in mode meta new nodes of the graph.

        Call it for every chunk: a gradient must not see that one delta has moved another one before.
        """

        def watched(delta: Tensor) -> Tensor:
            if self.mode == "meta" and delta.requires_grad:
                return delta.view_as(delta)
            return delta.detach().requires_grad_()

        return replace(state, delta=tuple(watched(delta) for delta in state.delta))

    def write(self, state: ContinuumState, gradients: Sequence[Tensor], *, num_tokens: int) -> ContinuumState:
        """Learn from tokens that have been read, objective "given".

        Args:
            state: after reading them.
            gradients: of the caller's loss, summed over these tokens, by state.delta; a gradient per row.
            num_tokens: how many tokens, from 1 to `tokens_left(state)`.

        Raises:
            InputError: another objective or mode, or a border lies within the tokens.
            ShapeError: gradients that do not fit.
        """
        if self.objective != "given" or self.mode == "static":
            raise InputError(
                f"write needs objective 'given' and levels that move, got {self.objective!r}, {self.mode!r}"
            )
        if not 1 <= num_tokens <= self.tokens_left(state):
            raise InputError(
                f"num_tokens: expected 1 to {self.tokens_left(state)}, got {num_tokens}: write chunk by chunk"
            )
        if [part.shape for part in gradients] != [part.shape for part in state.delta]:
            raise ShapeError(
                f"gradients: expected one per delta and of its shape, got {[[*g.shape] for g in gradients]}"
            )
        if self.mode == "online":
            gradients = [part.detach() for part in gradients]
        state = replace(state, position=state.position + num_tokens)
        return self._move(gathered(state, tuple(gradients))) if self.learns else state

    def _learned(self, name: str, value: Tensor) -> None:
        """A parameter in mode meta; a fixed number of the module in mode online, where nothing trains it."""
        delattr(self, name)
        if self.mode == "meta":
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def _num_maps(self) -> int:
        return len(self._mlp(0).maps)

    def _mlp(self, number: int) -> LevelMLP:
        mlp = self.mlps[number]
        assert isinstance(mlp, LevelMLP)
        return mlp

    def _all(self) -> list[LevelMLP]:
        return [self._mlp(number) for number in range(len(self.mlps))]

    def _of(self, weights: Weights, number: int) -> Weights:
        """The weights of one level."""
        return weights[number * self._num_maps : (number + 1) * self._num_maps]

    def _delta(self, state: ContinuumState, number: int) -> Weights | None:
        """What a level has moved; None where no row has come to its first change and nobody watches it."""
        delta = self._of(state.delta, number)
        period = self.schedule.levels[number].update_period
        if delta[0].requires_grad or bool((state.position >= period).any()):
            return delta
        return None

    def _cuts(self, places: list[int], length: int) -> list[int]:
        """Where tokens of this call must be cut, so that no level of any row changes within a piece; and the end."""
        found = {length} - {0}
        for place in set(places):
            for level in self.schedule.levels:
                found.update(border - place for border in chunk_borders(place, place + length, level.update_period))
        return sorted(found)

    def _read(self, x: Tensor, state: ContinuumState) -> tuple[Tensor, list[Pass]]:
        """y, and the pass of every level that can move."""
        reached, total, passes = x, None, []
        for number, mlp in enumerate(self._all()):
            if self.mode == "static":
                answer = mlp(reached)
            else:
                passes.append(mlp.read(reached, self._delta(state, number)))
                answer = passes[-1].answer
            if self.aggregate is not None:
                answer = answer * self.aggregate[number].to(answer.dtype)
            total = answer if total is None else total + answer
            reached = x if self.variant == "independent" else x + total
        assert total is not None
        return total, passes

    def _gather(self, passes: list[Pass], state: ContinuumState, length: int) -> ContinuumState:
        """Add the gradient of the local objective of a piece."""
        frozen = self.mode == "online"
        found: list[Tensor] = []
        last = []
        with torch.no_grad() if frozen else nullcontext():
            for number, seen in enumerate(passes):
                now = seen.detach() if frozen else seen
                found.extend(self._surprise(number, now, state))
                last.append(now.inputs[:, -1:].to(state.last[number].dtype))
        state = replace(state, last=tuple(last), position=state.position + length)
        return gathered(state, tuple(found))

    def _surprise(self, number: int, seen: Pass, state: ContinuumState) -> Weights:
        """Gradient of the local objective of one level, summed over the pairs that end in a piece.

        The first token of a context comes after an input of zeros, whose gradient is zero: no map has a bias.
        """
        assert isinstance(self.targets, Tensor)
        mlp, delta = self._mlp(number), self._delta(state, number)
        before = mlp.read(state.last[number].to(seen.inputs.dtype), delta)
        keys = seen.behind(before)
        correction = 0.0 if delta is None else keys.answer - mlp.slow_answer(keys)
        error = correction - F.linear(seen.inputs, self.targets[number].to(seen.inputs.dtype))
        return mlp.gradient(keys, error, delta, state.gathered[0].dtype)

    def _move(self, state: ContinuumState) -> ContinuumState:
        """Change the levels whose chunk has ended, row by row."""
        assert isinstance(self.log_gain, Tensor)
        with torch.no_grad() if self.mode == "online" else nullcontext():
            eta = self.inner_rate * self.log_gain.exp()
            return move(state, eta, self.schedule.levels, nested=self.variant == "nested", limit=self.limit)

    def extra_repr(self) -> str:
        """For print."""
        periods = [level.update_period for level in self.schedule.levels]
        return f"dim={self.dim}, mode={self.mode!r}, variant={self.variant!r}, update_periods={periods}"
