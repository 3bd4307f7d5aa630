"""The description that stands beside the arrays of a checkpoint, as JSON.

format        see FORMAT
step          updates done
config        the configuration of the run
fingerprint   of the model section and the shapes of its parameters
layout        item -> path -> 'dtype[shape]'
checksums     item -> path -> checksum of the array, see `checksum` (format 2)
versions      of Python and the packages
processes     that wrote it (format 2)
extra         what the loop adds
digest        SHA-256 of all of the above (format 2)

Format 1 has neither checksums nor a digest, and is read without them.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from parallel_ar.training import configuration, results
from parallel_ar.types import Params

Json = dict[str, Any]
FORMAT = 2


class OtherRunError(ValueError):
  """A checkpoint belongs to another model, optimizer or version."""


class BrokenCheckpoint(RuntimeError):
  """What was read is not what was written."""


def make(
  step: int,
  config: Json,
  items: dict[str, Any],
  sums: dict[str, dict[str, str]],
  extra: Json,
) -> Json:
  """The description of a state that is about to be written.

  Args:
    step: updates done.
    config: JSON form of the run's configuration.
    items: name -> tree of arrays.
    sums: name -> checksums of that tree.
    extra: JSON data of the loop.

  Returns:
    JSON data.
  """
  meta = {
    'format': FORMAT,
    'step': step,
    'config': config,
    'fingerprint': fingerprint(config, items['params']),
    'layout': {name: layout(tree) for name, tree in items.items()},
    'checksums': sums,
    'versions': results.versions(),
    'processes': jax.process_count(),
    'extra': extra,
  }
  return meta | {'digest': digest(meta)}


def check(meta: Json, step: int, where: str) -> None:
  """Checks that a description is whole, and of a format that is read here.

  Args:
    meta: as it was read.
    step: the step that its directory names.
    where: the directory, for the message.

  Raises:
    BrokenCheckpoint: it is not what was written.
    OtherRunError: it was written by a newer version.
  """
  if 'digest' in meta and meta['digest'] != digest(meta):
    raise BrokenCheckpoint('its description is not what was written')
  if meta['format'] not in range(1, FORMAT + 1):
    raise OtherRunError(
      f'The checkpoint of step {step} in {where} has format {meta["format"]}; '
      f'this version reads the formats 1 to {FORMAT}. Use the version of '
      'parallel_ar that wrote it, or a newer one.'
    )
  if meta['format'] > 1 and not {'digest', 'checksums'} <= meta.keys():
    raise BrokenCheckpoint('its description lacks its checksums')
  if meta['step'] != step:
    raise BrokenCheckpoint(f'it describes step {meta["step"]}')


def compare(meta: Json, item: str, found: dict[str, str]) -> None:
  """Checks the checksums of an item that was read; format 1 has none.

  Raises:
    BrokenCheckpoint: names the first leaves that differ.
  """
  if meta['format'] == 1:
    return
  written = meta['checksums'][item]
  bad = [path for path in found if found[path] != written.get(path)]
  if bad:
    more = f' and {len(bad) - 3} more' if len(bad) > 3 else ''
    raise BrokenCheckpoint(
      f'checksums differ in {", ".join(item + path for path in bad[:3])}{more}'
    )


def refuse(meta: Json, config: Json, items: dict[str, Any], where: str) -> None:
  """Checks that a checkpoint has the leaves of `items`.

  Args:
    meta: of the checkpoint.
    config: of the run, as JSON.
    items: name -> tree of arrays, or of their shapes.
    where: the checkpoint, for the message.

  Raises:
    OtherRunError: it has others; they are named.
  """
  here = {name: layout(tree) for name, tree in items.items()}
  lines = configuration.differences(
    meta['config']['model'], config['model'], 'model'
  )
  there = {'params': meta['layout']['params']}
  lines += configuration.differences(there, {'params': here['params']})
  if lines:
    raise OtherRunError(
      f'{where} is of another model: {_some(lines)} (checkpoint -> here). '
      'Use the config of that run, or another working directory.'
    )
  others = {name: meta['layout'].get(name) for name in here}
  lines = configuration.differences(others, here)
  if lines:
    raise OtherRunError(
      f'{where} does not fit the training configuration: {_some(lines)} '
      '(checkpoint -> here). The optimizer or the moving average changed; '
      'use the config of that run, or another working directory.'
    )


def layout(tree: Any) -> dict[str, str]:
  """Path -> 'dtype[shape]' of every leaf."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path): f'{np.dtype(leaf.dtype).name}'
    f'[{", ".join(str(n) for n in leaf.shape)}]'
    for path, leaf in leaves
  }


def layout_differences(there: Json, here: Json) -> str:
  """The first leaves that differ between two layouts; '' for none."""
  return _some(configuration.differences(there, here))


def fingerprint(config: Json, params: Params) -> str:
  """16 hex digits of the model section and the shapes of its parameters."""
  facts = {'model': config['model'], 'params': layout(params)}
  return _sha256(facts)[:16]


def digest(meta: Json) -> str:
  """64 hex digits of a description without its digest."""
  return _sha256({k: v for k, v in meta.items() if k != 'digest'})


def _sha256(data: Json) -> str:
  text = json.dumps(data, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _some(lines: list[str], most: int = 5) -> str:
  more = f'; and {len(lines) - most} more' if len(lines) > most else ''
  return '; '.join(lines[:most]) + more
