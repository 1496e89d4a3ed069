"""Drawing a market from a prior: with rings against recomputing the receptive field at each second, in one run.

    python benchmarks/bench_generate.py [--steps 10000] [--naive 150] [--repeat 3] [--whole]

The naive way runs the network over the last R seconds for each second it draws, and uses the last column alone. Both compute in double precision,
take the same random numbers and must draw the same tokens. One thread; each time is the least of some runs. The naive way is timed over fewer
seconds, since a second costs it the same wherever it stands, and 64 paths over a fifth of the steps; the rings' time includes taking in the prompt.
The tokens of all the rings' seconds at batch 1 are checked by recomputing each from its own receptive field, many at a time; --whole draws them one
after another as well (minutes)."""
import argparse
import os
import time

for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[k] = "1"

import numpy as np  # noqa: E402 the number of threads is read when it is imported
import torch  # noqa: E402

from lobresearch.synthetic.prior import make_prior  # noqa: E402
from lobresearch.synthetic.sampling import draw_token, generate, generate_naive  # noqa: E402

SIZES = dict(codes=128, spreads=12, moves=21)


def best(work, repeat):
    "What it gives, and the least seconds it took"
    out, least = None, np.inf
    for _ in range(repeat):
        t = time.perf_counter()
        out = work()
        least = min(least, time.perf_counter() - t)
    return out, least


def lively(kind):
    "First weights, made larger, so that the past counts"
    net = make_prior(kind, SIZES, 0)
    with torch.no_grad():
        for w in net.parameters(): w.mul_(1.5)
        for w in (net.drift.code, net.drift.move, net.drift.tilt.weight): w.copy_(torch.linspace(-.1, .1, w.numel()).view(w.shape))
    return net


@torch.no_grad()
def recompute(net, prompt, path, seed, piece=64):
    "The tokens that one path's seconds have when each is computed from its own receptive field"
    net, R, n = net.double().eval(), net.receptive_field, len(prompt)
    u, out = np.random.default_rng([seed, 0]).random((len(path), 3)), np.empty_like(path)
    windows = torch.from_numpy(np.concatenate([prompt, path]))[n-R:].unfold(0, R+1, 1).transpose(1, 2)
    for i in range(0, len(path), piece):
        for k, scores in enumerate(net.valid(windows[i:i+piece])):
            out[i:i+piece, k] = [draw_token(s, v, 1.) for s, v in zip(scores[:, 0].numpy(), u[i:i+piece, k])]
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=10_000)
    p.add_argument("--naive", type=int, default=150, help="seconds that the naive way draws at batch 1; a tenth of it at batch 64")
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--whole", action="store_true", help="draw all of the seconds the naive way too")
    a = p.parse_args()
    torch.set_num_threads(1)
    for kind in ("conv", "attention"):
        net = lively(kind)
        prompts = np.stack([np.random.default_rng(0).integers(n, size=(64, 200)) for n in net.sizes], -1)
        for paths, few, steps in ((1, a.naive, a.steps), (64, max(a.naive//10, 2), max(a.steps//5, 20))):
            start = prompts[:paths]
            generate(net, 2, start, 1) # compile, or load what was compiled
            ours, fast = best(lambda net=net, start=start, steps=steps: generate(net, steps, start, 1), a.repeat)
            plain, slow = best(lambda net=net, start=start, few=few: generate_naive(net, few, start, 1), a.repeat)
            if not np.array_equal(ours[:, :few], plain): raise SystemExit(f"{kind}: the two ways drew different tokens")
            print(f"{kind:9s} batch {paths:2d}: naive {1e3*slow/few:7.2f} ms a second drawn, rings {1e3*fast/steps:6.3f} ms "
                  f"({steps:,} seconds in {fast:.1f} s): ratio {slow/few*steps/fast:.0f}")
            if paths > 1: continue
            same = np.array_equal(recompute(net, start[0], ours[0], 1), ours[0])
            if a.whole: same &= np.array_equal(generate_naive(net, a.steps, start, 1), ours)
            if not same: raise SystemExit(f"{kind}: a second recomputed from its receptive field is another")
            print(f"{kind:9s} {a.steps:,} seconds drawn with rings and recomputed: the same {3*a.steps:,} tokens")


if __name__ == "__main__": main()
