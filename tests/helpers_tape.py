"Small Tardis files made at random or by hand, and a plain per-event reference of the grid"
import gzip
import math
import numpy as np
from lobresearch.data.tardis import DEPTH, file_name, header

DAY = "2025-01-01"
T0 = 1_735_689_600_000_000  # its first microsecond
SEC = 1_000_000
NAN = float("nan")


def text_of(x):
    "A number as a Tardis file has it: shortest decimal, empty when missing"
    if isinstance(x, str): return x
    if x is None or (isinstance(x, float) and math.isnan(x)): return ""
    return f"{x:.0f}" if float(x).is_integer() else repr(float(x))


def write_rows(folder, kind, rows, date=DAY, symbol="AB", exchange="demo"):
    "One gzip file with the right header; `rows` lack exchange and symbol"
    lines = [",".join(header(kind))] + [",".join([exchange, symbol, *map(text_of, r)]) for r in rows]
    path = folder/file_name(exchange, kind, date, symbol)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 1, mtime=0))
    return path


def book_row(exch, local, *levels):
    "A row of a book file from numbers ask, size, bid, size, level by level"
    return [exch, local, *levels] + [None]*(4*DEPTH - len(levels))


def random_books(rng, n, levels=3, odd=.15, start=T0 + 3*SEC, step=.4):
    "Rows of a random book file: quiet and busy stretches, a long gap, and some locked, crossed, one-sided, thin and repeated rows"
    rows, t, p = [], start, 1000
    for _ in range(n):
        t += int(rng.exponential(step)*SEC) + int(rng.random() < .03)*int(rng.integers(1, 9))*SEC
        p += int(rng.integers(-1, 2))
        a, q = p + int(rng.integers(1, 3)), lambda: float(rng.integers(1, 50))/10
        row = []
        for l in range(levels): row += [(a + l)/10, q(), (p - l)/10, q()]
        if rng.random() < odd:
            what = rng.integers(5)
            if what == 0: row[0] = row[2]                                    # locked
            elif what == 1: row[0] = row[2] - .1                             # crossed
            elif what == 2: row[2] = row[3] = None                           # no bid
            elif what == 3: row[-4:] = [None]*4                              # a level is missing
            elif rows:
                rows.append(list(rows[-1]))                                  # the row before, again
                continue
        delay = int(rng.integers(-1000, 400_000))
        rows.append(book_row(t - delay, t, *row))
    return rows


def random_trades(rng, n, unknown=.5, start=T0, step=.6):
    "Rows of a random trades file, a few repeated, some of unknown side"
    rows, t = [], start
    for i in range(n):
        t += int(rng.exponential(step)*SEC)
        side = "unknown" if rng.random() < unknown else ("buy", "sell")[rng.integers(2)]
        rows.append([t - int(rng.integers(0, 300_000)), t, 1000 + i, side, (1000 + int(rng.integers(-3, 4)))/10, float(rng.integers(1, 90))/10])
        if rng.random() < .05: rows.append(list(rows[-1]))
    return rows


def as_updates(books, levels):
    "A feed of updates with the same books: a snapshot, then what changed, removals by size 0"
    rows, old = [], None
    for exch, local, *lv in books:
        new = {(s, lv[4*l + k]): lv[4*l + k + 1] for l in range(levels) for s, k in (("ask", 0), ("bid", 2)) if lv[4*l + k] is not None}
        change = new if old is None else {k: q for k, q in new.items() if old.get(k) != q} | {k: 0 for k in old if k not in new}
        rows += [[exch, local, "true" if old is None else "false", *k, q] for k, q in change.items()]
        old = new
    return rows


