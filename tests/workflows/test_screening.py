"""Screening against a plain loop over the file, whatever the format, the processes and where it was interrupted."""

import bz2
import csv
import gzip
import json

import numpy as np
import pytest
from rdkit import Chem

from sddfkit.active import LossPredictor, Pool
from sddfkit.active.streaming import Best, Candidate
from sddfkit.chem.fingerprints import maccs
from sddfkit.chem.molecules import MoleculeError, molecule_id
from sddfkit.chem.parsers import chunks, entries, parsed
from sddfkit.chem.screening import Screen, lot, screen_chunk
from sddfkit.config import load
from sddfkit.workflows import screening
from sddfkit.workflows.screening import screen_file, screen_molecules

PARTS = (
    "C",
    "CC",
    "CCC",
    "c1ccccc1",
    "C1CC1",
    "N",
    "O",
    "F",
    "Cl",
    "C(=O)O",
    "C#N",
    "S(C)(=O)=O",
    "C(F)(F)F",
    "[Si]",
    "Br",
)
SMILES = [f"{a}C{b}" if b[0] != "[" else f"{a}C" for a in PARTS[:6] for b in PARTS] + ["C[N+](C)(C)C", "nonsense", "C*"]
WEIGHTS = tuple(np.random.default_rng(0).normal(size=167).tolist())


def plain(smiles, screen: Screen) -> list[tuple[float, str]]:
    """(score, identity) of the distinct molecules, by falling score."""
    allowed = set(screen.elements or ())
    found = {}
    for text in smiles:
        mol = Chem.MolFromSmiles(text)
        if mol is None or any(atom.GetSymbol() not in allowed for atom in mol.GetAtoms()):
            continue
        if Chem.GetFormalCharge(mol) != 0:
            continue
        found[molecule_id(mol)] = round(float(maccs([text])[0] @ np.array(WEIGHTS)) + 0.5, 9)
    return sorted(((score, name) for name, score in found.items()), reverse=True)


@pytest.fixture
def screen():
    return Screen(("H", "C", "N", "O", "F", "S", "Cl"), min_charge=0, max_charge=0, weights=WEIGHTS, constant=0.5)


@pytest.fixture
def inline(monkeypatch):
    """The same chunks without processes; a test with processes stands beside."""

    def in_order(portions, screen, state, workers):
        del workers
        yield None
        for chunk in portions:
            yield screen_chunk(chunk, screen, state.top.threshold, state.sample.threshold)

    monkeypatch.setattr(screening, "_in_order", in_order)


def written(folder, suffix: str, smiles=SMILES):
    rows = [f"{text}\tname {i}\tS" for i, text in enumerate(smiles)]
    text = "\n".join(["smiles\tid\tType", *rows] if "cxsmiles" in suffix else rows) + "\n"
    if suffix.startswith(".csv"):
        text = "name,smiles\n" + "".join(f"name {i},{one}\n" for i, one in enumerate(smiles))
    if suffix.startswith(".sdf"):
        mols = [Chem.MolFromSmiles(one) for one in smiles]
        text = "".join(Chem.MolToMolBlock(mol) + "$$$$\n" for mol in mols if mol is not None)
    packed = {"gz": gzip.compress, "bz2": bz2.compress}.get(suffix.rpartition(".")[2], bytes)
    path = folder / f"file{suffix}"
    path.write_bytes(packed(text.encode()))
    return path


