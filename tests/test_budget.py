"""The verdict of a budget in all states of a training, and when it is evaluated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest.estimate import Estimate
from energyest.tracking.cost import watch
from energyest.tracking.cost.budget import Budget, Limit
from energyest.tracking.cost.verdict import Level, Standing, judge, rows_that_fit
from energyest.tracking.cost.watch import BudgetWatch

KWH_J = 3.6e6
joules = st.floats(0, 1e12)
joules_or_nan = joules | st.just(math.nan)


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    amount = draw(st.floats(1e-6, 1e5))
    if draw(st.booleans()):
        return Limit(amount, "kWh", KWH_J)
    return Limit(amount, "hours", 3600.0, is_duration=True)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    projection = None
    if draw(st.booleans()):
        lower, middle, upper = sorted(draw(st.tuples(joules, joules, joules)))
        has_interval = draw(st.booleans())
        ends = (lower, upper) if has_interval else (None, None)
        projection = Estimate(
            middle,
            *ends,
            confidence=0.9 if has_interval else None,
            duration_s=middle,
            duration_lower_s=ends[0],
            duration_upper_s=ends[1],
            epochs=draw(st.floats(1, 1000)),
        )
    return Standing(
        draw(st.integers(0, 1000)),
        draw(joules_or_nan),
        draw(joules_or_nan),
        projection,
        draw(st.booleans()),
    )


def spent_of(limit: Limit, at: Standing) -> float:
    return at.duration_s if limit.is_duration else at.energy_J


@given(limits(), standings())
def test_what_is_exceeded_is_known(limit: Limit, at: Standing) -> None:
    verdict, spent = judge(limit, at), spent_of(limit, at)
    assert bool(verdict.reason) == (verdict.level > Level.WITHIN)
    if verdict.exceeds:
        assert math.isfinite(spent)
    if verdict.level is Level.SPENT:
        assert spent >= limit.most
    if verdict.level is Level.WILL:
        assert at.is_stable
        assert at.projection is not None
        assert at.projection.lower_J is not None
        assert at.projection.lower_J > limit.most
    if math.isnan(spent):
        assert verdict.level in (Level.UNKNOWN if at.rows else Level.WITHIN, Level.MAY)
        assert "not known" in verdict.reason or verdict.level is Level.WITHIN


@given(limits(), standings(), st.floats(1, 1000))
def test_a_larger_budget_is_never_worse(limit: Limit, at: Standing, times: float) -> None:
    larger = Limit(limit.amount * times, limit.unit, limit.size, limit.is_duration)
    assert judge(larger, at).level <= judge(limit, at).level


@given(limits(), standings(), st.floats(1, 1000))
def test_spending_more_is_never_better(limit: Limit, at: Standing, times: float) -> None:
    more = Standing(
        at.rows, at.energy_J * times, at.duration_s * times, at.projection, at.is_stable
    )
    assert judge(limit, more).level >= judge(limit, at).level


@given(limits(), standings())
def test_rows_that_fit_are_those_that_are_there_and_more(limit: Limit, at: Standing) -> None:
    rows = rows_that_fit(limit, at)
    assert rows is None or rows >= at.rows
    if math.isnan(spent_of(limit, at)):
        assert rows is None


@given(st.integers(1, 100), st.integers(1, 1000), st.floats(1, 1e6), st.floats(0.1, 20))
def test_equal_rows_fit_as_often_as_their_energy_does(
    done: int, to_come: int, a_row_J: float, times: float
) -> None:
    total_J = (done + to_come) * a_row_J
    at = Standing(done, done * a_row_J, 0.0, Estimate(total_J, epochs=done + to_come))
    limit = Limit(total_J * times / KWH_J, "kWh", KWH_J)
    fit = rows_that_fit(limit, at)
    assert fit == pytest.approx(max(done, (done + to_come) * times))


def test_a_sentence_says_it_all() -> None:
    projection = Estimate(3.6e6, 3.3e6, 4.2e6, 0.9, epochs=100)
    at = Standing(10, 0.36e6, 60.0, projection, is_stable=True)
    assert judge(Limit(0.5, "kWh", KWH_J), at).reason == (
        "the budget of 0.5 kWh will be exceeded: projected 0.9167 kWh to 1.167 kWh; about 50 "
        "of 100 epochs fit"
    )
    assert judge(Limit(1.1, "kWh", KWH_J), at).reason.startswith("the budget of 1.1 kWh may be")
    assert judge(Limit(0.1, "kWh", KWH_J), at).reason == (
        "the budget of 0.1 kWh is spent: 0.1 kWh after 10 epochs"
    )
    assert judge(Limit(2, "kWh", KWH_J), at).level is Level.WITHIN


def test_kilograms_are_energy_times_pue_times_intensity() -> None:
    budget = Budget.of(kWh=None, kg=0.6, hours=None, on_exceed="warn", intensity=300.0, pue=2.0)
    (limit,) = budget.limits
    assert limit.most == pytest.approx(KWH_J)
    clean = Budget.of(kWh=None, kg=0.6, hours=None, on_exceed="warn", intensity=0.0, pue=1.0)
    assert clean.limits[0].most == math.inf


# ---------------------------------------------------------------------- several processes


class Ranks:
    """Two processes that look at the same batches; what rank 0 has found reaches the other."""

    def __init__(self, standing_of: dict[int, float], budget_J: float) -> None:
        budget = Budget((Limit(budget_J / KWH_J, "kWh", KWH_J),), stops=True)
        self.calls = {0: 0, 1: 0}
        self.told: list[dict[str, object]] = []
        self._look = ("", 1)
        self.batch = 0

        def standing() -> Standing:
            return Standing(0, standing_of[self.batch], 0.0)

        def send(look: tuple[str, int]) -> tuple[str, int]:
            self.calls[0] += 1
            self._look = look
            return look

        def receive(look: tuple[str, int]) -> tuple[str, int]:
            self.calls[1] += 1
            return self._look

        self.watches = [
            BudgetWatch(budget, standing, self.told.append, agree=send),
            BudgetWatch(budget, standing, self.told.append, agree=receive, is_first_rank=False),
        ]

    def train(self, batches: int) -> list[list[bool]]:
        """For each batch, what each rank hears; both have to look at the same ones."""
        heard = []
        for self.batch in range(batches):
            heard.append([one.after_batch() for one in self.watches])
            assert self.calls[0] == self.calls[1]
        return heard


def test_all_ranks_stop_at_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.0)
    ranks = Ranks({n: float(n) for n in range(20)}, budget_J=7.0)
    heard = ranks.train(20)
    assert heard == 7 * [[False, False]] + 13 * [[True, True]]
    assert len(ranks.told) == 2  # the budget, and that it is spent: rank 0 alone says so


def test_ranks_look_seldom_and_together_where_batches_are_short() -> None:
    ranks = Ranks(dict.fromkeys(range(5000), 0.0), budget_J=7.0)
    ranks.train(5000)
    assert ranks.calls[0] < 60


def test_a_decision_that_fails_leaves_no_rank_waiting(caplog: pytest.LogCaptureFixture) -> None:
    ranks = Ranks({}, budget_J=7.0)  # rank 0 cannot be told where it stands
    assert ranks.train(3) == 3 * [[False, False]]
    assert ranks.calls[0] > 0
    assert "failed; training continues" in caplog.text


def test_a_warning_alone_asks_no_other_rank() -> None:
    def agree(look: tuple[str, int]) -> tuple[str, int]:
        raise AssertionError("a collective call that nobody has asked for")

    budget = Budget((Limit(1.0, "kWh", KWH_J),), stops=False)
    one = BudgetWatch(budget, lambda: Standing(1, 2 * KWH_J, 0.0), lambda _: None, agree=agree)
    assert not one.after_epoch()
    assert "is spent" in one.exceeded


def test_after_the_last_epoch_nothing_is_stopped() -> None:
    told: list[dict[str, object]] = []
    budget = Budget((Limit(1.0, "kWh", KWH_J),), stops=True)
    done = Standing(5, 2 * KWH_J, 0.0, Estimate(2 * KWH_J, epochs=5))
    assert not BudgetWatch(budget, lambda: done, told.append).after_epoch()
    assert told[-1]["stopped"] is None
