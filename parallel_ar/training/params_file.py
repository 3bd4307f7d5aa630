"""The parameters of a run in one plain file, for others to read.

A .npz archive of NumPy: one array a leaf, named by its path, as in
'hidden_0/kernel', and '__meta__', JSON as UTF-8 bytes: the config of the run,
the step, which parameters ('raw' or 'ema'), the checksum of every array,
versions. Whatever opens .npz can use it, and `trained.load` takes it in the
place of a run.

bfloat16 and float8, which NumPy lacks, are written as float32, which holds each
of their values; `__meta__` has the dtype that is restored.
"""

import io
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from parallel_ar.training import (
  checkpoint_meta,
  checksum,
  results,
  run_directory,
)
from parallel_ar.types import Params

META = '__meta__'


def save(
  path: str | os.PathLike[str],
  params: Params,
  config: dict[str, Any],
  *,
  step: int,
  which: str,
) -> None:
  """Writes the file, whole or not at all.

  Args:
    path: of the file; its name ends with .npz.
    params: the parameters; a leaf spread over devices is gathered.
    config: JSON form of the configuration of the run.
    step: updates that made them.
    which: 'raw' or 'ema'.

  Raises:
    ValueError: another name.
  """
  path = pathlib.Path(path)
  if path.suffix != '.npz':
    raise ValueError(f'{path}: the name of a file of parameters ends in .npz.')
  params = jax.device_get(params)
  meta = {
    'config': config,
    'step': step,
    'params': which,
    'layout': checkpoint_meta.layout(params),
    'checksums': checksum.checksums(params),
    'versions': results.versions(),
  }
  arrays: dict[str, Any] = {
    name: leaf if leaf.dtype.isbuiltin == 1 else np.asarray(leaf, np.float32)
    for name, leaf in _by_name(params).items()
  }
  text = json.dumps(meta, sort_keys=True).encode()
  buffer = io.BytesIO()
  arrays[META] = np.frombuffer(text, np.uint8)
  np.savez(buffer, **arrays)
  run_directory.replace(path, buffer.getvalue())


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The description in a file that `save` wrote.

  Raises:
    ValueError: it is no such file, or broken.
  """
  return json.loads(_load(path)[META].tobytes())


def load(
  path: str | os.PathLike[str], template: Params
) -> tuple[Params, dict[str, Any]]:
  """The parameters in a file that `save` wrote.

  Args:
    path: of the file.
    template: parameters of the model, or their shapes and dtypes.

  Returns:
    (params, the description of the file).

  Raises:
    ValueError: it is no such file, broken, or of another model.
  """
  arrays = _load(path)
  meta = json.loads(arrays[META].tobytes())
  lines = checkpoint_meta.layout_differences(
    meta['layout'], checkpoint_meta.layout(template)
  )
  if lines:
    raise ValueError(
      f'{path} holds parameters of another model: {lines} (file -> here).'
    )
  leaves = [
    jax.numpy.asarray(arrays[name], leaf.dtype)
    for name, leaf in _by_name(template).items()
  ]
  params = jax.tree.unflatten(jax.tree.structure(template), leaves)
  found = checksum.checksums(params)
  bad = [key for key in found if found[key] != meta['checksums'][key]]
  if bad:
    raise ValueError(
      f'{path} is damaged: the checksum of {bad[0]} differs. Export it again.'
    )
  return params, meta


def _load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  try:
    with open(path, 'rb') as stream, np.load(stream) as file:
      arrays = {name: file[name] for name in file.files}
    json.loads(arrays[META].tobytes())
    return arrays
  except FileNotFoundError:
    raise
  except Exception as error:  # a damaged archive fails in many ways
    raise ValueError(
      f'{path} cannot be read as a file of parameters ({error}). Make one with '
      './run.sh export_params.'
    ) from error


def _by_name(params: Params) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }
