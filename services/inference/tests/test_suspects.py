"""Who is suspected of killing engines, and who is found guilty."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.messages import ChatMessage
from services.inference.core.suspects import Suspects, fingerprint
from services.inference.tests.scripted import a_request

CROWD = frozenset(f"r{number}" for number in range(20))


def test_what_was_alone_in_two_deaths_is_guilty_at_the_second() -> None:
    suspects = Suspects()
    suspects.died({"bad"})
    assert not suspects.guilty("bad")
    assert suspects.must_be_alone("bad")

    suspects.died({"bad"})

    assert suspects.guilty("bad")


def test_one_in_a_crowd_is_alone_after_the_second_death_and_guilty_at_the_third() -> None:
    suspects = Suspects()
    suspects.died({*CROWD, "bad"})
    assert not suspects.must_be_alone("bad")  # so many come back that running each alone costs more than it says

    suspects.died({*CROWD, "bad"})
    assert not suspects.guilty("bad")
    assert suspects.must_be_alone("bad")

    suspects.died({"bad"})
    assert suspects.guilty("bad")


def test_with_few_suspects_each_is_alone_from_the_first_death_on() -> None:
    suspects = Suspects(alone_max=2)
    suspects.died({"a", "b"})

    assert suspects.must_be_alone("a")
    assert suspects.must_be_alone("b")
    assert not suspects.must_be_alone("nobody")


def test_who_answers_is_acquitted() -> None:
    suspects = Suspects()
    suspects.died({"a"})
    suspects.answered("a")

    assert not suspects
    suspects.died({"a"})
    assert not suspects.guilty("a")


def test_the_oldest_are_forgotten() -> None:
    suspects = Suspects(kept_max=2)
    for name in ("a", "b", "c"):
        suspects.died({name})

    assert not suspects.must_be_alone("a")
    assert suspects.must_be_alone("c")


@given(st.lists(st.frozensets(st.sampled_from(["innocent", "x", "y", "z"]), max_size=4), max_size=12), st.data())
def test_who_never_was_alone_in_a_death_is_never_guilty(deaths: list[frozenset[str]], data: st.DataObject) -> None:
    """Whatever others send, and however often it was there."""
    suspects = Suspects()
    for present in deaths:
        suspects.died(present | {"y"} if present == {"innocent"} else present)
        if data.draw(st.booleans()):
            suspects.answered("z")

    assert not suspects.guilty("innocent")


def test_an_engine_that_dies_empty_makes_nobody_suspect() -> None:
    suspects = Suspects()
    suspects.died(set())

    assert not suspects


def test_a_fingerprint_is_of_what_the_model_sees() -> None:
    one = a_request(1)

    assert fingerprint(one) == fingerprint(a_request(2, run_id="another", tenant="t", seed=4, max_tokens=3))
    assert fingerprint(one) != fingerprint(a_request(1, messages=[ChatMessage(role="user", content="ho")]))
    assert fingerprint(one) != fingerprint(a_request(1, adapter="a"))
    assert fingerprint(one) != fingerprint(a_request(1, regex="a+"))
