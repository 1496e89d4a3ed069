"The synthetic chapter from recording to market: what shapes it, what it may know, what it writes."
import ast
import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lobresearch.data.book import mid, tick_size
from lobresearch.data.grid import ingest_all, load_grid, write_grid
from lobresearch.data.quality import findings
from lobresearch.forecast.items import map_items
from lobresearch.market.registry import random_grid
from lobresearch.market.splits import chronological, write_splits
from lobresearch.synthetic import jobs
from lobresearch.synthetic.bars import bootstrap_market
from lobresearch.synthetic.channels import lot_size, snapshot_form
from lobresearch.synthetic.decode import DAY, check_books, write_tardis
from lobresearch.synthetic.fitted_exchange import fit_exchange
from lobresearch.synthetic.jobs import best_priors, codebook_items, collect, market_items, prior_items, run_item
from lobresearch.synthetic.market import code_inputs, fit_codes, fit_inputs, generate_market
from lobresearch.synthetic.prior import make_prior
from lobresearch.synthetic.prior_training import fit_prior
from lobresearch.synthetic.vqvae import encode

LEVELS, SEED = 3, 5
ONCE = dict(codes=6, dim=4, width=8, depth=2, warm=1, epochs=2) # one epoch with codes, so that validation has nothing to choose
TWICE = dict(ONCE, epochs=3)


