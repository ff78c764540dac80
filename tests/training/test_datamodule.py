import itertools

import pytest

from sddfkit.data import Record
from sddfkit.models import graph
from sddfkit.training import GraphDataModule


def orders(springs: list[Record], seed: int, epochs: int = 2) -> list[list[str]]:
    graphs = [graph(record, 5.0, energy=0.0) for record in springs]
    loader = GraphDataModule(graphs, graphs[:1], batch_size=5, seed=seed).train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # as Lightning does
        found.append([name for batch in loader for name in batch.record_id])
    return found


def test_every_epoch_visits_every_graph_once_in_an_order_fixed_by_the_seed(springs: list[Record]) -> None:
    first, second = orders(springs, seed=1)
    assert sorted(first) == sorted(second) == sorted(record.record_id for record in springs)
    assert first != second
    assert orders(springs, seed=1) == [first, second]
    assert orders(springs, seed=2) != [first, second]


def test_validation_keeps_order_and_covers_all(springs: list[Record]) -> None:
    graphs = [graph(record, 5.0, energy=0.0) for record in springs]
    module = GraphDataModule(graphs[:1], graphs * 10, batch_size=5, seed=0)
    names = [name for batch in module.val_dataloader() for name in batch.record_id]
    assert names == [record.record_id for record in springs] * 10


def test_empty_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="0 training and 0 validation"):
        GraphDataModule([], [], batch_size=4, seed=0)


def test_conformers_of_a_molecule_come_together_when_asked(springs: list[Record]) -> None:
    graphs = [graph(record, 5.0, energy=0.0) for record in springs]
    for number, data in enumerate(graphs):
        data.molecule_id = "abcd"[number % 4]
    module = GraphDataModule(graphs, graphs, batch_size=3, seed=1, together=3)
    order = list(module.order)
    assert sorted(order) == list(range(len(graphs))) != order
    names = [graphs[row].molecule_id for row in order]
    runs = ["".join(run) for _, run in itertools.groupby(names)]
    assert len(runs) < len(names) / 2, runs  # most conformers have a brother beside them
    assert [data.molecule_id for data in module.validation] == sorted(names)
