"The dry run: hours worked out by hand from given speeds, what it says of them, what it refuses, and that it runs."
import os

import pandas as pd
import pytest

from lobresearch import cli
from lobresearch.errors import LobError
from lobresearch.forecast import estimate as E

PARAMS = """grid: {levels: 2}
labels: {horizons: [10, 60]}
forecast: {per_model: {tcn: {train: {thin: 4}, net: {depth: 2}}}}
net: {inputs: book+features, channels: 4, depth: 1, trunk: 4, hidden: 4, window: 10}
train: {epochs: 4, patience: 2, stretches: 2, targets: 32, target: raw, ema_alpha: 0.2, precision: fp32}
"""


def speeds(**over):
    base = dict(model=["fast", "slow"], prepared=[86_400., 86_400.], trained=[10_000., 500.], labels=[10_000., 500.], forecast=[50_000., 5_000.],
                share=[.9, .9], memory=[600., 800.], row=[320, 320], weights=[1_000_000, 250_000], precision=["fp32", "fp32"])
    return pd.DataFrame(base | over)


def test_hours_by_hand():
    """Ten days are 864,000 rows: 414,720 trained on, 138,240 validating, 276,480 forecast in the end.
    fast: 10 + 20*(41.472 + 2.7648) + 5.5296 = 900.2656 s; slow: 10 + 20*(829.44 + 27.648) + 55.296 = 17,207.056 s; 30 symbols, 2 workers"""
    t = E.reckon(speeds(), symbols=30, days=10, epochs=20, workers=2)
    assert t.minutes.tolist() == pytest.approx([900.2656/60, 17_207.056/60])
    assert t["items"].tolist() == [30, 30]
    assert t.hours.tolist() == pytest.approx([900.2656*15/3600, 17_207.056*15/3600])
    assert E.total_hours(t) == pytest.approx((900.2656 + 17_207.056)*15/3600)  # 75.4 h


def test_twice_the_seeds_twice_the_hours_and_no_more_workers_than_items():
    one, two = (E.reckon(speeds(), 3, 1, 5, 2, seeds=s) for s in (1, 2))
    assert (two.hours/one.hours).tolist() == pytest.approx([2, 2]) and two.minutes.equals(one.minutes)
    assert E.total_hours(E.reckon(speeds(), 1, 1, 5, 8)) == pytest.approx(one.minutes.max()/60)


def test_memory_and_disk_by_hand():
    memory, disk = E.room(speeds(), symbols=2, days=1, workers=2, horizons=2)
    assert memory.tolist() == pytest.approx([(600*2**20 + 86_400*60)/1e9, (800*2**20 + 86_400*60)/1e9])
    # two files of inputs; .32 of the rows forecast by two models for two symbols and horizons, 12 bytes each; four bytes a weight
    assert disk*1e9 == pytest.approx(2*86_400*320 + .32*86_400*2*2*2*12 + 2*1_250_000*4)


@pytest.mark.parametrize(("days", "says"), [(1, "That fits a night of 8 h."),
                                            (10, "not fit a night of 8 h: it takes 9.4 nights, or about 19 workers as fast as these, or 2 epochs instead of 20.")])
def test_the_sentence_draws_the_line_at_a_night(days, says):
    table = E.reckon(speeds(), 30, days, 20, 2)
    table["memory"], disk = E.room(table, 30, days, 2)
    text = E.sentences(table, 30, days, 20, 2, 2, disk)
    assert f"at least {days*86_400*640/1e9:.1f} GB more" in text  # four bytes a number in memory, two on disk
    assert says in text and f"({30*days*86_400:,} rows)" in text and "60 items, 20 epochs each" in text and "asked for" not in text
    assert "64 workers were asked for, but 2 can work at a time here; 2 are reckoned with." in E.sentences(table, 30, days, 20, 64, 2, disk)