@pytest.mark.parametrize("suffix", [".smi", ".csv.gz", ".cxsmiles", ".cxsmiles.bz2", ".sdf.gz"])
def test_it_finds_what_a_plain_loop_finds(tmp_path, screen, inline, suffix):
    expected = plain(SMILES, screen)
    state = screen_file(written(tmp_path, suffix), screen, top=10, chunk_lines=7)
    best = [(candidate.row[3], candidate.identity) for candidate in state.top.sorted()]
    assert [score for score, _ in best] == pytest.approx([score for score, _ in expected[:10]])
    assert len({name for _, name in best}) == 10
    assert state.reasons["element not allowed"] > 0 and state.reasons["charge not allowed"] == 1
    assert all(state.refused[kind][0].reason.startswith(kind) for kind in state.reasons)
    if not suffix.startswith(".sdf"):
        assert state.reasons["RDKit refuses it"] == 1
        assert state.lines == state.molecules + sum(state.reasons.values()) == len(SMILES)


def test_processes_and_chunks_make_no_difference(tmp_path, screen):
    path = written(tmp_path, ".smi")
    found = [
        screen_file(path, screen, top=5, sample=5, workers=workers, chunk_lines=size).document()
        for workers, size in ((2, 9), (1, 1000))
    ]
    for document in found:
        document.pop("seconds")
        document.pop("refused")  # examples, some of each chunk
        document.pop("read")
    assert found[0] == found[1]


@pytest.mark.parametrize("suffix", [".smi", ".cxsmiles.bz2", ".csv.gz"])
def test_interrupted_it_goes_on_to_the_same_result(tmp_path, screen, inline, suffix):
    path, checkpoint = written(tmp_path, suffix), tmp_path / "kept.json"
    whole = screen_file(path, screen, top=6, sample=4, chunk_lines=5)
    seen = []

    def stop(state):
        seen.append(state.line)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen_file(path, screen, top=6, sample=4, chunk_lines=5, checkpoint=checkpoint, show=stop)
    again = []
    rest = screen_file(
        path, screen, top=6, sample=4, chunk_lines=5, checkpoint=checkpoint, show=lambda s: again.append(s.line)
    )
    assert again[0] > seen[-1], "nothing is screened twice"
    one, other = whole.document(), rest.document()
    for document in (one, other):
        document.pop("seconds")
    assert one == other
    with pytest.raises(ValueError, match="is of another screening"):
        screen_file(path, screen, top=7, sample=4, checkpoint=checkpoint)


def test_a_sample_is_drawn_evenly_and_a_fraction_is_looked_at(tmp_path, inline):
    smiles = [f"{'C' * i}{tail}" for i in range(1, 51) for tail in ("N", "O", "F", "S")]
    path = written(tmp_path, ".smi", smiles)
    rows = [screen_file(path, Screen(seed=seed), sample=20).sample.sorted() for seed in range(12)]
    lines = np.array([candidate.row[0] for found in rows for candidate in found])
    assert len({candidate.identity for candidate in rows[0]}) == 20 and len(set(lines.tolist())) > 100
    assert lines.mean() == pytest.approx(100.5, abs=4 * 57.7 / np.sqrt(240))
    some = screen_file(path, Screen(fraction=0.3), sample=1)
    assert some.skipped + some.molecules == 200 and 30 < some.molecules < 90
    assert some.molecules == sum(lot(text, 0, "fraction") < 0.3 for text in smiles)


def test_the_same_molecule_twice_is_one(tmp_path, screen, inline):
    path = written(tmp_path, ".smi", ["OCC", "CCO", "C(C)O", "CCN"])
    assert len(screen_file(path, screen, top=4, sample=4).top.sorted()) == 2


@pytest.mark.parametrize("suffix", [".smi", ".csv", ".cxsmiles.bz2", ".sdf"])
def test_chunks_hold_the_entries_of_the_file(tmp_path, suffix):
    path = written(tmp_path, suffix)

    def told(stream):
        return [(entry.line, entry.text, getattr(entry, "name", "")) for entry in stream]

    pieces = [entry for chunk in chunks(path, size=4) for entry in parsed(chunk)]
    assert told(pieces) == told(entries(path)) != []


