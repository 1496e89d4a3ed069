"""A VQ-VAE with distances by one product against the naive broadcast, in one run: training samples a second.

    python benchmarks/bench_vqvae.py [--steps 5]

A sample is a second of the book that is encoded, quantised and decoded in training. Both take the same network, loss and optimiser on one thread.
Naive is the usual published quantiser: all (samples, codes, dim) differences, one-hot codes, and matrix products with them for the vectors and the
codebook's averages. Ours forms no difference (addmm) and adds up what fell to each code (index_add).
How much this saves of a whole step depends on the sizes: the network's own products are the same in both."""
import argparse
import time
from functools import partial

import torch
import torch.nn.functional as F

from lobresearch.synthetic.codebook import Quantiser, nearest, nearest_naive
from lobresearch.synthetic.vqvae import VqVae


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
    q.count.fill_(1.); q.total.copy_(q.book)
    return q.train()


def seconds(work, steps):
    "The best of some runs, after one to warm up"
    work()
    best = float("inf")
    for _ in range(steps):
        t = time.perf_counter()
        work()
        best = min(best, time.perf_counter()-t)
    return best


def training(kind, codes, dim, batch, bf16):
    "One step of training as a function, and its samples"
    torch.manual_seed(0)
    net = VqVae(44, 43, codes=codes, dim=dim).train()
    net.quantiser = begun(kind, codes, dim)
    optim, x = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True), torch.randn(batch, 144, 44)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16): got = net(x)
        optim.zero_grad(set_to_none=True)
        (got.mean.float().square().mean() + .25*got.commit.float()).backward()
        optim.step()
    return step, batch*130


def report(what, slow, fast, native, samples):
    print(f"{what:44s} {samples/slow:11,.0f} {samples/fast:11,.0f} {slow/fast:6.1f} x {samples/native:11,.0f} {slow/native:6.1f} x")


def main(steps):
    z, book = torch.randn(5000, 64), torch.randn(128, 64)
    print(f"codes that the two ways disagree about, of {len(z):,}: {int((nearest(z, book) != nearest_naive(z, book)).sum())}")
    print(f"{'samples/s':44s} {'naive fp32':>11s} {'ours fp32':>11s} {'':8s} {'ours bf16':>11s}")
    for codes, dim in ((128, 16), (128, 64), (512, 64)):
        z = torch.randn(16*130, dim)
        times = [seconds(partial(begun(k, codes, dim), v), steps) for k, v in ((Naive, z), (Quantiser, z), (Quantiser, z.bfloat16()))]
        report(f"quantiser alone, {codes} codes of {dim}", *times, len(z))
    for codes, dim, batch in ((128, 16, 4), (128, 64, 16), (512, 64, 16)):
        work = [training(k, codes, dim, batch, bf16) for k, bf16 in ((Naive, False), (Quantiser, False), (Quantiser, True))]
        report(f"training step, {codes} codes of {dim}, {batch} stretches", *[seconds(f, steps) for f, _ in work], work[0][1])


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--steps", type=int, default=5)
    torch.set_num_threads(1)
    main(a.parse_args().steps)