def _ceil(t): return -(-t//SEC)


def _level_flow(new, old):
    "Cont, Kukanov & Stoikov for one level: (ask, size, bid, size) now and before; a missing side is at infinity with size 0"
    fix = lambda b: (math.inf if b[0] is None else b[0], b[1] or 0., -math.inf if b[2] is None else b[2], b[3] or 0.)
    (a, r, b, q), (a0, r0, b0, q0) = fix(new), fix(old)
    return (b >= b0)*q - (b <= b0)*q0 - ((a <= a0)*r - (a >= a0)*r0)


def reference_grid(books, trades, levels, max_stale=60, clock="local"):
    "The grid by one plain loop an event: {second: row}, counts. Slow, and written apart from the package"
    seconds, counts, kept, prev, last_row, now = {}, dict(crossed=0, empty=0, locked=0, book_duplicates=0), [], None, None, -1
    for exch, local, *lv in books:
        b = [tuple(lv[4*l:4*l + 4]) for l in range(levels)]
        now = max(now, exch) if clock == "exchange" else local
        repeat, last_row = last_row == (exch, local) and prev == b, (exch, local)
        if b[0][0] is None or b[0][2] is None: counts["empty"] += 1; continue
        if b[0][2] > b[0][0]: counts["crossed"] += 1; continue
        if repeat: counts["book_duplicates"] += 1; continue
        counts["locked"] += b[0][0] == b[0][2]
        s = _ceil(now)
        row = seconds.setdefault(s, dict(ofi=[0.]*levels, n=0))
        if prev is not None and s - kept[-1][0] <= max_stale + 1:
            for l in range(levels): row["ofi"][l] += _level_flow(b[l], prev[l])
        row["n"] += 1
        row["book"] = prev = b
        kept.append((s, now, (b[0][0] + b[0][2])/2))
    grid, first = {}, kept[0][0]
    for s in range(first, kept[-1][0] + 1):
        past = [k for k in (s - i for i in range(max_stale + 1)) if k in seconds]
        if past: grid[s] = dict(book=seconds[past[0]]["book"], stale=past[0] != s, ofi=[0.]*levels, n_updates=0, trades=[])
        if s in seconds: grid[s].update(ofi=seconds[s]["ofi"], n_updates=seconds[s]["n"])
    segment = None
    for s in grid:
        segment = segment if s - 1 in grid else s
        grid[s]["segment"] = segment
    counts |= reference_trades(trades, kept, grid, max_stale, clock)
    return grid, counts


def reference_trades(trades, kept, grid, max_stale, clock):
    "Put signed trades into `grid`"
    n, ids, last, direction, t_last, now = dict(trade_duplicates=0, trades_outside=0, n_quote_rule=0, n_tick_rule=0, n_unsigned=0), set(), None, 0, None, -1
    for exch, local, i, side, price, amount in trades:
        now = max(now, exch) if clock == "exchange" else local
        if i in ids: n["trade_duplicates"] += 1; continue
        ids.add(i)
        if t_last is None or now - t_last > max_stale*SEC: last, direction = None, 0
        t_last = now
        if last is not None and price != last: direction = 1 if price > last else -1
        last = price
        sign = {"buy": 1, "sell": -1, "unknown": 0}[side]
        if sign == 0:
            before = [m for _, t, m in kept if t < now and now - t <= max_stale*SEC]
            if before and price != before[-1]: sign, rule = (1 if price > before[-1] else -1), "n_quote_rule"
            elif direction: sign, rule = direction, "n_tick_rule"
            else: rule = "n_unsigned"
            n[rule] += 1
        s = _ceil(now)
        if s in grid: grid[s]["trades"].append((sign, price, amount))
        else: n["trades_outside"] += 1
    return n


def sums(trades):
    "buy_vol, sell_vol, buy_n, sell_n, vwap, high, low of one second"
    v = {1: 0., -1: 0., 0: 0.}
    c = {1: 0, -1: 0, 0: 0}
    total = pv = 0.
    for sign, price, amount in trades:
        v[sign] += amount; c[sign] += 1; total += amount; pv += price*amount
    prices = [p for _, p, _ in trades]
    return [v[1], v[-1], c[1], c[-1], pv/total if trades else NAN, max(prices, default=NAN), min(prices, default=NAN)]


def assert_grid_equal(grid, expected, levels):
    "The package's grid against `reference_grid`, to the last bit"
    assert [t//SEC for t in grid.index] == list(expected)
    for (t, got), want in zip(grid.iterrows(), expected.values(), strict=True):
        book = [NAN if x is None else float(x) for level in want["book"] for x in level]
        flat = book + want["ofi"] + [want["n_updates"]] + sums(want["trades"]) + [want["stale"], want["segment"]*SEC]
        np.testing.assert_array_equal(np.array(got.tolist(), float), np.array(flat, float), err_msg=str(t))
