"""A job that labels is asked by another process to stop."""

from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from sddfkit.data.records import Record
from sddfkit.factory import Store, inbox
from sddfkit.qc import supervisor
from sddfkit.qc.levels import Level
from sddfkit.workflows.label import Labeller

GFN2 = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})


def water(number: int) -> Record:
    positions = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
    return Record(
        record_id=f"water {number}", molecule_id="O", name="water", smiles="O", conformer=number, charge=0,
        multiplicity=1, atomic_numbers=np.array([8, 1, 1], dtype=np.int32), positions=positions * (1 + 0.01 * number),
        bonds=np.array([[0, 1, 0], [0, 2, 0]], dtype=np.int32), formal_charges=np.zeros(3, dtype=np.int32),
    )  # fmt: skip


def test_a_stopped_job_does_not_go_on_with_half_of_its_labels(tmp_path):
    asked = 0

    class Here:
        """Computes in this process; while the second message is computed, somebody asks the job to stop."""

        def submit(self, function, jobs, **limits):
            nonlocal asked
            asked += 1
            if asked == 2:
                inbox.leave(tmp_path / "inbox", {"do": "stop"})
            future: Future = Future()
            future.set_result(function(jobs, **limits))
            return future

    def labeller() -> Labeller:
        cluster = SimpleNamespace(executor=lambda: (Here(), 1))
        chosen = GFN2.choose()
        return Labeller(lambda: Store(tmp_path / "store.sqlite"), cluster, GFN2, chosen, batch="b")

    records = [water(i) for i in range(30)]
    first = labeller()
    with pytest.raises(KeyboardInterrupt):
        first.label(records, "labels")
    assert not first.labels.records
    again = labeller()
    again.label(records, "labels")
    supervisor.close()
    assert len(again.labels.records) == 30 and again.labels.atoms.keys() == {1, 8}
    assert 0 < again.labels.known < 32 and again.labels.known + again.labels.computed == 32
