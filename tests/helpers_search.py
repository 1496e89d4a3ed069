"A made-up score for the tests of the search: in a module of its own, so that a worker finds it and starts fast."
import math
import time


def hill(item, folder):
    "A made-up score, largest at depth 4, a rate of .001 and flow"
    if "log" in item:
        with open(item["log"], "a") as f: f.write(f"{folder}\n")
    time.sleep(item.get("sleep", 0))
    net, lr = item["net"], item["train"]["lr"]
    return dict(valid=[1 - (net["depth"] - 4)**2/4 - math.log10(lr/.001)**2 - .3*(net["inputs"] == "book")])
