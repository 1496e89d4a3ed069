"Training: stretches that stay where they may, the same bytes from the same seed, killed or not, and a signal that is found."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lobresearch.errors import LobError, ParameterError, TooShortError
from lobresearch.forecast import training
from lobresearch.forecast.nets import NETS, build
from lobresearch.forecast.recurrent import window_lstm
from lobresearch.forecast.rows import Rows, gather, pool, prepare, runs, stretches
from lobresearch.forecast.training import Run, epoch, fit, huber, pick_precision, predict_dense, step, validate
from lobresearch.market.features import random_grid
from lobresearch.market.splits import chronological

torch.set_num_threads(1)
SMALL = dict(levels=2, trunk=4, channels=8)


def planted(seconds=3000, seed=0, strength=1., breaks=(1000,)):
    "Order flow of one second moves the mid over the next five; with strength 0 there is nothing to find"
    grid = random_grid(seconds, np.random.default_rng(seed), levels=2, breaks=breaks)
    push = strength*.1*np.convolve(grid["ofi_1"], np.r_[0, np.ones(5)], "full")[:seconds].cumsum()
    px = [c for c in grid if "_px_" in c]
    grid[px] = grid[px].to_numpy() + push[:, None]
    return grid, chronological(grid.index, horizon=10, lookback=143)


@pytest.fixture(scope="module")
def rows(): return prepare(*planted(), horizons=(5, 10), levels=2)


def network(rows, seed=1):
    torch.manual_seed(seed)
    return build("deeplob_tcn", dict(pages=rows.x.shape[2], **SMALL))


def train(rows, checkpoint=None, epochs=3, tell=lambda text: None, **kw):
    net = network(rows)
    return net, fit(net, rows, 1, checkpoint, tell, epochs=epochs, targets=64, **kw)


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5), holes=st.lists(st.integers(0, 299), max_size=5),
       context=st.integers(0, 20), targets=st.integers(1, 30), data=st.data())
@settings(max_examples=150, deadline=None)
def test_stretches_cover_each_usable_row_once_and_nothing_else(lengths, holes, context, targets, data):
    segment = np.repeat(np.arange(len(lengths)), lengths)
    ok = ~np.isin(np.arange(len(segment)), holes)
    offset = data.draw(st.integers(0, targets-1))
    seen = np.zeros(len(segment), int)
    for a, b in stretches(segment, ok, context, targets, offset):
        assert 0 < b-a-context <= targets and ok[a:b].all() and len(set(segment[a:b])) == 1
        seen[a+context:b] += 1
    age = np.zeros(len(segment), int)  # usable rows in a row, in one segment, before this one
    for i in range(1, len(segment)): age[i] = age[i-1]+1 if ok[i] and ok[i-1] and segment[i] == segment[i-1] else 0
    assert np.array_equal(seen, (ok & (age >= context)).astype(int))
    assert sum(b-a for a, b in runs(segment, ok)) == ok.sum()


def test_a_batch_holds_the_right_seconds_and_strikes_out_what_lies_beyond():
    n = 12
    x = torch.arange(n, dtype=torch.float32)[:, None, None].expand(n, 4, 1)
    rows = Rows(None, None, None, x, torch.arange(n, dtype=torch.float32)[:, None], None, None, None)
    xb, yb = gather(rows, np.array([[0, 6], [5, 9]]), 2)
    assert xb.shape == (2, 1, 6, 4) and xb[1, 0, :, 0].tolist() == [5, 6, 7, 8, 8, 8]
    assert yb[0, :, 0].tolist() == [2, 3, 4, 5] and yb[1, :2, 0].tolist() == [7, 8] and yb[1, 2:].isnan().all()


def test_padding_behind_a_stretch_changes_nothing_in_it(rows):
    net = network(rows).eval()
    torch.nn.init.normal_(net.head.weight)
    both, _ = gather(rows, np.array([[0, 200], [300, 390]]), 82)
    alone, _ = gather(rows, np.array([[300, 390]]), 82)
    with torch.no_grad(): assert torch.allclose(net(both)[1, :90], net(alone)[0], atol=1e-5)


def test_targets_are_training_rows_with_training_context_only(rows):
    train_rows = rows.role == "train"
    for a, b in stretches(rows.segment, train_rows, 82, 64, 17): assert train_rows[a:b].all()


