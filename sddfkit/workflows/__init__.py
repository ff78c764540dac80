"""The story, top to bottom: each function takes plain arguments and other packages' objects, and knows no Hydra.

===================================  ================================================================================
:func:`~.label.label_molecules`      SMILES to conformers to labelled records in the store
:func:`~.train.train_ensemble`       labelled records to an ensemble of energy models
:func:`~.active.active_learning`     both in rounds, with a strategy that chooses what to label, and a report
:func:`~.predict.predict_molecules`  molecules to energies, forces and their doubt, by the ensemble of a finished run
:func:`~.evaluate.evaluate_run`      the errors of that ensemble on labelled records that it has not seen
:func:`~.md.molecular_dynamics`      molecules to trajectories by that ensemble, and the frames to label next
===================================  ================================================================================

Energies are eV, forces eV/Å, positions Å. Long stages show a progress bar; each can be interrupted and started again.
"""
