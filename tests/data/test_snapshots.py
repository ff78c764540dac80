import json

import numpy as np
import pytest

from sddfkit.data.records import RECORDS, RecordError, from_records
from sddfkit.data.snapshots import read_manifest, read_snapshot, write_snapshot


@pytest.fixture
def rows(chain):
    records = [chain([6, 1], energy=-1051.0 - i, forces=np.zeros((2, 3)), seed=i) for i in range(7)]
    return from_records([record._replace(level="wb97x_631gd", program="pyscf") for record in records])


def test_round_trip_in_shards(tmp_path, rows):
    manifest = write_snapshot(rows, tmp_path / "set", code_version="1.2", rows_per_shard=3)
    assert manifest == tmp_path / "set" / "manifest.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"], "no temporary folder stays behind"
    table = read_snapshot(tmp_path / "set")
    assert table.equals(rows)
    assert table.schema.equals(RECORDS, check_metadata=True)
    content = read_manifest(tmp_path / "set")
    assert (content["level"], content["program"], content["code_version"]) == ("wb97x_631gd", "pyscf", "1.2")
    assert [shard["rows"] for shard in content["shards"]] == [3, 3, 1]
    assert content["rows"] == 7
    assert content["columns"]["forces"] == {
        "unit": "eV/Å",
        "shape": "(n, 3) row by row",
        "description": "minus the gradient of the energy",
    }


def test_empty_snapshot(tmp_path):
    write_snapshot(from_records([]), tmp_path / "set")
    assert len(read_snapshot(tmp_path / "set")) == 0


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, rows):
    write_snapshot(rows, tmp_path / "set")
    with pytest.raises(RecordError, match="never overwritten"):
        write_snapshot(rows, tmp_path / "set")
    with pytest.raises(RecordError, match=r"needs the schema sddfkit\.data\.RECORDS"):
        write_snapshot(rows.drop_columns(["energy"]), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_mixed_levels_are_refused(tmp_path, rows, chain):
    stranger = from_records([chain([6, 1], energy=-1.0)._replace(level="gfn2", program="tblite")])
    import pyarrow as pa

    with pytest.raises(RecordError, match=r"gfn2 \(tblite\) and wb97x_631gd \(pyscf\)"):
        write_snapshot(pa.concat_tables([rows, stranger]), tmp_path / "set")


def test_damage_is_noticed(tmp_path, rows):
    write_snapshot(rows, tmp_path / "set", rows_per_shard=4)
    shard = tmp_path / "set" / "records-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RecordError, match=r"records-00001\.parquet differs from what was written"):
        read_snapshot(tmp_path / "set")
    shard.unlink()
    with pytest.raises(RecordError, match=r"records-00001\.parquet is missing"):
        read_snapshot(tmp_path / "set")


def test_what_is_no_snapshot(tmp_path, rows):
    with pytest.raises(RecordError, match="is not a snapshot"):
        read_snapshot(tmp_path)
    write_snapshot(rows, tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(RecordError, match="format 99; this version reads 1"):
        read_snapshot(tmp_path / "set")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1, "rows": 8}))
    with pytest.raises(RecordError, match="holds 7 rows, the manifest says 8"):
        read_snapshot(tmp_path / "set")


def test_a_stream_of_tables_is_written_as_one_table_would_be(tmp_path, rows):
    alive = []

    def tables():
        for start in range(0, 7, 2):
            alive.append(start)
            yield rows.slice(start, 2)

    write_snapshot(tables(), tmp_path / "set", rows_per_shard=3)
    assert read_snapshot(tmp_path / "set").equals(rows)
    manifest = read_manifest(tmp_path / "set")
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 3, 1]
    assert (manifest["rows"], manifest["level"], alive) == (7, "wb97x_631gd", [0, 2, 4, 6])
    write_snapshot(iter([]), tmp_path / "none")
    assert len(read_snapshot(tmp_path / "none")) == 0


def test_a_stream_that_breaks_leaves_nothing(tmp_path, rows, chain):
    stranger = from_records([chain([6, 1], energy=-1.0)._replace(level="gfn2", program="tblite")])
    for last, words in (
        (stranger, r"gfn2 \(tblite\) and wb97x_631gd \(pyscf\)"),
        (rows.append_column(RECORDS.field("smiles").with_name("more"), rows["smiles"]), "those before it"),
    ):
        with pytest.raises(RecordError, match=words):
            write_snapshot(iter([rows, last]), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_what_else_the_manifest_says_and_files_beside_the_shards(tmp_path, rows):
    about = {"licence": "MIT", "rows": 99}
    write_snapshot(rows, tmp_path / "set", about=about, files={"isolated_atoms.json": "{}"})
    manifest = read_manifest(tmp_path / "set")
    assert (manifest["licence"], manifest["rows"], manifest["program_versions"]) == ("MIT", 7, [])
    assert manifest["files"][0]["file"] == "isolated_atoms.json"
    read_snapshot(tmp_path / "set")
    (tmp_path / "set" / "isolated_atoms.json").write_text('{"1": -13.6}')
    with pytest.raises(RecordError, match=r"isolated_atoms\.json differs from what was written"):
        read_snapshot(tmp_path / "set")
