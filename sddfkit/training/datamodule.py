"""Batches of graphs for Lightning."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data


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
    """

    def __init__(self, train: Sequence[Data], validation: Sequence[Data], *, batch_size: int, seed: int) -> None:
        super().__init__()
        if not train or not validation:
            raise ValueError(f"{len(train)} training and {len(validation)} validation graphs; both need at least one")
        self.train = list(train)
        self.validation = list(validation)
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            shuffle=True,
            generator=self.generator,
            collate_fn=Batch.from_data_list,
        )

    def val_dataloader(self) -> DataLoader:
        # The validation batch never changes: it is collated once. Large sets are cut so that memory stays bounded.
        size = max(64, self.batch_size)
        batches = [Batch.from_data_list(self.validation[k : k + size]) for k in range(0, len(self.validation), size)]
        return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
