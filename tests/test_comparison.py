"The circular-shift null: shifts far enough, inside segments; uniform p-values where there is nothing to find."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.evidence.comparison import circular_shift_null, circular_shift_nulls, fig_null, shiftable, shifted, uniformity


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), least=st.integers(0, 25), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_every_label_moves_far_enough_and_stays_in_its_segment(lengths, least, seed):
    segment = np.repeat(np.arange(len(lengths)), lengths)
    spans = shiftable(segment, least)
    assert [b - a for a, b in spans] == [n for n in lengths if n >= 2*(least+1)]
    at = shifted(np.arange(len(segment)), spans, least, np.random.default_rng(seed)).astype(int)
    assert sorted(at) == list(range(len(segment))) and (segment[at] == segment).all()
    for a, b in spans:
        gap = (at[a:b] - np.arange(a, b)) % (b - a)
        assert len(set(gap)) == 1 and least < gap[0] < b - a - least


def clustered(rng, rows=1200, horizon=10):
    e = rng.standard_normal(rows + horizon - 1)*np.repeat(np.exp(.5*rng.standard_normal(rows//100 + 2)), 100)[:rows + horizon - 1]
    return np.convolve(e, np.ones(horizon), "valid"), np.convolve(rng.standard_normal(rows + 29), np.ones(30), "valid")


def test_p_values_are_uniform_without_skill():
    def p(seed):
        rng = np.random.default_rng(seed)
        y, x = clustered(rng)
        return circular_shift_null(y, x, np.repeat([0, 1], 600), 10, 30, 99, rng)["p"]
    distance, chance = uniformity([p(s) for s in range(150)])
    assert chance > .01 and distance < .13


def test_skill_gets_the_smallest_p_and_a_leak_too():
    rng = np.random.default_rng(0)
    y, x = clustered(rng)
    r = circular_shift_null(y, x + y, np.zeros(1200), 10, 30, 199, rng)
    assert r["p"] == 1/200 and r["score"] > r["null"].max() and r["rows"] == 1200


def test_short_segments_are_left_out_and_counted():
    rng = np.random.default_rng(0)
    y, x = clustered(rng)
    r = circular_shift_null(y, x, np.repeat([0, 1], [1150, 50]), 10, 30, 19, rng)
    assert (r["rows"], r["left_out"]) == (1150, 50)
    assert r["score"] == pytest.approx(np.corrcoef(y[:1150], x[:1150])[0, 1])


@pytest.mark.parametrize("n", [1, 63, 64, 130])
def test_many_models_at_once_get_what_each_gets_alone(n):
    rng = np.random.default_rng(3)
    y, x = clustered(rng)
    y[[3, 700]] = np.nan
    segment, models = np.repeat([0, 1, 2], [650, 500, 50]), dict(luck=x, skill=x + np.nan_to_num(y), wild=1e6*x + 5)
    got = circular_shift_nulls(y, models | dict(zero=0*x), segment, 10, 30, n, np.random.default_rng(4))
    for m, v in models.items():
        one = circular_shift_null(y, v, segment, 10, 30, n, np.random.default_rng(4))
        assert np.allclose(got[m].pop("null"), one.pop("null")) and got[m] == one
    assert np.isnan(got["zero"]["null"]).all() and np.isnan(got["zero"]["p"]) and got["zero"]["rows"] == got["luck"]["rows"]


def test_many_models_on_a_recording_too_short_to_shift():
    y, x = np.random.default_rng(0).normal(0, 1, (2, 40))
    r = circular_shift_nulls(y, dict(a=x, b=-x), np.zeros(40), 10, 30, 9, np.random.default_rng(0))
    assert all((r[m]["rows"], r[m]["left_out"]) == (0, 40) and np.isnan(r[m]["p"]) for m in "ab")


def test_the_picture_shows_each_model_s_score_on_its_row():
    rng = np.random.default_rng(0)
    y, x = clustered(rng)
    r = circular_shift_nulls(y, dict(tcn=x + y, ridge=x), np.zeros(1200), 10, 30, 29, rng)
    fig, t = fig_null({("S", m, 10): v for m, v in r.items()})
    ax = fig.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ridge on features", "TCN"]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if line.get_marker() not in ("None", None, "")}
    assert dots == {-.12: pytest.approx(r["ridge"]["score"]), .88: pytest.approx(r["tcn"]["score"])} and len(t) == 2


def test_wrong_input_gets_a_sentence():
    with pytest.raises(ParameterError, match="same rows"): circular_shift_null([1.], [1., 2.], [0], 1, 1, 1, np.random.default_rng(0))
    with pytest.raises(ParameterError, match="p-values must be given"): uniformity([])
