"""A kernel that dies while its batch computes, and the next one that opens the batch by its name."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from sddfkit.factory import Batch
from sddfkit.factory.cluster import marked
from sddfkit.factory.store import attempts, calculations

KERNEL = """
import os, signal, sys, time
import numpy as np
from sddfkit.data.records import Record
from sddfkit.factory import Batch, Store
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
water = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
shifts = 3.0 * np.stack(np.meshgrid(*[np.arange(3.0)] * 3), axis=-1).reshape(-1, 1, 3)

def cube(number):
    return Record(
        record_id=str(number), molecule_id="27 O", name="27 waters", smiles="O", conformer=number, charge=0,
        multiplicity=1, atomic_numbers=np.tile([8, 1, 1], 27).astype(np.int32),
        positions=(water * (1 + 0.001 * number) + shifts).reshape(-1, 3), bonds=np.zeros((0, 3), dtype=np.int32),
        formal_charges=np.zeros(81, dtype=np.int32),
    )

store = Store(sys.argv[1] + "/store.sqlite")
batch = Batch(store, "cubes")
batch.submit([cube(i) for i in range(16)], LEVEL, LEVEL.choose())
batch.start(engines=2)
while batch.progress().done < 3:
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_batch_whose_kernel_died_goes_on_with_the_engines_that_it_had(tmp_path):
    kernel = subprocess.run([sys.executable, "-c", KERNEL, str(tmp_path)], check=False, capture_output=True, text=True)
    assert kernel.returncode == -9, kernel.stderr
    assert [item for item in marked() if Path(tmp_path) in item.folder.parents], "its engines live on"
    with Batch.open("cubes", tmp_path) as batch:
        already = 16 - batch.open_count()
        assert already >= 3
        batch.start(engines=2)
        outcome = batch.wait()
        assert outcome.known == already and outcome.computed == 16 - already and outcome.failed == 0
        rows = batch.store.select(sa.select(attempts.c.key, attempts.c.state, attempts.c.engine))
        states = batch.store.select(sa.select(calculations.c.state))
    assert [row["state"] for row in states] == ["done"] * 16
    assert len(rows) == len({row["key"] for row in rows}) == 16, "nothing was computed twice"
    assert len({row["engine"] for row in rows}) == 2, "no engine was started anew"
    assert not [item for item in marked() if Path(tmp_path) in item.folder.parents]
