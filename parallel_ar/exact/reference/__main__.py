"""Reads a file of the codec: python -m reference PROGRAM.npz FILE OUT.npy."""

import pathlib
import sys

import numpy as np

from . import load, read


def main(arguments: list[str]) -> None:
  """Decodes and says how far it is."""
  if len(arguments) < 3:
    raise SystemExit(
      'python -m reference PROGRAM.npz FILE.par EVENTS.npy [CONTEXT.npy ...]'
    )
  program = load(arguments[0])
  context = [np.load(name, allow_pickle=False) for name in arguments[3:]]
  data = pathlib.Path(arguments[1]).read_bytes()
  tell = lambda n, passes: print(f'event {n}: {passes} passes', flush=True)
  np.save(arguments[2], read(program, data, *context, tell=tell))


main(sys.argv[1:])
