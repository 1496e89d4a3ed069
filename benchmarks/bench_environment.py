"Environments: a batch with one feature row, against one Python object per environment; steps a second of one core's time."
import time
import numpy as np
from lobresearch.trading.accounting import GO, Market, follow
from lobresearch.trading.environment import Environment

ROWS, LEVELS, LENGTH, SETTINGS = 86_400, 10, 600, dict(taker=5., capital=1_000., latency=1)


def recording(seed=0):
    "A random walk with ten levels a side"
    rng = np.random.default_rng(seed)
    best = 10_000 + rng.integers(-1, 2, ROWS).cumsum()
    book = np.empty((ROWS, 4*LEVELS))
    for l in range(LEVELS):
        book[:, 4*l], book[:, 4*l+2] = .01*(best + 1 + l), .01*(best - l)
        book[:, 4*l+1:4*l+4:2] = rng.integers(1, 20, (ROWS, 2))
    ts, tape = 1_700_000_000_000_000 + 1_000_000*np.arange(ROWS), np.zeros((ROWS, 4))
    tape[:, :2] = np.nan                                                   # nobody trades
    return Market(ts, np.full(ROWS, ts[0]), book, tape, np.zeros(ROWS)), rng.normal(size=(ROWS, 8)).astype(np.float32)


class Plain:
    "One environment, written as environments mostly are: attributes, a loop over the levels, a dictionary a step"
    def __init__(self, market, features, length, taker, capital, latency):
        self.market, self.features, self.length, self.fee, self.capital, self.latency = market, features, length, taker*1e-4, capital, latency

    def reset(self, start):
        self.t = self.start = start
        self.mid = (self.market.book[start, 0] + self.market.book[start, 2])/2
        self.size, self.position, self.cash, self.equity, self.age, self.entry, self.earned, self.peak = self.capital/self.mid, 0., 0., 0., 0, 0., 0., 0.
        self.orders = [0.]*(self.latency - 1)
        return self.observe()

    def observe(self):
        own = [self.position/self.size, self.age/self.length, self.position*(self.mid - self.entry)*1e4/self.capital,
               (self.start + self.length - self.t)/self.length, self.earned, self.peak - self.earned]
        return np.concatenate([self.features[self.t], np.array(own, np.float32)])

    def trade(self, units):
        book, side, left, value = self.market.book[self.t], 0 if units > 0 else 2, abs(units), 0.
        for k in range(side, len(book), 4):
            q = min(left, book[k+1])
            value, left = value + q*book[k], left - q
            if left <= 0: break
        done, sign = abs(units) - left, 1 if units > 0 else -1
        best, fee = book[side], self.fee*value
        self.parts["spread"] += sign*done*(self.mid - best)
        self.parts["impact"] += sign*(done*best - value)
        self.parts["fee"] -= fee
        self.cash -= sign*value + fee
        if self.position*(self.position + sign*done) <= 0: self.age, self.entry = 0, value/done
        self.position += sign*done
        self.parts["fills"] += 1

    def step(self, action):
        self.parts = {"gross": 0., "spread": 0., "impact": 0., "fee": 0., "fills": 0}
        self.orders.append(action)
        self.t += 1
        mid = (self.market.book[self.t, 0] + self.market.book[self.t, 2])/2
        self.parts["gross"] = self.position*(mid - self.mid)
        self.mid, self.age, before = mid, self.age + (self.position != 0), self.equity
        done = self.t == self.start + self.length
        want = 0. if done else self.orders.pop(0)*self.size
        if abs(want - self.position) > 1e-9*self.size: self.trade(want - self.position)
        self.equity = self.cash + self.position*mid
        reward = 1e4/self.capital*(self.equity - before)
        self.earned += reward
        self.peak = max(self.peak, self.earned)
        return self.observe(), reward, done, False, self.parts


def per_second(env, batch, seconds=1.):
    "Steps a second, best of three"
    rng, best = np.random.default_rng(0), 0.
    actions = rng.integers(-1, 2, (64, batch))
    env.reset(seed=0)
    for _ in range(3):
        n, start = 0, time.process_time()
        while (took := time.process_time() - start) < seconds/3:
            for a in actions: env.step(a)
            n += 64*batch
        best = max(best, n/took)
    return best


def plain_per_second(market, features, seconds=1.):
    "The same for one plain environment"
    rng, env, n, start = np.random.default_rng(0), Plain(market, features, LENGTH, **SETTINGS), 0, time.process_time()
    while (took := time.process_time() - start) < seconds:
        env.reset(int(rng.integers(ROWS - LENGTH)))
        for a in rng.integers(-1, 2, LENGTH).tolist(): env.step(a)
        n += LENGTH
    return n/took


def main():
    market, features = recording()
    wish = np.random.default_rng(1).integers(-1, 2, ROWS).astype(float)
    env = Plain(market, features, LENGTH, **SETTINGS)
    env.reset(1000)
    net = [env.step(a)[1] for a in wish[1000:1000+LENGTH]]
    ours = follow(market, wish, 1000, 1000 + LENGTH, **SETTINGS).net
    assert np.allclose(net, ours, atol=1e-7), "the two keep different books"
    slow = plain_per_second(market, features)
    print(f"one Python object: {slow/1e6:.3f} M steps/s")
    for batch in (1, 64, 256):
        fast = per_second(Environment(market, features, batch, length=LENGTH, **SETTINGS), batch)
        print(f"batch of {batch}: {fast/1e6:.2f} M steps/s, one feature row and a trade in two steps of three; ratio {fast/slow:.0f}")
    batch = 64
    env = Environment(market, features, batch, length=LENGTH, **SETTINGS)
    env.reset(seed=0)
    acc, go = env.accounts, np.full(batch, GO)
    took = []
    for _ in range(5):
        env.reset()
        start = time.process_time()
        for a in np.random.default_rng(0).integers(-1, 2, (500, batch)).astype(float): acc.advance(a, go)
        took.append(time.process_time() - start)
    print(f"accounting alone, batch of {batch}: {500*batch/min(took)/1e6:.1f} M steps/s")
    start = time.process_time()
    follow(market, wish, **SETTINGS)
    print(f"a rule along {ROWS:,} seconds: {1e3*(time.process_time() - start):.0f} ms")


if __name__ == "__main__": main()