def test_pains_are_refused_where_asked(tmp_path, inline):
    path = written(tmp_path, ".smi", ["O=C1NC(=S)SC1=Cc1ccccc1", "CCO"])
    assert screen_file(path, Screen(pains=True), sample=2).reasons == {"PAINS": 1}
    assert screen_file(path, Screen(), sample=2).molecules == 2


def test_tables_are_written_and_can_be_read_as_molecules(tmp_path, screen, inline):
    path = written(tmp_path, ".cxsmiles")
    table = screen_molecules(molecules=str(path), screen=screen, top=3, sample=2, workers=1, folder=tmp_path)
    rows = list(csv.DictReader(table.open()))
    scores = [float(row["predicted_error_ev_per_atom"]) for row in rows]
    assert len(rows) == 3 and scores == sorted(scores, reverse=True) and rows[0]["name"].startswith("name ")
    assert [entry.molecule for entry in entries(table)] == [row["smiles"] for row in rows]
    assert json.loads((tmp_path / "screen.json").read_text())["lines"] == len(SMILES)
    assert "nonsense" in (tmp_path / "rejected.csv").read_text()


def test_the_predictor_ranks_a_stream_as_it_ranks_a_pool(tmp_path, inline):
    rng = np.random.default_rng(1)
    smiles = ["CCO", "CCN", "c1ccccc1O", "CC(=O)O", "CCCl"]
    keys = maccs(smiles)
    names = [str(i) for i in range(5)]
    fitted = LossPredictor().fit(Pool(names, names, {"maccs": keys, "errors": rng.random((3, 5))}))
    (tmp_path / "loss_predictor.json").write_text(json.dumps(fitted.to_dict()))
    weights, constant = screening.load_predictor(screening.find_predictor(str(tmp_path), tmp_path))
    state = screen_file(written(tmp_path, ".smi", smiles), Screen(weights=weights, constant=constant), top=5)
    found = {candidate.row[1]: candidate.row[3] for candidate in state.top.sorted()}
    scores = fitted.scores(Pool(names, names, {"maccs": keys}))
    np.testing.assert_allclose([found[text] for text in smiles], scores, atol=1e-8)


def test_what_cannot_work_is_said(tmp_path, screen, inline):
    path = written(tmp_path, ".smi")
    with pytest.raises(ValueError, match="name a predictor"):
        screen_file(path, Screen(), top=5)
    with pytest.raises(MoleculeError, match="fraction"):
        Screen(fraction=0.0)
    with pytest.raises(MoleculeError, match="below min_charge"):
        Screen(min_charge=1, max_charge=0)
    with pytest.raises(MoleculeError, match="167"):
        Screen(weights=(1.0,))
    with pytest.raises(ValueError, match="no run below"):
        screening.find_predictor("latest", tmp_path)
    with pytest.raises(ValueError, match="no loss predictor in"):
        screening.load_predictor(tmp_path / "nothing.json")
    cut = tmp_path / "cut.smi.gz"
    cut.write_bytes(gzip.compress("\n".join(SMILES[:9] * 150).encode())[:-20])
    with pytest.raises(MoleculeError, match="damaged or cut off"):
        screen_file(cut, screen, top=5)


def test_nothing_need_be_ranked():
    assert load("screen", ["path=mine.smi", "predictor=null", "sample=10"]).predictor is None


def test_the_best_of_a_stream_in_any_order():
    rng = np.random.default_rng(2)
    stream = [Candidate((float(i % 97), float(i)), f"m{i % 60}", ()) for i in range(400)]
    keys: dict[str, tuple[float, ...]] = {}
    for candidate in stream:
        keys[candidate.identity] = min(candidate.key, keys.get(candidate.identity, candidate.key))
    expected = sorted(keys.values())[:7]
    for _ in range(5):
        best = Best(7)
        best.offer(stream[i] for i in rng.permutation(400))
        assert [candidate.key for candidate in best.sorted()] == expected
    assert Best(0).sorted() == []
    with pytest.raises(ValueError, match="k=-1"):
        Best(-1)
