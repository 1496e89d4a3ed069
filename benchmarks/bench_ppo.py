"PPO for 300,000 seconds: lean loops on a batch, against stable-baselines3 on one environment; a core's time, and what both have learned."
import argparse
import time
import warnings
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from lobresearch.trading.accounting import Market
from lobresearch.trading.adapters import Single
from lobresearch.trading.agents import PLAIN, Agent, fit_agent, fit_scales, settings_of, world
from lobresearch.trading.policies import policy_kwargs
from lobresearch.trading.rollouts import path

ROWS, FEATURES, STEPS, ACCOUNT = 30_000, 30, 300_000, dict(execution="mid", taker=0., capital=1_000.)
AT = np.arange(ROWS)
TRAIN, TEST = AT < 20_000, AT >= 20_100


def recording(seed=0):
    "A random walk that one of thirty features announces now and then; two levels a side"
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=ROWS)
    step = np.rint(rng.normal(size=ROWS)*1.5 + .5*drift).astype(int)
    bid = 10_000 + step.cumsum()
    book = np.stack([.01*(bid + 1), np.full(ROWS, 20.), .01*bid, np.full(ROWS, 20.), .01*(bid + 2), np.full(ROWS, 20.), .01*(bid - 1), np.full(ROWS, 20.)], 1)
    tape = np.stack([np.full(ROWS, np.nan), np.full(ROWS, np.nan), np.zeros(ROWS), np.zeros(ROWS)], 1)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    x[:-2, 7] = drift[2:]                                      # a decision of now meets the next second's book and earns the move after
    return Market(1_700_000_000_000_000 + 1_000_000*AT, np.zeros(ROWS, int), book, tape, np.zeros(ROWS)), x


def earned(agent, market, x):
    "bps a second on seconds that nobody learned from"
    return path(agent, market, x, TEST, ACCOUNT).net.mean()


def ours(market, x, seed, **kw):
    "Ours with Schulman's settings, and the seconds it took; the last version, not the best, as nobody chooses for the other either"
    start = time.process_time()
    agent = fit_agent(market, x, TRAIN, np.zeros(ROWS, bool), seed, ACCOUNT, PLAIN | dict(steps=STEPS) | kw)
    return time.process_time() - start, earned(agent, market, x)


def theirs(market, x, seed, steps):
    "stable-baselines3's PPO as it comes (2,048 steps, minibatches of 64, ten epochs) with the same towers, on one environment"
    s = settings_of(PLAIN)
    scales = fit_scales(world(market, x, TRAIN, ACCOUNT, s, batch=64, seed=seed), np.random.default_rng(seed))
    env = Single(market, x, scales, rows=TRAIN, length=s["length"], unit=s["unit"], end=s["end"], seed=seed, **ACCOUNT)
    model = PPO(ActorCriticPolicy, env, ent_coef=s["entropy"], seed=seed, device="cpu", policy_kwargs=policy_kwargs("mlp", 1, FEATURES))
    model.learn(2048)                                          # warm
    start = time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    took = time.process_time() - start
    return took, earned(Agent(model.policy, FEATURES, s, ACCOUNT, scales), market, x)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--full", action="store_true", help="five seeds of all 300,000 steps on both sides: an hour")
    full = args.parse_args().full
    warnings.filterwarnings("ignore", module="stable_baselines3")
    torch.set_num_threads(1)
    market, x = recording()
    ours(market, x, 0, steps=10_000)                           # compile
    seeds, part = range(5) if full else range(1), STEPS if full else 4*2048
    mine, other = [ours(market, x, s) for s in seeds], [theirs(market, x, s, part) for s in seeds]
    t, o = np.mean([m[0] for m in mine]), np.mean([m[0] for m in other])*STEPS/part
    told = "" if full else f" (scaled from {part:,} steps)"
    print(f"PPO, {STEPS:,} steps: stable-baselines3 on one environment {o:.0f} s{told}, lean loops on 64 {t:.1f} s: {o/t:.1f} times faster (at least 8)")
    if full: print("reward, bps a second on unseen rows, five seeds: stable-baselines3 " + " ".join(f"{r:.3f}" for _, r in other) + "; lean "
                   + " ".join(f"{r:.3f}" for _, r in mine) + f"; means {np.mean([r for _, r in other]):.3f} and {np.mean([r for _, r in mine]):.3f}")
    else: print(f"reward of the lean one on unseen rows: {mine[0][1]:.3f} bps a second (--full compares it with the other's over five seeds)")


if __name__ == "__main__": main()
