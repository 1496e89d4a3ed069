import math
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lobresearch.errors import ParameterError, TooShortError
from lobresearch.trading.accounting import PARTS
from lobresearch.trading.measures import COSTS, DAY, break_even, join
from lobresearch.trading.tear_sheet import (FEES, fee_table, fig_equity, fig_fees, fig_hours, fig_rolling, fig_underwater, hour_table, rolling_sharpe)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def record(rows=7200, every=2, edge=.6, seed=0, start=1):
    r = np.random.default_rng(seed)
    p = (np.arange(rows)//60 % every == 0).astype(float); p[-1] = 0
    side = abs(np.diff(p, prepend=0.))
    t = pd.DataFrame(dict(position=p, gross=np.r_[0, p[:-1]]*(edge/60 + .3*r.standard_normal(rows)), spread=-.05*side, impact=0., fee=-.1*side, funding=0.),
                     index=pd.Index((start + np.arange(rows))*1_000_000, name="ts"))
    return t.assign(net=t[list(PARTS)].sum(axis=1), traded=1e4*side)


def flat(rows=7200):
    return record(rows).assign(position=0., traded=0., net=0., **{p: 0. for p in PARTS})


def test_fees_run_from_a_rebate_to_ten():
    assert FEES[0] == -.25 and FEES[-1] == 10 and {0., .5, 1., 2., 5.} <= set(FEES) and (np.diff(FEES) > 0).all()


def test_curves_are_lines_through_the_break_even_fee():
    led = record()
    curves, even = fee_table({"a": led}, n=50, block=5)
    b = break_even(led, 5, 50)
    assert even.loc["a"].to_dict() == pytest.approx(b)
    assert np.diff(curves.net)/np.diff(curves.fee) == pytest.approx(-b["traded"]*DAY/7200*np.ones(len(FEES) - 1))
    assert curves.net.to_numpy() == pytest.approx((b["fee"] - curves.fee.to_numpy())*b["traded"]*DAY/7200)
    assert ((curves.low <= curves.net) & (curves.net <= curves.high)).all()


def test_headline_figure_draws_a_line_and_a_mark_a_record():
    records = {"often": record(), "seldom": record(every=30, seed=1), "flat": flat()}
    fig, t = fig_fees(records, marks={"taker": 5.}, n=30, block=5)
    ax, low = fig.axes
    assert t.name.unique().tolist() == list(records) and [v.get_text() for v in low.get_yticklabels()] == list(records)
    assert [v.get_text() for v in ax.get_legend().get_texts()] == list(records)
    assert any("never trades" in v.get_text() for v in low.texts) and any(v.get_text() == "taker" for v in ax.texts)
    for k in ("often", "seldom"):
        x, y = next(li for li in ax.lines if li.get_label() == k).get_data()
        assert x == pytest.approx(FEES) and y == pytest.approx(t.net[t.name == k])
    marks = [li.get_xdata()[0] for li in low.lines if len(li.get_xdata()) == 1]
    assert marks == pytest.approx([break_even(records[k], 5, 30)["fee"] for k in ("often", "seldom")])
    fig.canvas.draw()


def test_break_even_beyond_the_axis_is_an_arrow_at_its_edge():
    fig, _ = fig_fees({"poor": record(edge=-5.), "rich": record(edge=100.)}, n=20, block=5)
    marks = [li for li in fig.axes[1].lines if len(li.get_xdata()) == 1]
    assert [(m.get_xdata()[0], m.get_marker()) for m in marks] == [(-.25, "<"), (10, ">")]
    assert "−" in fig.axes[1].texts[0].get_text()


def test_only_losses_and_only_flat_can_be_drawn():
    for r in ({"poor": record(edge=-50.)}, {"flat": flat()}, {"short": record(120)}): fig_fees(r, n=5)[0].canvas.draw()


def test_equity_bands_are_the_costs():
    led = record()
    fig, t = fig_equity(led)
    assert t[["gross", *COSTS]].sum(axis=1).to_numpy() == pytest.approx(t.net.to_numpy()) and t.net.iloc[-1] == pytest.approx(led.net.sum())
    words = [v.get_text() for v in fig.axes[0].get_legend().get_texts()]
    assert words[0] == "gross" and words[1].startswith("spread −") and words[2].startswith("fee −") and len(words) == 4  # costs of zero are left out


def test_underwater_finds_the_deepest_point():
    led = record(20_000)
    fig, t = fig_underwater(led)
    e = np.r_[0, led.net.cumsum()]
    assert t.drawdown.min() == pytest.approx((e - np.maximum.accumulate(e)).min()) and t.drawdown.max() <= 0 and len(t) <= 1501


def test_time_between_paths_is_left_out():
    led = join([record(600), record(600, start=90_000)])
    assert fig_equity(led)[1].hours.iloc[-1] == pytest.approx(1200/3600)


def test_rolling_sharpe_by_hand():
    led = pd.DataFrame(dict(position=1., gross=[1., 2, 3, 3], spread=0., impact=0., fee=0., funding=0., net=[1., 2, 3, 3], traded=0.),
                       pd.Index(np.arange(1, 5)*60_000_000, name="ts"))
    r = rolling_sharpe(led, 3)
    year = math.sqrt(525_600)
    assert r.sharpe.iloc[2] == pytest.approx(2*year) and r.high.iloc[2] == pytest.approx((2 + 1.96*math.sqrt((1 + 2)/3))*year)
    assert rolling_sharpe(join([led[:2], led[2:]]), 3).isna().all().all()
    assert fig_rolling(record(7200), 20)[1].hours.iloc[-1] == pytest.approx(2)


def test_rolling_sharpe_of_nothing_is_missing():
    assert rolling_sharpe(flat(), 10).isna().all().all()
    fig_rolling(flat(), 10)[0].canvas.draw()


def test_hours():
    led = record(2*3600, start=1 + 23*3600)
    h = hour_table(led)
    assert h.shape == (2, 24) and h.notna().sum().sum() == 2
    assert h.iloc[0, 23] == pytest.approx(led.net[:3600].sum()) and h.iloc[1, 0] == pytest.approx(led.net[3600:].sum())
    assert hour_table(record(1800)).iloc[0, 0] == pytest.approx(2*record(1800).net.sum())  # bps an hour, though half was recorded
    fig, t = fig_hours(led)
    assert sum(bool(v.get_text()) for v in fig.axes[0].texts) == 2
    fig_hours(flat())[0].canvas.draw()


@pytest.mark.parametrize("call, error, says", [
    (lambda: fig_fees({}), ParameterError, "no record"),
    (lambda: rolling_sharpe(record(120), 10), TooShortError, "too few for a window"),
    (lambda: rolling_sharpe(record(), 2), ParameterError, "three periods"),
    (lambda: fig_equity(record().drop(columns="fee")), ParameterError, "no column fee")])
def test_wrong_input_gets_a_sentence(call, error, says):
    with pytest.raises(error, match=says): call()
