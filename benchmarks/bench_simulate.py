"The embedded exchange: events a second in the compiled loop, beside the same loop in plain Python."
import os
import subprocess
import sys
import time

from lobresearch.data.exchange import EVENTS, Exchange, new_record, new_state, run, tables


def rate(seconds, repeats):
    "Events a second over the best of `repeats` runs of `seconds` simulated seconds"
    par = Exchange()
    tab, best = tables(par), 0.
    run(new_state(tab, 0), par, tab, 0, 4, new_record())                  # compile, or load what was compiled
    for seed in range(repeats):
        state = new_state(tab, seed)
        start = time.perf_counter()
        run(state, par, tab, 0, 4 * seconds, new_record())
        best = max(best, state.k[EVENTS] / (time.perf_counter() - start))
    return best


def main():
    if os.environ.get("NUMBA_DISABLE_JIT") == "1": return print(rate(20, 1))
    naive = subprocess.run([sys.executable, __file__], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=True)
    fast, slow = rate(12 * 3600, 3), float(naive.stdout)
    print(f"exchange: {fast/1e6:.1f} million events a second; in plain Python {slow/1e3:.1f} thousand; ratio {fast/slow:.0f}")


if __name__ == "__main__": main()
