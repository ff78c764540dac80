import json
import math

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from torch_geometric.data import Batch

from sddfkit.data import Record, conformer_records, to_records
from sddfkit.models import UNSPECIFIED_BOND, GraphError, GraphStats, graph, graph_stats, neighbours


def record(smiles: str = "C=O") -> Record:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return to_records(conformer_records(mol))[0]


def test_neighbours_are_all_close_pairs_in_both_directions() -> None:
    pos = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * 6
    molecule = torch.arange(40) // 20
    found = {tuple(edge) for edge in neighbours(pos, 2.5, molecule).T.tolist()}
    expected = {
        (i, j)
        for i in range(40)
        for j in range(40)
        if i != j and i // 20 == j // 20 and math.dist(pos[i].tolist(), pos[j].tolist()) < 2.5
    }
    assert found == expected


def test_a_graph_carries_labels_bonds_and_identity() -> None:
    labelled = record()._replace(forces=np.arange(12.0).reshape(4, 3))
    data = graph(labelled, 5.0, energy=-1.25)
    assert data.y.tolist() == [-1.25]
    assert data.forces.tolist() == np.arange(12.0).reshape(4, 3).tolist()
    assert data.record_id == labelled.record_id
    assert data.molecule_id == "C=O"
    edges = zip(data.edge_index.T.tolist(), data.edge_bond.tolist(), strict=True)
    kinds = {tuple(sorted(edge)): kind for edge, kind in edges}
    assert kinds[0, 1] == 1
    assert kinds[0, 2] == kinds[0, 3] == 0
    assert kinds[2, 3] == kinds[1, 2] == UNSPECIFIED_BOND


def test_unlabelled_records_give_graphs_without_targets() -> None:
    data = graph(record(), 5.0)
    assert "y" not in data
    assert "forces" not in data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((3, 3))}, r"positions \(3, 3\) .* do not fit 4 atomic numbers"),
        ({"positions": np.full((4, 3), np.nan)}, "NaN"),
        ({"positions": np.zeros((4, 3))}, "closer than 0.1 Å"),
        ({"bonds": np.array([[0, 9, 0]])}, "names an atom outside"),
        ({"bonds": np.array([[0, 1, 12]])}, "names an atom outside .* or a type"),
    ],
)
def test_broken_records_are_refused(change: dict, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        graph(record()._replace(**change), 5.0)


def test_stats_describe_the_training_set() -> None:
    stats = graph_stats([graph(record("C=O"), 5.0), graph(record("N#N"), 5.0)])
    assert stats.elements == (1, 6, 7, 8)
    assert stats.bonds
    assert 0 < stats.mean_log_degree < math.log1p(stats.mean_degree) + 1e-9
    assert GraphStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def test_stats_of_a_pair_are_its_envelope() -> None:
    pair = record("N#N")._replace(positions=np.array([[0.0, 0, 0], [2.5, 0, 0]]))
    assert graph_stats([graph(pair, 5.0)]).mean_degree == pytest.approx(0.5)


def test_stats_of_nothing_are_refused() -> None:
    with pytest.raises(GraphError, match="no graphs"):
        graph_stats([])


def test_graphs_of_different_molecules_batch() -> None:
    batch = Batch.from_data_list([graph(record("C=O"), 5.0, energy=1.0), graph(record("N#N"), 5.0, energy=2.0)])
    assert batch.y.tolist() == [1.0, 2.0]
    assert batch.edge_index.max() == 5
