"""Where the golden numbers lie, and how close to them a result must be."""
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1].parent / "shared" / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    "The arrays of one golden file; skips the test, with the reason, where the files are not there."
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"golden numbers not found: {path}")
    with np.load(path) as file:
        return dict(file)


def close(got: torch.Tensor | float, wanted: np.ndarray | float, dtype: torch.dtype, magnitude: float | None = None) -> None:
    """Equal to 1e-9 in float64; in float32 to a relative 1e-5, and for entries that cancel to 1e-6 of what cancels: `magnitude`,
    by default the array's largest entry."""
    got, wanted = torch.as_tensor(got).detach().double().numpy(), np.asarray(wanted, dtype=np.float64)
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    if dtype == torch.float64:
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
    else:
        largest = float(np.abs(wanted).max()) if magnitude is None else magnitude
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * largest if wanted.ndim else 1e-7)
