"""Batches of graphs for Lightning."""

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch_geometric.data import Batch, Data


def numbered(names: Iterable[Hashable]) -> Tensor:
    """Numbers from 0 in the order of appearance, equal for equal names: (n,) int64.

    >>> numbered("abac")
    tensor([0, 1, 0, 2])
    """
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch: a fit that starts in the middle draws the same numbers as one that came from the start."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


class EpochOrder(Sampler[int]):
    """Random order of rows, fixed by the seed and the epoch, which Lightning sets.

    `group` (n,) int64 from 0 numbers what a row belongs to: at most `together` rows of one group follow each other.
    """

    def __init__(self, group: Tensor, together: int, seed: int) -> None:
        self.group = group
        self.together = together
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.group)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        order = torch.randperm(len(self.group), generator=generator)
        order = order[torch.argsort(self.group[order], stable=True)]
        counts = torch.bincount(self.group)
        within = torch.arange(len(order)) - (counts.cumsum(0) - counts)[self.group[order]]
        starts = within % self.together == 0
        piece = starts.cumsum(0) - 1
        rank = torch.randperm(int(starts.sum()), generator=generator)
        yield from order[torch.argsort(rank[piece], stable=True)].tolist()


class GraphDataModule(pl.LightningDataModule):
    """Training graphs in random order, validation graphs in one.

    Parameters
    ----------
    train, validation : sequence of Data
        Graphs with targets ``y`` and, where known, ``forces``.
    batch_size : int
        Molecules per training step.
    seed : int
        Fixes the order of the training graphs in every epoch.
    together : int
        So many conformers of a molecule follow each other, as far as it has them, for a loss on their differences.
    """

    def __init__(
        self, train: Sequence[Data], validation: Sequence[Data], *, batch_size: int, seed: int, together: int = 1
    ) -> None:
        super().__init__()
        if not train or not validation:
            raise ValueError(f"{len(train)} training and {len(validation)} validation graphs; both need at least one")
        self.train = list(train)
        # Conformers of a molecule in one batch, where their differences count.
        self.validation = sorted(validation, key=lambda data: data.molecule_id if together > 1 else "")
        self.batch_size = batch_size
        self.order = EpochOrder(numbered(data.molecule_id for data in self.train), together, seed)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=self.order,
            generator=torch.Generator().manual_seed(0),  # of worker processes, of which there are none
            collate_fn=Batch.from_data_list,
        )

    def val_dataloader(self) -> DataLoader:
        # The validation batch never changes: it is collated once. Large sets are cut so that memory stays bounded.
        size = max(64, self.batch_size)
        batches = [Batch.from_data_list(self.validation[k : k + size]) for k in range(0, len(self.validation), size)]
        return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
