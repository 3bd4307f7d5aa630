"""Whole-number programs without JAX: Python and NumPy are all that it needs.

The folder stands alone. Copy it to where a file must be read and say there

  python -m reference program.npz file.par events.npy
"""

from .files import read
from .program import Op, Program, load, on_grid, run, save

__all__ = ['Op', 'Program', 'load', 'on_grid', 'read', 'run', 'save']