def test_huber_is_torch_s_over_the_labels_there_are():
    rng = torch.Generator().manual_seed(0)
    p, y = torch.randn(50, 2, generator=rng)*3, torch.randn(50, 2, generator=rng)
    assert torch.isclose(huber(p, y), torch.nn.HuberLoss()(p, y))
    y[::3] = torch.nan
    keep = ~y.isnan()
    assert torch.isclose(huber(p, y), torch.nn.HuberLoss()(p[keep], y[keep]))
    assert huber(p, y*torch.nan) == 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(rows):
    (a, ha), (b, hb) = train(rows), train(rows)
    assert ha == hb and same(a, b)
    net = network(rows)
    assert fit(net, rows, 2, epochs=3, targets=64) != ha


def test_global_generators_are_left_alone(rows):
    net = network(rows)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fit(net, rows, 1, epochs=1, targets=64)
    assert torch.equal(before, torch.random.get_rng_state())


class Killed(Exception): pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_run_ends_as_if_it_had_not_been(rows, tmp_path, after):
    def kill(text):
        if text.startswith(f"epoch {after}/"): raise Killed
    want, history = train(rows, epochs=4)
    with pytest.raises(Killed): train(rows, tmp_path/"c.safetensors", epochs=4, tell=kill)
    net, h = train(rows, tmp_path/"c.safetensors", epochs=4)
    assert h == history and same(net, want)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]  # nothing half-written is left


def test_a_checkpoint_of_another_run_is_refused(rows, tmp_path):
    train(rows, tmp_path/"c.safetensors", epochs=1)
    with pytest.raises(ParameterError, match="belongs to another run"): train(rows, tmp_path/"c.safetensors", epochs=2)


def test_the_best_epoch_by_validation_is_kept_and_patience_ends_the_run(rows):
    net, h = train(rows, epochs=12, patience=2, lr=.02)
    best = int(np.argmax([e["correlation"] for e in h]))
    assert len(h) == min(12, best+1+2)
    p, ok = predict_dense(net, rows.x, rows.segment), rows.role == "valid"
    y = rows.y.numpy()
    keep = ok & np.isfinite(y).all(1) & np.isfinite(p).all(1)
    got = np.mean([np.corrcoef(p[keep, k], y[keep, k])[0, 1] for k in range(2)])
    assert got == pytest.approx(h[best]["correlation"], abs=1e-3)


def test_the_learning_rate_halves_on_a_plateau(rows):
    _, h = train(rows, epochs=8, patience=8, lr=.05)
    score, wait, lr = -np.inf, 0, .05
    for e in h:
        assert e["lr"] == pytest.approx(lr)
        score, wait = (e["correlation"], 0) if e["correlation"] > score else (score, wait+1)
        if wait and wait % 2 == 0: lr /= 2


def test_a_planted_signal_is_found_and_nothing_is_found_where_there_is_nothing():
    scores = {}
    for strength in (1., 0.):
        rows = prepare(*planted(6000, 3, strength), horizons=(5, 10), levels=2)
        net, _ = train(rows, epochs=3, lr=3e-3)
        p, ok, y = predict_dense(net, rows.x, rows.segment), rows.role == "test", rows.y.numpy()
        keep = ok & np.isfinite(p[:, 0]) & np.isfinite(y[:, 0])
        scores[strength] = np.corrcoef(p[keep, 0], y[keep, 0])[0, 1]
    assert scores[1.] > .5 and abs(scores[0.]) < .2


def test_bf16_is_a_choice_and_stays_close(rows):
    a, _ = train(rows, epochs=1)
    b, _ = train(rows, epochs=1, precision="bf16")
    pa, pb = (predict_dense(n, rows.x, rows.segment) for n in (a, b))
    ok = np.isfinite(pa[:, 0])
    assert np.corrcoef(pa[ok, 0], pb[ok, 0])[0, 1] > .9 and not np.array_equal(pa[ok], pb[ok])


def test_training_labels_alone_set_the_scale():
    grid, split = planted()
    rows = prepare(grid, split, (5, 10), levels=2)
    y = rows.y.numpy()[rows.role == "train"]
    assert np.nanstd(y, 0) == pytest.approx([1, 1], abs=1e-5)


def test_what_is_too_short_or_unknown_is_refused_with_a_sentence(rows):
    grid, split = planted(400, breaks=())
    with pytest.raises(TooShortError, match="memory of 82 s"):
        short = prepare(grid, pd.DataFrame(dict(ts=grid.index[:60], role="train")), (5,), levels=2)
        Run(network(short), short, 0)
    with pytest.raises(ParameterError, match="no parameter learning_rate"): Run(network(rows), rows, 0, learning_rate=1)
    with pytest.raises(ParameterError, match="select must be"): Run(network(rows), rows, 0, select="test")
    with pytest.raises(TooShortError, match="No validation row"): epoch(Run(network(rows), rows._replace(role=np.where(rows.role == "valid", "", rows.role)), 0))


def test_averaged_weights_follow_by_hand(rows):
    "After the first step the memory is 2/11: the mean is 2/11 of the first weights and 9/11 of the new ones"
    net = network(rows)
    first = net.head.bias.detach().clone(), net.eye.trunk[0].weight.detach().clone()
    run = Run(net, rows, 1, average=.99)
    net.train()
    step(run, stretches(rows.segment, run.train, run.context, 64)[:2])
    for w0, w1, mean in zip(first, (net.head.bias, net.eye.trunk[0].weight), (run.mean.head.bias, run.mean.eye.trunk[0].weight)):
        assert torch.allclose(mean, 2/11*w0 + 9/11*w1, atol=1e-7)
    plain = Run(network(rows), rows, 1, average=0)
    assert plain.mean is plain.net
    with pytest.raises(ParameterError, match="average must lie"): Run(network(rows), rows, 1, average=1)


def test_weights_count_horizons_as_they_say():
    "Losses .125 and 2.5: weighted 3 to 1 they are .71875; a horizon without a label costs nothing"
    p, y = torch.tensor([[.5, 3.], [.5, 3.]]), torch.zeros(2, 2)
    assert huber(p, y, (3, 1)) == pytest.approx((3*.125 + 2.5)/4)
    assert huber(p, y, (1, 0)) == pytest.approx(.125) and huber(p, y, (2, 2)) == pytest.approx(float(huber(p, y)))
    y[:, 1] = torch.nan
    assert huber(p, y, (3, 1)) == pytest.approx(3*.125/4)


def test_a_horizon_of_weight_zero_teaches_nothing(rows):
    junk = rows._replace(y=torch.stack([rows.y[:, 0], rows.y[:, 1]*torch.where(torch.from_numpy(rows.role == "train"), -7., 1.)], 1))
    (a, _), (b, _) = (train(r, epochs=1, weights=[1, 0]) for r in (rows, junk))
    assert same(a, b)
    assert not same(a, train(rows, epochs=1)[0]) and not same(train(rows, epochs=1)[0], train(junk, epochs=1)[0])


def test_training_follows_the_target_and_validation_the_raw_label(rows):
    flipped = rows._replace(target=-rows.y)
    (a, ha), (b, hb) = train(rows, epochs=2, lr=3e-3), train(flipped, epochs=2, lr=3e-3)
    assert ha[-1]["correlation"] > .2 and hb[-1]["correlation"] == pytest.approx(-ha[-1]["correlation"], abs=.2)
    assert validate(b, flipped) == validate(b, rows)
    c, hc = train(rows._replace(target=rows.y.clone()), epochs=2, lr=3e-3)
    assert hc == ha and same(a, c)


def test_of_pooled_symbols_the_correlation_is_the_mean_over_symbols(rows):
    net = network(rows)
    torch.nn.init.normal_(net.head.weight, std=.1)
    other = rows._replace(y=5 - 3*rows.y)  # far from the other's labels: over both together the correlation would be another
    both = pool([rows, other], ("A", "B"))
    a, b, got = validate(net, rows), validate(net, other), validate(net, both)
    assert b["correlations"] == pytest.approx([-r for r in a["correlations"]], abs=1e-5)
    assert got["correlations"] == pytest.approx(np.mean([a["correlations"], b["correlations"]], 0), abs=1e-6)
    assert got["loss"] == pytest.approx((a["loss"] + b["loss"])/2, rel=1e-4)
    p = predict_dense(net, both.x, both.segment)
    assert np.array_equal(p[:len(rows.ts)], predict_dense(net, rows.x, rows.segment), equal_nan=True)
    only = both._replace(role=np.where(both.part == 1, np.where(both.role == "valid", "", both.role), both.role))
    assert validate(net, only)["correlations"] == pytest.approx(a["correlations"], abs=1e-6)  # a symbol without validation rows has no say
    _, h = train(both, epochs=1)
    assert len(h[0]["correlations"]) == 2


def test_auto_is_the_machine_s_own_format_and_is_written_down(rows, monkeypatch):
    own = "bf16" if any(v for k, v in torch.cpu.get_capabilities().items() if k.endswith("bf16")) else "fp32"
    assert pick_precision("cpu", "auto") == own and pick_precision("cpu", "fp32") == "fp32"
    for caps, want in ((dict(avx2=True, avx512_bf16=False), "fp32"), (dict(avx512_bf16=True), "bf16"), (dict(amx_bf16=True), "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda caps=caps: caps)
        assert pick_precision("cpu", "auto") == want
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(avx512_bf16=True))
    (a, ha), (b, hb) = train(rows, epochs=1, precision="auto"), train(rows, epochs=1, precision="bf16")
    assert same(a, b) and ha == hb and ha[0]["precision"] == "bf16" and train(rows, epochs=1)[1][0]["precision"] == "fp32"


def test_a_run_keeps_the_format_it_began_with_on_another_machine(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(avx512_bf16=True))
    want, history = train(rows, epochs=2, precision="auto")
    def kill(text): raise Killed
    with pytest.raises(Killed): train(rows, tmp_path/"c", epochs=2, precision="auto", tell=kill)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(avx512_bf16=False))
    net, h = train(rows, tmp_path/"c", epochs=2, precision="auto")
    assert h == history and same(net, want)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("at", [slice(None), slice(3, 90, 7), slice(150, None), slice(120, None, 4), slice(-1, None)])
def test_the_seconds_that_are_wanted_get_the_forecasts_they_would_have_had(name, at):
    torch.manual_seed(0)
    net = build(name, dict(pages=2, levels=2)).eval()
    for p in (net.head, net.line): torch.nn.init.normal_(p.weight, std=.1)
    x = torch.randn(2, 2, 170, 8)
    with torch.no_grad(): want, got = net(x)[:, at], net(x, at=at)
    assert got.shape == want.shape and (got - want).abs().max() < 1e-5


@given(T=st.integers(1, 40), window=st.integers(1, 30), first=st.integers(0, 39), every=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_restarted_lstms_give_torch_s_states_and_gradients_window_by_window(T, window, first, every, seed):
    torch.manual_seed(seed)
    lstm, x = torch.nn.LSTM(3, 5, batch_first=True).double(), torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)
    at = slice(min(first, T-1), None, every)
    theirs = torch.stack([lstm(x[:, max(0, t-window+1):t+1])[0][:, -1] for t in range(T)[at]], 1)
    ours, pull = window_lstm(lstm, x, window, at), torch.randn_like(theirs)
    assert torch.allclose(ours, theirs, atol=1e-12)
    wants = [x, *lstm.parameters()]
    for a, b in zip(torch.autograd.grad(ours, wants, pull), torch.autograd.grad(theirs, wants, pull)): assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("name", ["tcn", "lstm"])
def test_thin_trains_on_every_so_manieth_second_and_on_no_other(rows, name):
    torch.manual_seed(0)
    net = build(name, dict(pages=rows.x.shape[2], levels=2))
    which = stretches(rows.segment, rows.role == "train", net.receptive_field-1, 64)[:3]
    run = Run(net, rows, 0, thin=5, targets=64)
    hit = np.concatenate([np.arange(a+run.context+2, b, 5) for a, b in which])
    assert step(run, which, 2)[1] == np.isfinite(rows.y[hit].numpy()).any(1).sum()
    spoilt = rows.y.clone()
    spoilt[np.setdiff1d(np.arange(len(rows.ts)), hit)] = 1e6
    torch.manual_seed(0)
    again = Run(build(name, dict(pages=rows.x.shape[2], levels=2)), rows._replace(y=spoilt), 0, thin=5, targets=64)
    step(again, which, 2)
    assert same(run.net, again.net)


def test_thinned_epochs_between_them_visit_each_training_second(rows, monkeypatch):
    run, seen = Run(network(rows), rows, 1, thin=4, targets=64), np.zeros(len(rows.ts), int)
    def look(run, which, first):
        for a, b in which: seen[a+run.context+first:b:4] += 1
        return torch.zeros(()), 1
    monkeypatch.setattr(training, "step", look)
    monkeypatch.setattr(training, "validate", lambda *args: dict(correlation=0.))
    for _ in range(40): run.history.append(epoch(run))
    full = np.zeros(len(rows.ts), bool)
    for a, b in stretches(rows.segment, run.train, run.context, 64): full[a+run.context:b] = True
    assert np.array_equal(seen > 0, full)
    assert 8 < seen[full].mean() < 12  # a quarter of forty


@pytest.mark.parametrize("name", ["tcn", "lstm"])
def test_a_stretch_shorter_than_the_thinning_still_counts(rows, name):
    net = build(name, dict(pages=rows.x.shape[2], levels=2))
    run = Run(net, rows, 0, thin=9)
    a, _ = stretches(rows.segment, run.train, run.context, 64)[0]
    loss, labels = step(run, np.array([[a, a+run.context+2]]), 7)
    assert labels == 1 and torch.isfinite(loss)


class Clock:
    "Time that passes by so many seconds whenever an epoch is run"
    def __init__(self): self.now = 0.
    def perf_counter(self): return self.now


def test_the_time_left_is_reckoned_from_this_process_s_epochs(rows, tmp_path, monkeypatch):
    clock, real = Clock(), training.epoch
    def slow(seconds):
        def run_epoch(*args):
            clock.now += seconds
            return real(*args)
        return run_epoch
    monkeypatch.setattr(training, "time", clock)
    said = []
    def kill(text):
        said.append(text)
        if text.startswith("epoch 3/"): raise Killed
    monkeypatch.setattr(training, "epoch", slow(100))
    with pytest.raises(Killed): train(rows, tmp_path/"c", epochs=6, patience=6, tell=kill)
    monkeypatch.setattr(training, "epoch", slow(10))
    _, h = train(rows, tmp_path/"c", epochs=6, patience=6, tell=said.append)
    left = [float(s.split("at most ")[1].split(" s")[0]) for s in said]
    assert left == [500, 400, 300, 20, 10, 0]
    assert [s.split(", ")[1] for s in said] == [f"{e['labels']/s:,.0f} labels/s in fp32".split(", ")[0] for e, s in zip(h, (100, 100, 100, 10, 10, 10))]


def test_a_long_epoch_says_how_far_it_is(rows, monkeypatch):
    monkeypatch.setattr(training, "TELL", 0.)
    said = []
    train(rows, epochs=1, tell=said.append)
    assert "of epoch 1/1" in said[0] and said[-1].startswith("epoch 1/1, ")


def test_a_checkpoint_of_other_rows_or_another_network_is_refused(rows, tmp_path):
    train(rows, tmp_path/"c", epochs=1)
    for other in (rows._replace(y=rows.y+1), rows._replace(target=rows.y+1), rows._replace(role=np.roll(rows.role, 5))):
        with pytest.raises(ParameterError, match="belongs to another run"): train(other, tmp_path/"c", epochs=1)
    small = dict(pages=rows.x.shape[2], levels=2, trunk=4, channels=8, hidden=8)
    fit(build("deeplob_lstm", dict(small, window=20)), rows, 1, tmp_path/"d", epochs=1)
    with pytest.raises(ParameterError, match="belongs to another run"): fit(build("deeplob_lstm_stateful", dict(small, window=20)), rows, 1, tmp_path/"d", epochs=1)


def test_weights_given_as_a_tuple_are_the_same_run_after_a_resume(rows, tmp_path):
    want, history = train(rows, tmp_path/"c", epochs=1, weights=(.5, .5))
    net, h = train(rows, tmp_path/"c", epochs=1, weights=(.5, .5))
    assert h == history and same(net, want)


@pytest.mark.parametrize("bad,says", [
    (dict(weights=[1]), "one number a horizon"), (dict(weights=[1, -1]), "one number a horizon"), (dict(weights=[0, 0]), "not all 0"),
    (dict(thin=0), "thin=0"), (dict(epochs=0), "epochs=0"), (dict(targets=1.5), "targets=1.5"), (dict(stretches=True), "stretches=True"),
    (dict(patience=0), "patience=0"),
    (dict(lr=0.), "lr and clip must be above 0"), (dict(clip=-1.), "lr and clip must be above 0"), (dict(weight_decay=-.1), "weight_decay not below"),
    (dict(precision="fp16"), "auto, fp32 or bf16")])
def test_wrong_parameters_are_refused_with_a_sentence(rows, bad, says):
    with pytest.raises(ParameterError, match=says): Run(network(rows), rows, 0, **bad)


def test_a_run_that_goes_astray_says_so(rows):
    x = rows.x.clone()
    x[600] = torch.inf
    with pytest.raises(LobError, match="went astray in epoch 1.*smaller lr"): train(rows._replace(x=x), epochs=1)
