"""Specs: what they are read as, what they are called, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as draw

from nestling.errors import InputError, UnknownNameError
from nestling.learners import STRATEGIES, file_name, name_of, options_of, parse_strategy
from nestling.options import read_value, write_value


def test_a_name_alone_is_a_spec() -> None:
    for name in STRATEGIES:
        spec = parse_strategy(f" {name} ")
        assert (spec.name, spec.label, dict(spec.options)) == (name, name, {})
        assert spec.strategy is STRATEGIES[name]


def test_options_are_read_by_their_types_and_put_in_order() -> None:
    spec = parse_strategy("ewc : fisher-samples=30:strength = 1e3 :mode=per_task")
    assert dict(spec.options) == {"mode": "per_task", "strength": 1000.0, "fisher_samples": 30}
    assert isinstance(spec.options["strength"], float)
    assert spec.label == "ewc:mode=per_task:strength=1000:fisher_samples=30"
    assert parse_strategy(spec.label) == spec


def test_resolved_options_include_the_defaults() -> None:
    assert parse_strategy("replay:num_copies=4").resolved("regression") == {"buffer_size": 50, "num_copies": 4}


def test_a_strategy_of_parts_has_the_options_of_the_part() -> None:
    continuum = STRATEGIES["continuum"]
    assert "dreams" in options_of(continuum, "language")
    assert "dreams" not in options_of(continuum, "classification")
    assert parse_strategy("continuum:num_features=64:dreams=0").label == "continuum:num_features=64:dreams=0"
    assert not options_of(continuum, "classification")["bandwidths"].settable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("niave:num_copies=2", "did you mean 'naive'"),
        ("", "unknown strategy ''"),
        ("naive:", "expected naive:option=value"),
        ("naive:=3", "expected naive:option=value"),
        ("replay:bufer_size=3", "unknown option of strategy 'replay' 'bufer_size': did you mean 'buffer_size'"),
        ("replay:buffer_size=many", "option buffer_size of strategy 'replay': expected int, got 'many'"),
        ("replay:buffer_size=", "expected int, got ''"),
        ("replay:buffer_size=9:buffer-size=9", "each option once"),
        ("ewc:strength=inf", "expected float, got 'inf'"),
        ("ewc:labels=Model", "expected model or data, got 'Model'"),
        ("ridge:strength=3", "strategy 'ridge' has no options, got 'strength'"),
        ("naive:seed=3", "unknown option of strategy 'naive' 'seed'"),
        ("continuum:bandwidths=1", "unknown option of strategy 'continuum' 'bandwidths'"),
    ],
)
def test_what_is_not_a_spec_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse_strategy(text)


def test_unknown_options_are_unknown_names() -> None:
    with pytest.raises(UnknownNameError):
        parse_strategy("naive:copies=3")


@given(draw.booleans() | draw.integers() | draw.floats(allow_nan=False, allow_infinity=False))
def test_values_are_read_as_they_are_written(value: bool | int | float) -> None:
    read = read_value("x", write_value(value), type(value).__name__)
    assert read == value
    assert type(read) is type(value)


@given(draw.lists(draw.text(min_size=1, max_size=120), unique=True, max_size=6))
def test_file_names_are_safe_short_and_told_apart(labels: list[str]) -> None:
    names = [file_name(label) for label in labels]
    assert len(set(names)) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9._=-]+", name) and len(name) <= 120 for name in names)


def test_plain_names_are_file_names() -> None:
    assert [file_name(name) for name in STRATEGIES] == list(STRATEGIES)
    assert file_name("naive:num_copies=18").startswith("naive_num_copies=18-")
    assert name_of("naive:num_copies=18") == name_of("naive") == "naive"
