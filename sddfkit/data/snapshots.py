"""Snapshots: a table frozen as Parquet shards with a manifest that vouches for every byte."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from sddfkit.data.records import RECORDS, RecordError, levels_of, refuse_mixture

MANIFEST = "manifest.json"
FORMAT = 1


def write_snapshot(
    tables: pa.Table | Iterable[pa.Table],
    folder: str | Path,
    *,
    code_version: str = "",
    rows_per_shard: int = 100_000,
    about: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write records as Parquet shards and ``manifest.json``; the folder appears complete or not at all.

    Parameters
    ----------
    tables : rows with the columns of `RECORDS`, and perhaps more after them, each with unit and shape in its metadata;
        a table, or tables of the same columns one after the other, of which one is in memory at a time
    folder : must not exist yet; snapshots are never changed
    code_version : recorded in the manifest
    rows_per_shard : rows of one Parquet file
    about : what else the manifest says: reference energies, licence, citation, sources
    files : name → text of small files beside the shards, with their sha256 in the manifest, too

    Returns
    -------
    Path
        Of the manifest: format, created (UTC), code version, level, program and its versions, rows, units and shape of
        each column, and name, rows and sha256 of each shard.

    Raises
    ------
    RecordError
        Another schema, labels of two levels, or a folder that exists.
    """
    folder = Path(folder)
    if rows_per_shard < 1:
        raise RecordError(f"{rows_per_shard=}; expected at least 1")
    if folder.exists():
        raise RecordError(f"{folder} exists; snapshots are never overwritten, choose another folder")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        shards = _Shards(part, rows_per_shard)
        with shards:
            for table in [tables] if isinstance(tables, pa.Table) else tables:
                shards.add(table)
        for name, text in (files or {}).items():
            (part / name).write_text(text)
        manifest = {
            **(about or {}),
            **shards.manifest(code_version),
            "files": [{"file": name, "sha256": _sha256(part / name)} for name in (files or {})],
        }
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone after the rename; left over only after an error
    return folder / MANIFEST


def read_snapshot(folder: str | Path) -> pa.Table:
    """Read a snapshot after checking every file against the manifest.

    Raises
    ------
    RecordError
        No manifest, an unknown format, a missing or altered file, rows or columns that do not match.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for listed in (*manifest["shards"], *manifest.get("files", ())):
        path = folder / listed["file"]
        if not path.is_file():
            raise RecordError(f"{path} is missing; the manifest lists it")
        if _sha256(path) != listed["sha256"]:
            raise RecordError(f"{path} differs from what was written (sha256); restore it from a copy")
    tables = [pq.read_table(folder / shard["file"]) for shard in manifest["shards"]]
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


class _Shards:
    """Parquet files of a folder, one after the other, each with so many rows, and what they hold."""

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self._folder = folder
        self._rows_per_shard = rows_per_shard
        self._schema: pa.Schema = RECORDS
        self._writer: pq.ParquetWriter | None = None
        self._written = 0  # rows of the open shard
        self._shards: list[dict[str, Any]] = []
        self._labelled: set[tuple[str, str]] = set()
        self._seen: dict[str, set[str]] = {"level": set(), "program": set(), "program_version": set()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end_shard()

    def add(self, table: pa.Table) -> None:
        """Write the rows of a table, as a row group of the shards they fall in."""
        if not _holds_records(table.schema):
            raise RecordError(
                f"the table has columns {table.column_names}; a snapshot needs the schema sddfkit.data.RECORDS"
            )
        if bare := [field.name for field in table.schema if not {b"unit", b"shape"} <= set(field.metadata or {})]:
            raise RecordError(f"the columns {bare} do not say their unit and shape in the metadata of their field")
        if not any(self._seen.values()) and not self._shards and self._writer is None:
            self._schema = table.schema
        elif not table.schema.equals(self._schema):
            raise RecordError(f"a table has columns {table.column_names}, those before it {self._schema.names}")
        self._labelled |= levels_of(table)
        refuse_mixture(self._labelled)
        for name, values in self._seen.items():
            values.update(table[name].unique().to_pylist())
        start = 0
        while start < len(table):
            room = self._rows_per_shard - self._written
            piece = table.slice(start, room)
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path(), self._schema, compression="zstd")
            self._writer.write_table(piece)
            self._written += len(piece)
            start += len(piece)
            if self._written == self._rows_per_shard:
                self._end_shard()

    def manifest(self, code_version: str) -> dict[str, Any]:
        """What the manifest says of the shards, once all are written."""
        levels, programs, versions = (sorted(values - {""}) for values in self._seen.values())
        return {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code_version": code_version,
            "level": levels[0] if levels else "",
            "program": programs[0] if programs else "",
            "program_versions": versions,
            "rows": sum(shard["rows"] for shard in self._shards),
            "columns": {
                field.name: {key.decode(): value.decode() for key, value in field.metadata.items()}
                for field in self._schema
            },
            "shards": self._shards,
        }

    def _path(self) -> Path:
        return self._folder / f"records-{len(self._shards):05d}.parquet"

    def _end_shard(self) -> None:
        if self._writer is not None:
            path = self._path()
            self._writer.close()
            self._shards.append({"file": path.name, "rows": self._written, "sha256": _sha256(path)})
            self._writer, self._written = None, 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
