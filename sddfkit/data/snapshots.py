"""Snapshots: a table frozen as Parquet shards with a manifest that vouches for every byte."""

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sddfkit.data.records import RECORDS, RecordError, check_one_level

MANIFEST = "manifest.json"
FORMAT = 1


def write_snapshot(
    table: pa.Table, folder: str | Path, *, code_version: str = "", rows_per_shard: int = 100_000
) -> Path:
    """Write records as Parquet shards and ``manifest.json``; the folder appears complete or not at all.

    Parameters
    ----------
    table : rows with the columns of `RECORDS`, and perhaps more after them, each with unit and shape in its metadata
    folder : must not exist yet; snapshots are never changed
    code_version : recorded in the manifest
    rows_per_shard : rows of one Parquet file

    Returns
    -------
    Path
        Of the manifest: format, created (UTC), code version, level, program, rows, units and shape of each column, and
        name, rows and sha256 of each shard.

    Raises
    ------
    RecordError
        Another schema, labels of two levels, or a folder that exists.
    """
    folder = Path(folder)
    if not _holds_records(table.schema):
        raise RecordError(
            f"the table has columns {table.column_names}; a snapshot needs the schema sddfkit.data.RECORDS"
        )
    if bare := [field.name for field in table.schema if not {b"unit", b"shape"} <= set(field.metadata or {})]:
        raise RecordError(f"the columns {bare} do not say their unit and shape in the metadata of their field")
    if rows_per_shard < 1:
        raise RecordError(f"{rows_per_shard=}; expected at least 1")
    if folder.exists():
        raise RecordError(f"{folder} exists; snapshots are never overwritten, choose another folder")
    check_one_level(table)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        shards = [_write_shard(table, part, start, rows_per_shard) for start in range(0, len(table), rows_per_shard)]
        (part / MANIFEST).write_text(json.dumps(_manifest(table, shards, code_version), indent=1, ensure_ascii=False))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone after the rename; left over only after an error
    return folder / MANIFEST


def read_snapshot(folder: str | Path) -> pa.Table:
    """Read a snapshot after checking every shard against the manifest.

    Raises
    ------
    RecordError
        No manifest, an unknown format, a missing or altered shard, rows or columns that do not match.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    tables = []
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise RecordError(f"{path} is missing; the manifest lists it")
        if _sha256(path) != shard["sha256"]:
            raise RecordError(f"{path} differs from what was written (sha256); restore it from a copy")
        tables.append(pq.read_table(path))
    found = tables[0].schema if tables else RECORDS
    if not _holds_records(found):
        raise RecordError(f"{folder} has columns {found.names}, expected those of sddfkit.data.RECORDS")
    schema = pa.schema([*RECORDS, *list(found)[len(RECORDS) :]])  # Parquet may drop what makes the two equal
    table = pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in tables)])
    if len(table) != manifest["rows"]:
        raise RecordError(f"{folder} holds {len(table)} rows, the manifest says {manifest['rows']}")
    return table


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Manifest of a snapshot.

    Raises
    ------
    RecordError
        No snapshot there, or one of a later format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise RecordError(f"{folder} is not a snapshot: it has no {MANIFEST}")
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise RecordError(f"{path}: format {manifest.get('format')!r}; this version reads {FORMAT}")
    return manifest


def _holds_records(schema: pa.Schema) -> bool:
    """Say whether the first columns are those of `RECORDS`."""
    return pa.schema(list(schema)[: len(RECORDS)]).equals(RECORDS)


def _write_shard(table: pa.Table, folder: Path, start: int, rows: int) -> dict[str, Any]:
    part = table.slice(start, rows)
    path = folder / f"records-{start // rows:05d}.parquet"
    pq.write_table(part, path, compression="zstd")
    return {"file": path.name, "rows": len(part), "sha256": _sha256(path)}


def _manifest(table: pa.Table, shards: list[dict[str, Any]], code_version: str) -> dict[str, Any]:
    levels = sorted(set(table["level"].to_pylist()) - {""})
    programs = sorted(set(table["program"].to_pylist()) - {""})
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version,
        "level": levels[0] if levels else "",
        "program": programs[0] if programs else "",
        "rows": len(table),
        "columns": {
            field.name: {key.decode(): value.decode() for key, value in field.metadata.items()}
            for field in table.schema
        },
        "shards": shards,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
