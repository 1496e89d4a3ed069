"""A training step of the VQ-VAE with distances by one product against the naive broadcast, in one run.

    python benchmarks/bench_vqvae.py [--rounds 15]

Both take the same step of the same network: batch, loss, gradients, optimiser; only the quantiser differs. Naive is the plain one: all
(samples, codes, dim) differences, one-hot codes, and matrix products with them for the vectors and the codebook's averages. Ours forms no difference
(addmm) and adds up what fell to each code (index_add). The network without a codebook is timed too: no quantiser can be faster than none.
Times are CPU milliseconds of one thread, medians over rounds in which all take turns, so that a busy machine wrongs nobody."""
import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from lobresearch.synthetic.codebook import Quantiser, nearest, nearest_naive
from lobresearch.synthetic.vqvae import Run, step

ARMS = {"naive fp32": (True, "fp32", True), "ours fp32": (False, "fp32", True), "naive bf16": (True, "bf16", True), "ours bf16": (False, "bf16", True),
        "network fp32": (False, "fp32", False), "network bf16": (False, "bf16", False)}  # naive, precision, with a codebook
SIZES = ((128, 64, 16), (128, 64, 4), (128, 16, 4), (512, 64, 16))  # codes, their size, stretches in a batch


class Naive(Quantiser):
    "The quantiser by broadcast differences and one-hot codes; its codebook follows as ours does"
    def forward(self, z):
        flat = z.reshape(-1, self.dim)
        with torch.no_grad():
            code = ((flat.detach()[:, None] - self.book.to(z.dtype))**2).sum(-1).argmin(1)
            hot = F.one_hot(code, self.codes).to(z.dtype)
            q = hot @ self.book.to(z.dtype)
            if self.training:
                self.count.lerp_(hot.sum(0).float(), 1-self.decay)
                self.total.lerp_((hot.T @ flat.detach()).float(), 1-self.decay)
                self.book.copy_(self.total/self.count.clamp(min=1e-6)[:, None])
        return (flat + (q - flat).detach()).reshape(z.shape), code.reshape(z.shape[:-1]), ((flat - q)**2).mean()


def begun(kind, codes, dim):
    "A quantiser whose codebook has begun, all codes in use"
    q = kind(codes, dim, start=False, dead=0.)
    q.count.fill_(1.)
    q.total.copy_(q.book)
    return q.train()


def training(naive, precision, quantise, codes, dim, stretches):
    "One step of training as a function"
    rng = np.random.default_rng(0)
    x, role = rng.normal(size=(6000, 44)).astype(np.float32), np.repeat(["train", "valid"], [5000, 1000])
    run = Run(x, np.zeros(len(x), int), role, 0, codes=codes, dim=dim, precision=precision)
    run.net.train().quantiser = begun(Naive if naive else Quantiser, codes, dim)
    which, drops = run.cut("train")[:stretches], torch.Generator().manual_seed(0)
    return lambda: step(run, which, quantise, drops)


def milliseconds(work, rounds):
    "Median CPU time of each, after one call to warm up"
    times = {k: [] for k in work}
    for _ in range(rounds+1):
        for k, f in work.items():
            t = time.process_time()
            f()
            times[k].append(1e3*(time.process_time()-t))
    return {k: statistics.median(v[1:]) for k, v in times.items()}


def report(what, t, samples):
    by = {p: t[f"naive {p}"]/t[f"ours {p}"] for p in ("fp32", "bf16")}
    print(f"\n{what} ({samples:,} seconds): " + ", ".join(f"{k} {v:.1f}" for k, v in t.items()) + " ms")
    print(f"  against naive at equal dtype: fp32 {by['fp32']:.2f} x, bf16 {by['bf16']:.2f} x; ours bf16 against naive fp32: {t['naive fp32']/t['ours bf16']:.2f} x")
    if "network fp32" in t:
        share, most = ([t[f"network {p}"]/t[f"ours {p}"] for p in ("fp32", "bf16")], [t["naive fp32"]/t[f"network {p}"] for p in ("fp32", "bf16")])
        print(f"  the network alone is {share[0]:.0%} of our step in fp32 and {share[1]:.0%} in bf16: "
              f"against naive fp32 no quantiser could bring more than {most[0]:.2f} x in fp32 and {most[1]:.2f} x in bf16")


def main(rounds):
    native = [k for k, v in torch.cpu.get_capabilities().items() if k.endswith("bf16") and v]
    print(f"native bf16 products on this CPU: {', '.join(native) or 'none, so bf16 is emulated here and its times say little'}")
    torch.manual_seed(0)
    z, book = torch.randn(5000, 64), torch.randn(128, 64)
    print(f"codes that the two ways disagree about, of {len(z):,}: {int((nearest(z, book) != nearest_naive(z, book)).sum())}")
    for codes, dim, stretches in SIZES:
        t = milliseconds({k: training(*v, codes, dim, stretches) for k, v in ARMS.items()}, rounds)
        report(f"training step, {codes} codes of {dim}, {stretches} stretches of 128 s", t, 128*stretches)
    alone = {f"{name} {p}": partial(begun(kind, 128, 64), z[:2048].to(dtype))
             for p, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)) for name, kind in (("naive", Naive), ("ours", Quantiser))}
    report("quantiser alone, 128 codes of 64", milliseconds(alone, rounds), 2048)


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--rounds", type=int, default=15)
    torch.set_num_threads(1)
    main(a.parse_args().rounds)