def recorded(rows=9000):
    g = random_grid(rows, np.random.default_rng(1), LEVELS, breaks=(rows//3,))
    return g.round({k: 4 for k in g if k not in ("segment", "stale")})  # sizes in whole lots


def upset(grid, rows, seed=0):
    "The same with other prices, sizes, trades and holes in some rows"
    rng, out, n = np.random.default_rng(seed), grid.copy(), int(rows.sum())
    step = .1*rng.integers(-300, 300, n)
    for c in out:
        v = out.loc[rows, c]
        if "_px_" in c or c in ("vwap", "high", "low"): v = (v + step).round(4)
        elif "_sz_" in c: v = (v*rng.integers(1, 90, n)).round(4)
        elif c.endswith("_vol"): v = (7*v).round(4)
        elif c.endswith("_n"): v = 3*v
        elif c.startswith("ofi"): v = -v
        out.loc[rows, c] = v.astype(out[c].dtype)
    out.loc[out.index[np.flatnonzero(rows)[::97]], [f"ask_px_{LEVELS}", f"ask_sz_{LEVELS}"]] = np.nan
    return out


@pytest.fixture(scope="module")
def grid(): return recorded()


@pytest.fixture(scope="module")
def role(grid): return chronological(grid.index, horizon=10, lookback=60).role.to_numpy(str)


def bits(*arrays):
    h = hashlib.sha256()
    for a in arrays:
        a = np.ascontiguousarray(a)
        h.update(f"{a.dtype}{a.shape}".encode() + (a.tobytes() if a.dtype != object else repr(a.tolist()).encode()))
    return h.hexdigest()


def weights(net): return bits(*(v.numpy() for v in net.state_dict().values()))


def fitted(grid, role):
    "All that is fitted to a recording, as hashes; and what the market is drawn from"
    train, segment = role == "train", grid.segment.to_numpy()
    c = fit_codes(grid, role, SEED, LEVELS, bins=dict(spreads=4, moves=7), **ONCE)
    tokens = c.table[["code", "spread", "move"]].to_numpy(np.int64)
    prior = make_prior("conv", dict(codes=ONCE["codes"], spreads=len(c.state["spread"]), moves=len(c.state["move"]), width=8, depth=3), SEED)
    fit_prior(prior, tokens, segment, role, SEED, epochs=1)
    made, _ = generate_market(c, prior, train, 2, 50, SEED, float(mid(grid[train])[-1]), segment, burn=20)
    stitched = bootstrap_market(grid, train, 2, 100, 20, SEED)
    return dict(channels=repr(c.state), codebook=weights(c.net), prior=weights(prior), residuals=bits(*(np.asarray(v) for v in vars(c.residuals).values())),
                tokens=bits(tokens[train]), market=bits(made.to_numpy(float)), bootstrap=bits(stitched.to_numpy(float)),
                exchange=repr(fit_exchange(grid, train, rounds=1, steps=120)))


@pytest.fixture(scope="module")
def base(grid, role): return fitted(grid, role)


def test_rows_that_are_not_training_shape_nothing(grid, role, base):
    "Validation, test, sealed and purged rows all changed: every bit of every model, of the codes of training and of the markets stays"
    other = upset(grid, role != "train")
    assert not other.iloc[np.flatnonzero(role == "valid")[5]].equals(grid.iloc[np.flatnonzero(role == "valid")[5]])
    assert fitted(other, role) == base


def test_training_rows_do_shape_it(grid, role, base):
    "The hashes tell something"
    some = np.flatnonzero(role == "train")[100:2000]
    now = fitted(upset(grid, np.isin(np.arange(len(grid)), some)), role)
    assert [k for k in base if now[k] == base[k]] == []


def test_the_move_into_the_training_block_is_no_part_of_it(grid):
    "A block that does not begin the recording, such as that of a later fold"
    train = np.arange(len(grid)) % 3000 >= 400
    state = [fit_inputs(g, train, LEVELS) for g in (grid, upset(grid, ~train))]
    assert state[0] == state[1]


@pytest.fixture(scope="module")
def codes(grid, role): return fit_codes(grid, role, SEED, LEVELS, bins=dict(spreads=4, moves=7), **ONCE)


@pytest.mark.parametrize("at", [1, 700, 3050, 6001, 8998])
def test_the_future_changes_no_earlier_code(grid, codes, at):
    code = lambda g: encode(codes.net, code_inputs(snapshot_form(g), codes.state), g.segment.to_numpy())
    late, whole = np.arange(len(grid)) >= at, code(grid)
    assert (whole >= 0).mean() > .95 and np.array_equal(whole, codes.table.code)
    assert np.array_equal(code(upset(grid, late))[:at], whole[:at]) and np.array_equal(code(grid[:at]), whole[:at])
    if at < 8000: assert (code(upset(grid, late))[at:] != whole[at:]).any()


# the study's own way: items on disk

def test_markets_that_need_no_codebook_are_made_anew_when_what_they_are_made_with_changes():
    "Every module of the chapter that the rivals import, and what these import of the data's, by name in the source"
    seen, todo, data = set(), ["bars", "decode", "fitted_exchange"], set()
    while todo:
        seen.add(m := todo.pop())
        near = [n for n in ast.walk(ast.parse((Path(jobs.__file__).parent/f"{m}.py").read_text())) if isinstance(n, ast.ImportFrom)]
        todo += [n.module for n in near if n.level == 1 and n.module not in seen]
        data |= {n.module for n in near if n.level == 2 and n.module.startswith("data.")}
    assert "channels" in seen and {f"synthetic.{m}" for m in seen} | data <= set(jobs.MODULES["market"])


def study(root, grid):
    "Recording, split, models, nats and markets under `root`; files of artifacts/synthetic to their hashes"
    for day, part in grid.groupby(grid.index//DAY): write_grid(root/"artifacts/grid", "TOY", str(np.datetime64(int(day), "D")), part)
    write_splits(root/"artifacts/splits", "TOY", chronological(grid.index, horizon=10, lookback=60))
    keep = root/"items"
    run = lambda items: map_items(partial(run_item, root=root), items, 1, keep)
    books = codebook_items(root, ["TOY"], SEED, dict(TWICE, spreads=4, moves=7), LEVELS)
    run(books)
    priors = prior_items(books, dict(conv=dict(width=8, depth=3, train=dict(epochs=2)), attention=dict(width=8, window=8, train=dict(epochs=1))))
    markets = market_items(books, best_priors(priors, run(priors)), root, paths=3, steps=200, burn=20, block=20, generators=["vqvae", "bootstrap"])
    run(markets)
    collect(books + priors + markets, keep, root)
    out = root/"artifacts/synthetic"
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory, grid):
    root = tmp_path_factory.mktemp("study")
    return root, study(root, grid)


def test_the_same_seed_gives_the_same_bytes(done, grid, tmp_path):
    files = done[1]
    assert {Path(f).parts[0] for f in files} == {"models", "codes", "nats", "markets"} and len(files) == 12
    assert study(tmp_path, grid) == files


def test_test_and_sealed_rows_choose_nothing(done, grid, role, tmp_path):
    "Epochs and the prior too are chosen without them"
    last = np.flatnonzero(role == "valid")[-1]
    now = study(tmp_path, upset(grid, np.arange(len(grid)) > last))
    differ = {f for f in now if now[f] != done[1].get(f)}
    assert now.keys() == done[1].keys() and differ == {"codes/symbol=TOY.parquet", "nats/symbol=TOY.parquet"}
    code = [pd.read_parquet(r/"artifacts/synthetic/codes/symbol=TOY.parquet") for r in (done[0], tmp_path)]
    assert code[0][:last + 1].equals(code[1][:last + 1]) and not code[0].equals(code[1])


def test_sealed_rows_have_no_nats(done, grid, role):
    n = pd.read_parquet(done[0]/"artifacts/synthetic/nats/symbol=TOY.parquet").set_index("ts")
    kind = pd.Series(role, grid.index).reindex(n.index)
    for model, t in n.groupby("model"):
        known = t[["code", "spread", "move"]].notna().any(axis=1)
        assert not known[kind[n.model == model] == "final"].any()
        assert known[kind[n.model == model] == "test"].mean() > .9, model
    assert set(n.model) == {"markov0", "markov1", "markov2", "prior_conv", "prior_attention"}


@pytest.mark.parametrize("generator", ["vqvae", "bootstrap"])
def test_a_market_obeys_the_rules_and_passes_the_gate_when_it_comes_back_from_its_files(done, grid, role, tmp_path, generator):
    train = grid[role == "train"]
    g = load_grid(done[0]/"artifacts/synthetic/markets"/generator, "TOY")
    rules = check_books(g, tick_size(train), lot_size(train))
    assert len(g) == 600 and rules.pop("books") == 600 and not any(rules.values())
    days = write_tardis(g, tmp_path, "lobsynth", "TOY")
    q = ingest_all(tmp_path, tmp_path/"grid", "lobsynth", ["TOY"], days, levels=LEVELS, progress=False)
    assert all("gaps without a book" in f or "no book arrived" in f for f in findings(q))
    again = snapshot_form(load_grid(tmp_path/"grid", "TOY")).loc[g.index]
    real = generator == "bootstrap"  # whose trades are written at the quotes of the second before, and summed in another order
    prices = ["vwap", "high", "low"] if real else []
    pd.testing.assert_frame_equal(again.drop(columns=prices), g.drop(columns=prices), check_dtype=not real, rtol=1e-12)
