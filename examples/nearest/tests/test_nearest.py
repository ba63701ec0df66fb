"""Owns the promises of the nearest-passages example: its order, and that its workflow fits its task."""

from pathlib import Path

import pytest

from examples.nearest.tasks import Ranked, rank
from penstock.workflow.notation import load
from penstock.workflow.task import signatures

WORKFLOW = Path(__file__).parents[1] / "nearest.yaml"


def test_what_points_as_the_question_does_comes_first() -> None:
    vectors = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]

    assert rank(vectors, ["across", "along", "nowhere", "against"]) == [
        Ranked(passage="along", cosine=1.0),
        Ranked(passage="across", cosine=0.0),
        Ranked(passage="nowhere", cosine=0.0),
        Ranked(passage="against", cosine=-1.0),
    ]


def test_a_vector_too_few_is_said() -> None:
    with pytest.raises(ValueError, match="zip"):
        rank([[1.0]], ["a"])


def test_the_workflow_fits_the_task() -> None:
    assert load(WORKFLOW.read_text(), WORKFLOW.parent, signatures()).name == "nearest"
