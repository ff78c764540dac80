"""What a set holds and vouches for: ``manifest.json``, ``index.json`` and ``reference.csv``."""

import csv
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from sddfkit import __version__
from sddfkit.rmsd_set.build import Settings
from sddfkit.rmsd_set.components import RmsdSetError
from sddfkit.rmsd_set.files import sha256
from sddfkit.rmsd_set.journal import Place

FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "index.json"
REFERENCE = "reference.csv"
SETTINGS = "settings.json"
TOP = 10_000
"""Files with more automorphisms are of the kind ``top`` in the index, the others ``ccd``."""
COLUMNS = (
    "file",
    "i",
    "j",
    "atoms",
    "n_atoms",
    "n_orbits",
    "n_automorphisms",
    "sc_rmsd",
    "min_sc_rmsd",
    "method_sc",
    "method_min",
)


def claim_settings(folder: Path, settings: Settings, dictionary: str) -> dict[str, Any]:
    """Write what decides the contents of a set, or check it against what the folder was begun with.

    Raises
    ------
    RmsdSetError
        If anything differs; the message names it.
    """
    identity: dict[str, Any] = {
        "format": FORMAT,
        "dictionary": dictionary,
        "settings": asdict(settings),
        "versions": {"sddfkit": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in ("numpy", "rdkit", "pynauty", "spyrmsd")},
    }
    path = folder / SETTINGS
    if not path.is_file():
        with _whole(path) as stream:
            json.dump(identity, stream, indent=1)
        return identity
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        f"{name} was {_flat(before).get(name)}, is {value}"
        for name, value in _flat(identity).items()
        if _flat(before).get(name) != value
    ]
    if changed:
        raise RmsdSetError(f"{folder} was begun otherwise ({'; '.join(changed)}): keep to that, or name another folder")
    return identity


def write_manifest(folder: Path, identity: Mapping[str, Any], places: Mapping[str, Place]) -> None:
    """Write reference values, index and manifest of all finished components, sorted by id.

    Nothing in them depends on when, where or in how many goes the set was built.
    """
    with (
        _whole(folder / REFERENCE) as reference,
        _whole(folder / INDEX) as index,
        _whole(folder / MANIFEST) as manifest,
    ):
        table = csv.writer(reference, lineterminator="\n")
        table.writerow(COLUMNS)
        index.write("[")
        rows = (places[name].row() for name in sorted(places))
        # One line per component: the file may be large, and people look into it with the tools for lines.
        lines, separator = [], "\n"
        for row in rows:
            row.pop("attempt")
            for kind, values in row["graphs"].items():
                if values["sc"]:
                    table.writerows(_reference_rows(kind, values, identity["settings"]["conformers"]))
                    index.write(separator + json.dumps(_index_row(row, values)))
                    separator = ",\n"
                del values["sc"], values["least"]
            lines.append(json.dumps(row))
        index.write("\n]\n")
        reference.flush()
        index.flush()
        head = {
            **identity,
            "n_components": len(lines),
            "n_with_failures": sum(bool(place.classes) for place in places.values()),
            "reference": {"path": REFERENCE, "sha256": sha256(Path(reference.name))},
            "index": {"path": INDEX, "sha256": sha256(Path(index.name))},
        }
        manifest.write(json.dumps(head, indent=1)[:-2] + ',\n "components": [\n' + ",\n".join(lines) + "\n]}\n")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a set.

    Raises
    ------
    RmsdSetError
        If there is none, or one of another format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise RmsdSetError(f"{folder} holds no finished set: it has no {MANIFEST}")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise RmsdSetError(f"{path}: format {manifest.get('format')!r}; this version reads {FORMAT}")
    return manifest


def _reference_rows(kind: str, values: Mapping[str, Any], k: int) -> Iterator[tuple[Any, ...]]:
    pairs = ((i, j) for i in range(k) for j in range(i + 1, k))
    counts = (kind, values["n_atoms"], values["n_orbits"], values["n_automorphisms"])
    methods = (values["method_sc"], values["method_min"])
    for (i, j), sc, least in zip(pairs, values["sc"], values["least"], strict=True):
        yield (values["file"], i, j, *counts, _number(sc), _number(least), *methods)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _index_row(row: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "file": values["file"],
        "base": row["id"],
        "split": "open",
        "kind": "top" if values["n_automorphisms"] > TOP else "ccd",
        "how": ", ".join(row["how"]),
        "n_atoms": values["n_atoms"],
        "n_orbits": values["n_orbits"],
        "n_automorphisms": values["n_automorphisms"],
        "bruteforce": values["method_sc"].startswith("bruteforce"),
    }


@contextmanager
def _whole(path: Path) -> Iterator[IO[str]]:
    """A file to write that takes its place when it is complete."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8", newline="") as stream:
        yield stream
    partial.replace(path)


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
