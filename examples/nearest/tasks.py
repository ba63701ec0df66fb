"""Owns the one step of the nearest-passages example that needs no model: the order of passages by cosine."""

from math import fsum, sqrt

from pydantic import BaseModel

from penstock.workflow.task import task


class Ranked(BaseModel):
    """A passage, and the cosine of the angle between its vector and the question's: 1 where they point alike."""

    passage: str
    cosine: float


@task(name="nearest.rank")
def rank(vectors: list[list[float]], passages: list[str]) -> list[Ranked]:
    """The passages, the nearest first. The first vector is the question's, the others the passages' in their order."""
    question, *others = vectors
    ranked = [
        Ranked(passage=passage, cosine=round(_cosine(question, vector), 6))
        for passage, vector in zip(passages, others, strict=True)
    ]
    return sorted(ranked, key=lambda each: -each.cosine)


def _cosine(one: list[float], other: list[float]) -> float:
    lengths = sqrt(fsum(number * number for number in one)) * sqrt(fsum(number * number for number in other))
    return fsum(left * right for left, right in zip(one, other, strict=True)) / lengths if lengths else 0.0
