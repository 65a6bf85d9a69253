"""How a batch falls into groups: numbers, rows, shares, parts of whatever belongs to images, means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from common.errors import UserError
from common.images.mixing import partners
from common.methods.groups import Groups, PerGroup, by_group, by_stream, parts


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


@dataclass
class Views:
    images: np.ndarray
    names: list[np.ndarray]
    number: int


@dataclass
class Scores:
    of_all_groups: ClassVar[bool] = True

    values: np.ndarray


@pytest.mark.parametrize(("total", "processes"), [(1, 1), (4, 1), (4, 2), (4, 4), (6, 3)])
def test_processes_have_all_groups_and_rows_once(total, processes):
    shares = [Groups(total, process, processes) for process in range(processes)]
    assert [number for groups in shares for number in groups.numbers] == list(range(total))
    assert [row for groups in shares for row in groups.rows(3 * total)] == list(range(3 * total))
    for items in ([], list("a"), list("abcdefghijk")):
        pieces = [groups.share(items) for groups in shares]
        assert sum(pieces, []) == items and max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"trainer.groups = 4 cannot be shared by 3 processes.*trainer.groups=3"):
        Groups(4, 0, 3)
    with pytest.raises(ValueError, match="5 places are not 2 equal groups"):
        Groups(2).rows(5)
    with pytest.raises(ValueError, match="5 rows are not 2"):
        parts(np.zeros(5), 2)
    with pytest.raises(ValueError, match="1 objects for 2 groups"):
        parts(PerGroup([1]), 2)


def test_parts_of_whatever_belongs_to_images():
    rows = np.arange(8)
    assert [part.tolist() for part in parts(rows, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [part["a"].tolist() for part in parts({"a": rows, "b": 3}, 4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert all(part["b"] == 3 for part in parts({"a": rows, "b": 3}, 4))
    second = parts(Pair(rows, rows + 10), 2)[1]
    assert isinstance(second, Pair) and second.second.tolist() == [14, 15, 16, 17]
    views = parts(Views(rows, [rows, -rows], 7), 2)[1]
    assert views.images.tolist() == [4, 5, 6, 7] and views.names[1].tolist() == [-4, -5, -6, -7] and views.number == 7
    scores = Scores(rows)
    assert parts(scores, 2) == [scores, scores] and parts(None, 2) == [None, None]
    assert parts(PerGroup("ab"), 2) == ["a", "b"]


def test_several_streams_lie_group_by_group():
    first, second = np.arange(4), np.arange(10, 14)
    together = np.concatenate(by_group([first, second], 2))
    assert together.tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    assert [part.tolist() for part in parts(together, 2)] == [[0, 1, 10, 11], [2, 3, 12, 13]]
    assert by_stream(parts(together, 2), 2).tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert by_stream([together], 2) is together


def test_means_over_groups_add_up_over_processes():
    values, weights = np.arange(8.0), np.arange(1.0, 9.0)

    def weighted(values, weights):
        return (values * weights).sum() / weights.sum()

    alone = Groups(4).mean(weighted, values, weights)
    assert alone == pytest.approx(np.mean([weighted(*part) for part in zip(np.split(values, 4), np.split(weights, 4))]))
    assert alone != pytest.approx(weighted(values, weights))
    shared = [
        Groups(4, process, 2).mean(weighted, values[process * 4 :][:4], weights[process * 4 :][:4])
        for process in (0, 1)
    ]
    assert sum(shared) == pytest.approx(alone)
    by_name = Groups(4).mean(lambda part: {"a": part.sum(), "b": 1.0}, values)
    assert by_name == {"a": pytest.approx(7.0), "b": 1.0}
    assert Groups(1).mean(weighted, values, weights) == weighted(values, weights)


def test_draws_of_every_own_group():
    assert Groups(4, 1, 2).draws(None, lambda number: f"group {number}") == ["group 2", "group 3"]
    assert Groups(1).draws("recorded", str) == ["recorded"]
    assert Groups(2).draws(PerGroup("ab"), str) == ["a", "b"]
    assert Groups(2).each(lambda values, draws: (values.sum(), draws), np.arange(4), PerGroup("ab")) == [
        (1, "a"),
        (5, "b"),
    ]


def test_partners_are_of_the_same_group():
    assert partners(4).tolist() == [1, 2, 3, 0] and partners(4, 2).tolist() == [1, 0, 3, 2]
    assert partners(1).tolist() == [0] and partners(2, 2).tolist() == [0, 1]
