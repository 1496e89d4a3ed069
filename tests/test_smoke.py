"The whole chain runs at toy size, and a second repro does nothing."
from smoke import chain


def test_the_whole_chain_at_toy_size(tmp_path):
    metrics = chain(tmp_path)
    assert {"01_data", "02_facts", "04_labels_splits", "05_forecast", "09_luck", "10_answer"} <= set(metrics)
    assert metrics["01_data"]["SIM-NULL.rows"] > 3000
    assert len({m["_data"] for m in metrics.values()}) == 1
