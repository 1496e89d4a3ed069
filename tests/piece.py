"A piece of work for the tests of `map_items`: in a module of its own, so that a worker finds it and starts fast."
import os

from lobresearch.errors import ParameterError


def record(item, folder):
    "Note each call in a file, so that calls in other processes are seen too"
    with open(item["log"], "a") as f: f.write(f"{item['x']}\n")
    if item["x"] < 0: raise ParameterError("x is negative")
    if item["x"] == 0: os._exit(1)  # a worker that dies
    return [item["x"], item["x"]**2]
