import numpy as np
import pytest
from scipy import stats

from msd_deploy.study.statistics import gap_closed, metric_of_counts, paired_difference, spread_of


def counts(right: np.ndarray) -> np.ndarray:
    return np.stack([right, np.ones_like(right)], axis=-1).astype(np.int64)


def test_a_spread_is_the_mean_and_sample_deviation_over_seeds() -> None:
    spread = spread_of({2: 0.9, 1: 0.7})
    assert spread.mean == pytest.approx(0.8)
    assert spread.std == pytest.approx(np.std([0.9, 0.7], ddof=1))
    assert list(spread.per_seed) == [1, 2]
    assert spread_of({1: 0.5}).std is None


def test_the_p_value_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    first = {seed: counts(rng.random(400) < 0.8) for seed in range(5)}
    second = {seed: counts(rng.random(400) < 0.7) for seed in range(5)}
    found = paired_difference(first, second)
    assert found is not None
    values = [[c[:, 0].mean() for c in method.values()] for method in (first, second)]
    assert found.mean == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert found.p_value == pytest.approx(stats.ttest_rel(*values).pvalue)
    assert found.low < found.mean < found.high
    assert found.seeds == 5


def test_the_interval_covers_the_truth_about_as_often_as_stated() -> None:
    covered = 0
    for repeat in range(60):
        rng = np.random.default_rng(repeat)
        easy = rng.random(300)
        first, second = (
            {seed: counts(rng.random(300) < np.clip(easy * k, 0, 1)) for seed in range(5)}
            for k in (1.0, 0.8)
        )
        found = paired_difference(first, second)
        assert found is not None
        covered += found.low <= 0.1 <= found.high
    assert covered >= 51  # 95 % of 60 is 57; below 51 has a probability under 1 %


@pytest.mark.parametrize("rows", [40, 400])
def test_the_interval_of_one_seed_is_that_of_scipys_paired_bootstrap(rows: int) -> None:
    """An end of a 95 % interval of n resamples has a standard error of .68 / sqrt(n) of its width.

    That is the density of a normal quantile. With 2,000 here and 10,000 there, 4 of both are .07.
    """
    rng = np.random.default_rng(rows)
    easy = rng.random(rows)
    first, second = (rng.random(rows) < np.clip(easy * k, 0, 1) for k in (1.2, 0.8))
    found = paired_difference({0: counts(first)}, {0: counts(second)})
    assert found is not None
    expected = stats.bootstrap(
        (first, second),
        lambda first, second, axis: first.mean(axis=axis) - second.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    tolerance = 0.07 * (expected.high - expected.low)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=tolerance)


def test_only_shared_seeds_are_compared() -> None:
    one, other = counts(np.array([1, 0])), counts(np.array([0, 0]))
    found = paired_difference({1: one, 2: one}, {2: other, 3: other})
    assert found is not None
    assert (found.seeds, found.mean, found.std, found.p_value) == (1, 0.5, None, None)
    assert paired_difference({1: one}, {2: other}) is None


def test_equal_methods_have_no_p_value_and_an_interval_of_zero() -> None:
    same = {seed: counts(np.array([1, 0, 1])) for seed in range(3)}
    found = paired_difference(same, same)
    assert found is not None
    assert (found.mean, found.p_value, found.low, found.high) == (0.0, None, 0.0, 0.0)


def test_a_spread_of_rounding_alone_has_no_p_value() -> None:
    first, second = (
        {seed: counts(np.arange(100) < right - 9 * seed) for seed in range(3)} for right in (90, 85)
    )
    found = paired_difference(first, second)
    assert found is not None
    assert found.mean == pytest.approx(0.05)
    assert found.p_value is None


def test_nothing_to_find_and_nothing_found_counts_as_right() -> None:
    assert metric_of_counts(np.zeros((3, 2), np.int64)) == 1.0


def test_the_gap_closed_is_a_share_of_the_way_to_the_teacher() -> None:
    assert gap_closed(0.8, 0.7, 0.9) == pytest.approx(0.5)
    assert gap_closed(0.65, 0.7, 0.9) == pytest.approx(-0.25)
    assert gap_closed(0.8, 0.9, 0.9) is None
