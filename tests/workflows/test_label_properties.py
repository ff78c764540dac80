"""What labelling does with a property that some results do not hold: a null and a sentence, and the rest goes on."""

import numpy as np
import pyarrow as pa
import pytest

from sddfkit.data.records import Record
from sddfkit.workflows.label import Labels, _property_columns

GRADIENT = [[0.0, 0.0, 0.1], [0.0, 0.0, -0.1]]
MOLECULE = {"symbols": ["H", "H"], "geometry": [[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]}
OLD = {"success": True, "properties": {"return_energy": -1.0}, "molecule": MOLECULE, "extras": {}}
NEW = {
    **OLD,
    "properties": {"return_gradient": GRADIENT},
    "extras": {"mulliken_charges": [0.1, -0.1], "ao_basis": {"shells": []}},
}


def record(name: str) -> Record:
    return Record(**{**dict.fromkeys(Record._fields), "record_id": name, "name": name})


def test_a_result_of_an_older_store_is_null_and_named() -> None:
    labels = Labels()
    for name, result in (("old", OLD), ("new", NEW)):
        labels.read(name, result, ["mulliken_charges", "ao_basis"])
    assert labels.properties["old"] == {"mulliken_charges": None, "ao_basis": None}
    np.testing.assert_array_equal(labels.properties["new"]["mulliken_charges"], [0.1, -0.1])
    assert labels.remarks["mulliken_charges"].keys() == {"old"}
    assert "the result holds no mulliken_charges" in labels.remarks["mulliken_charges"]["old"]

    found = _property_columns(labels, [record("new"), record("old")])
    columns = {field.name: (field, values) for field, values in found}
    field, values = columns["mulliken_charges"]
    assert field.type == pa.list_(pa.float64()) and field.metadata[b"unit"] == b"e"
    assert values.to_pylist() == [[0.1, -0.1], None]
    field, values = columns["ao_basis"]
    assert field.type == pa.string() and values.to_pylist() == ['{"shells":[]}', None]


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(KeyError):
        Labels().read("x", {**NEW, "extras": {"hessian": {}}}, ["frequencies"])
