"""A row of the table: figures taken in rounds, and goals that are worked out from the figures of one round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

#: Figures of one round by their name; the name ends with the unit.
Figures = Mapping[str, float]
#: Takes one round; its number turns the order of those who are measured, so that none is always first.
Measure = Callable[[int], dict[str, float]]


class Goal(NamedTuple):
    """What a figure of a round should come to."""

    name: str
    of: Callable[[Figures], float]
    #: What must be reached, and what is aimed at.
    least: float
    aim: float
    #: Whether more is better.
    more: bool = True


def figure(name: str) -> Callable[[Figures], float]:
    """Goal of a figure itself."""
    return lambda figures: figures[name]


def ratio(over: str, under: str) -> Callable[[Figures], float]:
    """Goal of one figure against another."""
    return lambda figures: figures[over] / figures[under]


class Row(NamedTuple):
    """A row, and how it is measured."""

    name: str
    #: What is done, with its sizes.
    title: str
    #: Gives the measure of a round; what it has started ends with it.
    prepared: Callable[[], AbstractContextManager[Measure]]
    goals: Sequence[Goal]
    #: Rounds at most: one where calls are counted, which do not vary, or where a round takes minutes.
    rounds: int = 1_000


class Spread(NamedTuple):
    """What a figure came to in all rounds."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_turn(number: int, names: Sequence[str]) -> list[str]:
    """These in another order each round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]
