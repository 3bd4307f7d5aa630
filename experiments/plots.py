"""Plots as PNG files, by matplotlib."""

import pathlib
from typing import Any

from parallel_ar.training import run_directory


def figure(columns: int, rows: int = 1, size: float = 4.0) -> tuple[Any, Any]:
  """A figure that no window shows, and its axes [rows, columns].

  Raises:
    ImportError: matplotlib is not installed.
  """
  try:
    from matplotlib import figure as figures
  except ImportError as error:
    raise ImportError(
      'Plots need matplotlib: install parallel_ar[plots], or leave --png out.'
    ) from error
  made = figures.Figure(
    figsize=(size * columns, 0.85 * size * rows), layout='constrained'
  )
  return made, made.subplots(rows, columns, squeeze=False)


def save(made: Any, path: str) -> None:
  """Writes a figure in the format that its name ends with."""
  kind = pathlib.Path(path).suffix.removeprefix('.')
  with run_directory.whole(path) as file:
    made.savefig(file, dpi=110, format=kind)