def test_a_busy_machine_is_not_believed():
    "An epoch of both models takes 3.756 h, the rest .337 h: 75.4 h for 20 epochs; at half a core each 37.7 h, and 7.7 h for 4"
    table = E.reckon(speeds(), 30, 10, 20, 2)
    table["memory"], disk = E.room(table, 30, 10, 2)
    assert "75.4 h." in E.sentences(table, 30, 10, 20, 2, 2, disk) and "busy" not in E.sentences(table, 30, 10, 20, 2, 2, disk)
    text = E.sentences(table.assign(share=.5), 30, 10, 20, 2, 2, disk)
    assert "75.4 h as busy as the machine is now (each worker had 50% of a core), about 37.7 h left to itself. That does not fit" in text
    assert "it takes 4.7 nights, or about 10 workers as fast as these, or 4 epochs instead of 20." in text
    assert E._time(.5) == "30.0 min"


def test_a_model_gets_what_params_say_of_it_alone():
    net, train, per = dict(inputs="book", depth=4), dict(epochs=4, target="ema", ema_alpha=.2), dict(tcn=dict(train=dict(thin=4), net=dict(depth=2)))
    assert E._settings("tcn", net, train, per) == dict(net=dict(inputs="book", depth=2), train=dict(epochs=4, thin=4))
    assert E._settings("lstm", net, train, per) == dict(net=net, train=dict(epochs=4))


@pytest.mark.parametrize(("wrong", "says"), [
    (dict(models=("tcn", "ridge")), "There is no network ridge; there are .*deeplob_tcn"), (dict(models=()), "at least one"),
    (dict(models=("tcn", "tcn")), "Name each network once"), (dict(workers=0), "got workers 0"), (dict(symbols=-3), "got symbols -3"),
    (dict(days=2.5), "got days 2.5"), (dict(epochs=0, seeds=0), "got epochs 0, seeds 0"), (dict(cluster="dusk"), "cluster must be"),
    (dict(models=("tcn",), workers=1, train=dict(stretches=100), levels=2), "and a step takes 100; take fewer"),
])
def test_slips_get_a_sentence(wrong, says):
    with pytest.raises(LobError, match=says): E.estimate(**dict(dict(seconds=.01, net=dict(inputs="book")), **wrong))


def test_the_command_prints_the_table_and_the_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path/"params.yaml").write_text(PARAMS)
    (tmp_path/"settings.ini").write_text("[DEFAULT]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(E.estimate, "__defaults__", (*E.estimate.__defaults__[:-1], .02))  # seconds a network
    size = ["--symbols", "3", "--days", "1", "--epochs", "2", "--workers", "1"]
    assert cli.main(["estimate", *size, "--models", "tcn", "deeplob_tcn,lstm", "--precision", "auto"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == "model labels/s forecasts/s minutes an item items hours, all items memory, GB".split()
    assert [line.split()[0] for line in out[1:4]] == ["tcn", "deeplob_tcn", "lstm"]
    assert "3 symbols of 1 days (259,200 rows), 3 networks, 9 items, 2 epochs each" in out[4]
    assert cli.main(["estimate", "--models", "tnc"]) == 1 and "There is no network tnc; there are" in capsys.readouterr().err
    assert cli.main(["estimate", "--workers", "0"]) == 1 and "got workers 0" in capsys.readouterr().err
    (tmp_path/"params.yaml").write_text(PARAMS.replace("net:", "nets:"))
    assert cli.main(["estimate"]) == 1 and "no section net" in capsys.readouterr().err


def test_workers_are_timed_at_the_same_time(monkeypatch):
    asked = []
    def fake(fn, items, workers, what, cluster):
        asked.append((workers, [(i["model"], i["copy"]) for i in items]))
        return [dict(speeds().iloc[0], model=i["model"], trained=1000.*(1 + i["copy"])) for i in items]
    monkeypatch.setattr(E, "map_items", fake)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    table, text = E.estimate(4, 1, ("tcn", "lstm"), 1, 5)
    assert asked == [(3, [(m, k) for m in ("tcn", "lstm") for k in range(3)])]
    assert table.trained.tolist() == [2000., 2000.] and "5 workers were asked for, but 3 can work at a time here" in text
    assert table.hours[0] == pytest.approx(table.minutes[0]/60*4/3)
    asked.clear()
    for cluster, n in (("inline", 1), ("tcp://far:8786", 5)):
        E.estimate(4, 1, ("tcn",), 1, 5, cluster=cluster)
        assert asked.pop()[0] == n
