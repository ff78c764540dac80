"""Ragged NumPy arrays to Arrow list columns without a Python object per number."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def list_column(values: Sequence[NDArray | None], kind: pa.ListType) -> pa.ListArray:
    """Arrow list column of arrays, flattened row by row; None becomes null.

    Parameters
    ----------
    values : arrays of any shape, or None
    kind : pa.list_ of a number type
    """
    dtype = kind.value_type.to_pandas_dtype()
    parts = [np.asarray(value, dtype=dtype).ravel() for value in values if value is not None]
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
    lengths = np.array([0 if value is None else np.size(value) for value in values], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} numbers do not fit one Arrow list column; write several tables")
    mask = pa.array([value is None for value in values], type=pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), pa.array(flat, type=kind.value_type), mask=mask)
