"""Does a network beat a ridge where the ceiling is known? SIM-SIGNAL for one day and for four.

    python benchmarks/bench_forecast.py [--hours 24 96] [--models tcn deeplob_tcn] [--seeds 2] [--epochs 6] [--workers 2]

Everything is simulated. Ridge and networks are trained on the same rows; the best network is the one chosen on validation (mean correlation over
horizons), its seeds averaged. Printed are correlations on the test block and shares of the ceiling, which replays of the exchange from saved states
give, with the paired difference between the network's share and ridge's."""
import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from lobresearch.data.ceiling import share, share_se, true_ceiling
from lobresearch.data.grid import ingest, load_grid, write_grid
from lobresearch.data.simulate import make_simulated
from lobresearch.forecast.ablations import decompose
from lobresearch.forecast.items import map_items
from lobresearch.forecast.jobs import collect, make_items, run_item
from lobresearch.market.labels import labels
from lobresearch.market.splits import chronological, load_split, rows, write_splits

S, HORIZONS = "SIM-SIGNAL", [10, 60]


def recorded(root, hours, seed):
    "Simulate, ingest and split"
    make_simulated(root/"data", hours, seed, workers=1, symbols=(S,))
    for day in sorted({p.name.split("_")[-2] for p in (root/"data").glob("lobsim_book*")}):
        write_grid(root/"artifacts/grid", S, day, ingest(root/"data", "lobsim", S, day, progress=False)[0])
    write_splits(root/"artifacts/splits", S, chronological(load_grid(root/"artifacts/grid", S, columns=["segment"]).index, max(HORIZONS), 143, embargo=60))


def forecasts(root, a, params, seed):
    "Correlations on validation and test, and each model's mean forecasts of the test block by horizon"
    how = {**params["train"], "epochs": a.epochs}
    f = params["forecast"]
    items = make_items(root, [S], HORIZONS, seed, ["ridge", *a.models], a.seeds, params["net"], how, f["ridge_lambdas"], per_model=f["per_model"])
    map_items(partial(run_item, root=root), items, a.workers, root/"items", "models")
    p = collect(items, root/"items", root)
    Y = labels(load_grid(root/"artifacts/grid", S), HORIZONS)
    mean = p.groupby(["split", "model", "horizon", "ts"]).y_hat.mean()
    score = {k: f.droplevel([0, 1, 2]).corr(Y[f"r_{k[2]}"].reindex(f.index.get_level_values("ts"))) for k, f in mean.groupby(level=[0, 1, 2])}
    return score, mean.loc["test"]


def shares(root, score, mean, a, states, seed):
    test = rows(load_split(root/"artifacts/splits", S), "test")
    t = true_ceiling(root/"data", S, HORIZONS, test[0], test[-1], states, 64, seed, a.workers)
    best = max(a.models, key=lambda m: np.mean([score["valid", m, h] for h in HORIZONS]))
    table, diff = [], []
    for i, h in enumerate(HORIZONS):
        r, c = t.returns[:, :, i].astype(float), t.ceilings[i]
        at = {m: mean.loc[m, h].reindex(t.ts) for m in ["ridge", *a.models]}
        ok = np.logical_and.reduce([f.notna().to_numpy() for f in at.values()])
        for m, f in at.items():
            x = f.to_numpy()[ok]
            table.append(dict(horizon=h, model=m + (" (chosen)" if m == best else ""), valid=score["valid", m, h], test=score["test", m, h], ceiling=c.ceiling,
                              share=share(x, r[ok].mean(1), c.S, c.W, c.M), se=share_se(x, r[ok])))
        d = decompose(at["ridge"].to_numpy()[ok], at[best].to_numpy()[ok], r[ok])
        around = f"standard error {d['untold_se']:.3f}, 95 % [{d['untold_lo']:+.3f}, {d['untold_hi']:+.3f}]"
        diff.append(f"  {h} s: {best} less ridge, share of the ceiling: {d['untold']:+.3f}, {around}")
    print(pd.DataFrame(table).to_string(index=False, float_format="%.3f"))
    print("\n".join(diff))


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--hours", type=float, nargs="+", default=[24., 96.])
    a.add_argument("--models", nargs="+", default=["tcn", "deeplob_tcn"])
    for name, default in (("seeds", 2), ("epochs", 6), ("workers", 2), ("seed", 7), ("states", 1000)): a.add_argument(f"--{name}", type=int, default=default)
    a = a.parse_args()
    params = yaml.safe_load((Path(__file__).resolve().parents[1]/"params.yaml").read_text())
    for hours in a.hours:
        with tempfile.TemporaryDirectory() as d:
            t0 = time.perf_counter()
            recorded(Path(d), hours, a.seed)
            score, mean = forecasts(Path(d), a, params, a.seed)
            print(f"SIM-SIGNAL, {hours:g} h (simulated): {a.seeds} seeds, at most {a.epochs} epochs, {time.perf_counter()-t0:.0f} s")
            shares(Path(d), score, mean, a, a.states, a.seed)
