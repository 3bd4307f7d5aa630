"""The parameters of a run in one plain file, for others to read.

A .npz archive of NumPy: one array a leaf, named by its path, as in
'hidden_0/kernel', and '__meta__', JSON as UTF-8 bytes: the config of the run,
the step, which parameters ('raw' or 'ema'), the checksum of every array,
versions. Whatever opens .npz can use it, and `trained.load` takes it in the
place of a run.

bfloat16 and float8, which NumPy lacks, are written as float32, which holds each
of their values; `__meta__` has the dtype that is restored.
"""

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from parallel_ar import npz
from parallel_ar.distributed import multihost
from parallel_ar.training import (
  bucket,
  checkpoint_meta,
  checksum,
  results,
  run_directory,
)
from parallel_ar.types import Params

META = '__meta__'
_META_BYTES = 1 << 23  # of a description at most: some 30,000 arrays
_FIELDS = {
  'config': dict,
  'step': int,
  'params': str,
  'layout': dict,
  'checksums': dict,
}
# Fields whose numbers are of parts, each of which takes time to build; their
# product is bounded, as that of the slots of an event and their orders is.
_PARTS = ('layers', 'blocks', 'residuals', 'stacks', 'resolutions')
_MEMBERS = ('num_orders', 'num_masks')
_MOST_PARTS, _MOST_SLOTS = 1 << 10, 1 << 21


def save(
  path: str | os.PathLike[str],
  params: Params,
  config: dict[str, Any],
  *,
  step: int,
  which: str,
  identity: dict[str, Any] | None = None,
) -> None:
  """Writes the file, whole or not at all.

  Args:
    path: of the file; its name ends with .npz.
    params: the parameters; a leaf spread over devices is gathered.
    config: JSON form of the configuration of the run.
    step: updates that made them.
    which: 'raw' or 'ema'.
    identity: of the run, see `identity`.

  Raises:
    ValueError: another name.
  """
  path = bucket.place(path)
  if path.suffix != '.npz':
    raise ValueError(f'{path}: the name of a file of parameters ends in .npz.')
  params = multihost.fetch(params)
  meta = {
    'config': config,
    'step': step,
    'params': which,
    'identity': identity,
    'layout': checkpoint_meta.layout(params),
    'checksums': checksum.checksums(params),
    'versions': results.versions(),
  }
  arrays: dict[str, Any] = {
    name: np.asarray(leaf, npz.stored_dtype(leaf.dtype))
    for name, leaf in _by_name(params).items()
  }
  text = json.dumps(meta, sort_keys=True).encode()
  buffer = io.BytesIO()
  arrays[META] = np.frombuffer(text, np.uint8)
  np.savez(buffer, **arrays)
  run_directory.replace(path, buffer.getvalue())


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The description in a file that `save` wrote.

  The file may be anyone's: what its description says of its arrays agrees with
  what they are, and its model section asks for no more work than a model of so
  many parameters can.

  Raises:
    ValueError: it is no such file, or broken.
  """
  with _reading(path), npz.Archive(bucket.readable(path)) as file:
    return _read_meta(file)


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
  with _reading(path), npz.Archive(bucket.readable(path)) as file:
    meta = _read_meta(file)
    lines = checkpoint_meta.layout_differences(
      meta['layout'], checkpoint_meta.layout(template)
    )
    if not lines:
      leaves = [
        jax.numpy.asarray(
          file.read(name, like=(leaf.shape, npz.stored_dtype(leaf.dtype))),
          leaf.dtype,
        )
        for name, leaf in _by_name(template).items()
      ]
  if lines:
    raise ValueError(
      f'{path} holds parameters of another model: {lines} (file -> here).'
    )
  params = jax.tree.unflatten(jax.tree.structure(template), leaves)
  found = checksum.checksums(params)
  bad = [key for key in found if found[key] != meta['checksums'].get(key)]
  if bad:
    raise ValueError(
      f'{path} is damaged: the checksum of {bad[0]} differs. Export it again.'
    )
  return params, meta


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
  """Makes every fault of a file one sentence that names it."""
  try:
    yield
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path} cannot be read as a file of parameters: '
      f'{error or type(error).__name__}. Make one with ./run.sh export_params.'
    ) from error


def _read_meta(file: npz.Archive) -> dict[str, Any]:
  """The description, checked."""
  meta = json.loads(file.read(META, most=_META_BYTES).tobytes())
  for field, kind in _FIELDS.items():
    if not isinstance(meta, dict) or not isinstance(meta.get(field), kind):
      raise ValueError(f'its description has no {field} of {kind.__name__}s')
  model = meta['config'].get('model')
  if not isinstance(model, dict):
    raise ValueError('its config has no section model')
  check_scale(model, _numbers(file, meta['layout']))
  return meta


def check_scale(model: dict[str, Any], numbers: int = 1 << 24) -> None:
  """Refuses a recorded model that would cost too much to build.

  Args:
    model: the model section of a record.
    numbers: that its parameters are together; no array is wider. By default
      more than any layer has.

  Raises:
    ValueError: names what there is too much of.
  """
  whole = {
    field: [v for v in jax.tree.leaves(value) if isinstance(v, int)]
    for field, value in model.items()
    if not field.endswith('seed')
  }
  product = lambda *fields: math.prod(
    math.prod(whole.get(field) or [1]) for field in fields
  )
  widths = [v for f, some in whole.items() if f != 'event' for v in some]
  asked = {
    'layers': (product(*_PARTS), _MOST_PARTS),
    'members of a field': (
      max(map(len, whole.values()), default=0),
      _MOST_PARTS,
    ),
    'slots': (product('event', *_MEMBERS), _MOST_SLOTS),
    'units of a layer': (max(widths, default=0), max(numbers, 1 << 16)),
  }
  for what, (number, most) in asked.items():
    if number > most:
      raise ValueError(
        f'its config asks for {number} {what}, but a record of {numbers} '
        f'parameters may ask for {most}'
      )


def _numbers(file: npz.Archive, layout: dict[str, str]) -> int:
  """How many numbers the arrays hold, which the layout must know."""
  shapes = [file.header(n).shape for n in file.names if n != META]
  there = sorted(str(list(shape)) for shape in shapes)
  said = sorted(str(text)[str(text).find('[') :] for text in layout.values())
  if there != said:
    raise ValueError('its arrays are not those that its description names')
  return sum(math.prod(shape) for shape in shapes)


def _by_name(params: Params) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }
