"Training: stretches that stay where they may, the same bytes from the same seed, killed or not, and a signal that is found."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError, TooShortError
from lobresearch.forecast.nets import build
from lobresearch.forecast.rows import Rows, gather, prepare, runs, stretches
from lobresearch.forecast.training import Run, epoch, fit, huber, predict_dense, step
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
