"""A coordinator to be killed: opens the store, asks for the batch, runs it on a cluster of its own, and ends.

    python benchmarks/_factory_coordinator.py ROOT ENGINES

``ROOT/asked.jsonl`` holds the calculations. To start it again with the same words is all that is ever done about it.
"""

import json
import logging
import sys
from pathlib import Path

from _factory_work import calculations, read_tasks

from sddfkit.factory import Batch, Cluster, Store

BATCH = "kill rounds"
ASKED = "asked.jsonl"
TIMEOUT_S = 300.0  # of a calculation that takes seconds
MEMORY_GIB = 2.0


def main() -> None:
    """Run the batch to its end."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    root, engines = Path(sys.argv[1]), int(sys.argv[2])
    asked = calculations(read_tasks(root / ASKED))
    with (
        Store(root / "store.sqlite", wait_s=60.0) as store,
        Cluster(root / "clusters" / "kill", engines=engines) as cluster,
    ):
        batch = Batch(store, BATCH, timeout_s=TIMEOUT_S, memory_gib=MEMORY_GIB)
        known = batch.add(asked)
        outcome = batch.run(cluster.executor)
    print(json.dumps({"known": known, **outcome._asdict()}))


if __name__ == "__main__":
    main()
