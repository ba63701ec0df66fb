"""Properties of the budget of the KV cache."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.admission import BLOCK_TOKENS, KvBudget, Reservation

requests = st.tuples(st.integers(1, 3_000), st.integers(1, 1_000), st.integers(1, 2_000))


@given(asked=st.lists(st.one_of(requests, st.integers(0, 30)), max_size=80), tokens_max=st.integers(16, 5_000))
def test_no_admission_goes_over_the_budget_and_all_comes_back(
    asked: list[tuple[int, int, int] | int], tokens_max: int
) -> None:
    """Requests come and go: nobody begins over the budget but one that is alone, and in the end nothing is reserved."""
    budget, held = KvBudget(tokens_max), list[Reservation]()
    for each in asked:
        if isinstance(each, int):
            if each < len(held):
                held[each].release()
                held[each].release()
                del held[each]
            continue
        prompt, expected, max_tokens = each
        if budget.fits(prompt + expected):
            alone = not held
            held.append(Reservation(budget, prompt, expected, max_tokens))
            assert alone or budget.reserved <= tokens_max
        assert budget.reserved == sum(reservation.tokens for reservation in held)
    for reservation in held:
        reservation.release()
    assert (budget.reserved, budget.free) == (0, tokens_max)


@given(prompt=st.integers(1, 3_000), expected=st.integers(1, 500), outputs=st.lists(st.integers(0, 2_000), max_size=30))
def test_a_growing_answer_is_always_covered_and_never_past_its_bound(
    prompt: int, expected: int, outputs: list[int]
) -> None:
    max_tokens = 1_000
    budget = KvBudget(100)
    reservation = Reservation(budget, prompt, expected, max_tokens)
    for output in sorted(min(output, max_tokens) for output in outputs):
        reservation.grown(output)
        assert prompt + output <= reservation.tokens <= prompt + max_tokens + BLOCK_TOKENS
    reservation.release()
    reservation.grown(max_tokens)
    assert budget.reserved == 0


def test_an_overdrawn_budget_admits_nobody_until_it_is_paid_back() -> None:
    """Given a full budget, when an answer outgrows its reservation, then a request that fitted before does not."""
    budget = KvBudget(320)
    first, second = Reservation(budget, 80, 80, 800), Reservation(budget, 80, 16, 16)
    assert budget.fits(64)

    first.grown(200)

    assert (budget.free, budget.fits(1)) == (0, False)
    first.release()
    assert budget.fits(64)
    second.release()


def test_without_a_known_budget_everything_fits() -> None:
    budget = KvBudget()
    Reservation(budget, 10**9, 1, 1)
    assert budget.fits(10**9)
    assert budget.free is None
