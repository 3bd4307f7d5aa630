"""Compresses a file, or a split of data, and proves that it comes back.

  ./run.sh compress book --workdir=runs/text_transformer
  ./run.sh compress photos --workdir=runs/pictures --file=photos.par
  ./run.sh compress --workdir=runs/digits_gated_pixelcnn
  ./run.sh compress --workdir=runs/digits_gated_pixelcnn --file=test.par
  ./run.sh compress --workdir=runs/digits_gated_pixelcnn --decode=test.par

A run of text packs any file, one of images a picture or a folder of them, into
FILE.par or --file; `decompress` gives them back. Without a file it is a split:
for every --batch, 'cached' (slot after slot from a cache), 'lanes' (a fixed
point over all positions) and 'stream' (rank after rank) encode and decode the
same events, in turn, and every integer is compared; beside them the bits that
the model promises and what zlib, bzip2, xz and PNG need. --file keeps the file
of the first method and batch, once it has come back; --decode reads one, and
needs no data, and writes its events to FILE.npy, or where --events says.
"""

import dataclasses
import functools
import io
import lzma
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments import entry, options, packing
from experiments.tables import report
from parallel_ar import coding, describe, precision
from parallel_ar.analysis import timing
from parallel_ar.coding import baselines
from parallel_ar.data import dataset
from parallel_ar.training import (
  bucket,
  configuration,
  datasets,
  evaluate,
  run_directory,
  trained,
)

_KNOWN = 'cached', 'lanes', 'stream'
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_SPLIT = flags.DEFINE_string(
  'split', None, 'train, valid or test; without it that of the config.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files; ./data without it.'
)
_COUNT = flags.DEFINE_integer(
  'count', 0, 'Only the first events of the split; 0: all.', lower_bound=0
)
_METHODS = flags.DEFINE_list(
  'methods', list(_KNOWN), 'Some of cached, lanes and stream.'
)
_BATCHES = options.define_numbers(
  'batches', [1, 16], 'Events of one pass; lanes are as many times D.'
)
_PRECISION = flags.DEFINE_integer(
  'precision',
  coding.PRECISION,
  'Bits of the frequencies, at most 16.',
  lower_bound=1,
)
_ROUNDS = flags.DEFINE_integer('rounds', 1, 'Timed rounds.', lower_bound=1)
_FILE = options.define_output('file', 'Keep the compressed file here.')
_INPUT = flags.DEFINE_string(
  'input',
  None,
  'Pack this file or folder of pictures; --input= may be left out.',
)
_DECODE = flags.DEFINE_string('decode', None, 'Only decode this file.')
_EVENTS = options.define_output(
  'events', 'Where --decode writes; without it FILE.npy, if it is new.'
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

TAKES = _INPUT  # what a word without a name is

# A file may ask for any batch, and a program takes memory with it.
_MOST = 1024


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  methods = _methods()
  target = _target()
  if _INPUT.value:
    _pack(target)
    return
  run = trained.load(entry.require(_WORKDIR))
  model = run.models[0]
  if len(run.models) > 1:
    raise ValueError(
      f'This run is a mixture of {len(run.models)} models, whose probabilities '
      'are not one chain of conditionals. Compress with a run of one model.'
    )
  print(f'parameters: {run.params_name}')
  if _DECODE.value:
    assert target is not None
    _decode(run, target)
    return
  data = _data(run)
  x, context = data.x, datasets.contexts(model, data, len(data))
  own, coded = _promised(run, data)
  pairs = {
    f'{method}, batch {batch}': coding.codec(
      model,
      method=method,
      batch=batch,
      precision=_PRECISION.value,
      verify=False,  # every file is decoded and compared below
    )
    for batch in _BATCHES.value
    for method in methods
  }
  files, found, rounds = _both_ways(pairs, run.params, x, context)
  if target:
    run_directory.replace(target, next(iter(files.values())))
    print(f'file: {target}')
  numbers = _table(
    model, x, (own, coded), files, found, rounds, data.num_values
  )
  report.save(
    _OUT.value,
    numbers,
    configuration.to_json(run.config),
    started,
    rounds,
    model=describe(model),
    split=data.split,
    events=len(x),
    params=run.params_name,
    frequency_bits=_PRECISION.value,
    precision=f'highest: {precision.products("highest")}',  # of float32
  )


def _both_ways(
  pairs: dict[str, coding.Codec], params: Any, x: np.ndarray, context: Any
) -> tuple[dict[str, bytes], dict[str, Any], timing.Rounds]:
  """Files, what each decodes to, and the times of both directions in turn."""
  files = {n: c.encode(params, x, context) for n, c in pairs.items()}
  found: dict[str, Any] = {}

  def decode(name: str) -> None:
    found[name] = pairs[name].decode(params, files[name], context)

  programs: dict[str, Callable[[], object]] = {
    f'decode {n}': functools.partial(decode, n) for n in pairs
  }
  programs |= {
    f'encode {n}': functools.partial(c.encode, params, x, context)
    for n, c in pairs.items()
  }
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  for name, decoded in found.items():
    if not np.array_equal(decoded.x, x):
      raise ValueError(
        f'{name}: other events came back, so no file is kept. '
        'experiments.audit says whether the model is causal.'
      )
  return files, found, rounds


def _promised(
  run: trained.Trained, data: dataset.Dataset
) -> tuple[float, float]:
  """Bits of the model, and those of its whole frequencies, as files have them.

  A file has the second. They are fewer where symbols come that the model gives
  less than 2^-r: none has less in a file.
  """
  how, bits = run.config.evaluate, len(data) / np.log(2)
  coded = coding.quantized(run.model, _PRECISION.value)
  found = [
    evaluate.evaluate(models, run.params, data, how.batch_size)
    for models in (run.models, [coded])
  ]
  return found[0].nats * bits, found[1].nats * bits


def _pack(target: pathlib.Path | None) -> None:
  """Packs --input into --file, and tells what xz makes of the same."""
  source = run_directory.local(entry.require(_INPUT))
  assert target is not None
  if not source.exists():
    raise ValueError(f'{source}: there is no such file or folder to pack.')
  run = trained.load(entry.require(_WORKDIR))
  packed = packing.pack(run, source)
  run_directory.replace(target, packed)
  content = b''.join(f.read_bytes() for f in packing.sources(source))
  print(
    f'{len(content)} bytes -> {len(packed)} (xz '
    f'{len(lzma.compress(content))}), proved by decoding: {target}'
  )


def _methods() -> list[str]:
  """Those of --methods.

  Raises:
    ValueError: none, or an unknown one.
  """
  if not _METHODS.value or set(_METHODS.value) - set(_KNOWN):
    raise ValueError(
      f'--methods={",".join(_METHODS.value)}: give some of '
      f'{", ".join(_KNOWN)}, as in lanes,stream.'
    )
  return _METHODS.value


def _target() -> pathlib.Path | None:
  """Where a file or events go; looked at before the work.

  Raises:
    ValueError: it is the file that is read, or one that was not named, or it
      cannot be written.
  """
  if _INPUT.value and _DECODE.value:
    raise ValueError(f'Pack {_INPUT.value} or --decode, one after the other.')
  path: pathlib.Path | None
  if _INPUT.value:
    path = bucket.place(_FILE.value or f'{_INPUT.value.rstrip("/")}.par')
    if path.exists() and not _FILE.value:
      raise ValueError(
        f'{path} exists. Move it away, or name a place with --file; one that '
        'is named is replaced.'
      )
  elif not _DECODE.value:
    path = bucket.place(_FILE.value) if _FILE.value else None
  else:
    source = run_directory.resolve(_DECODE.value)
    path = bucket.place(_EVENTS.value or f'{source}.npy')
    # Addresses have no `samefile`; links are followed, as writing does.
    if os.path.realpath(path) == os.path.realpath(source):
      raise ValueError(
        f'--events={path} is the file that is decoded. Name another.'
      )
    if path.exists() and not _EVENTS.value:
      raise ValueError(
        f'{path} exists. Move it away, or name a place with --events; one that '
        'is named is replaced.'
      )
  if path is not None:
    options.check_writable(path)
  return path


def _data(run: trained.Trained) -> dataset.Dataset:
  """The first events of the split."""
  data = run.load_split(
    _SPLIT.value or run.config.evaluate.split, _DATA_DIR.value
  )
  count = _COUNT.value or len(data)
  context = None if data.context is None else data.context[:count]
  data = dataclasses.replace(
    data, x=np.asarray(data.x[:count]), context=context
  )
  return dataset.binarize_once(data)


def _decode(run: trained.Trained, target: pathlib.Path) -> None:
  """Decodes --decode with the method, batch and precision of its header."""
  model, packed = (
    run.models[0],
    bucket.content(run_directory.resolve(entry.require(_DECODE))),
  )
  how = coding.read_header(packed)
  if how.batch > _MOST and str(how.batch) not in _BATCHES.value:
    raise ValueError(
      f'{_DECODE.value} asks for {how.batch} events in one pass, which takes '
      f'memory. If that is meant, say so: --batches={how.batch}.'
    )
  pair = coding.codec(
    model, method=how.method, batch=how.batch, precision=how.precision
  )
  context = None
  if model.context is not None:  # it is not in the file, but in the data
    context = datasets.contexts(model, _data(run), how.num)
  decoded = pair.decode(run.params, packed, context)
  file = io.BytesIO()
  np.save(file, decoded.x)
  run_directory.replace(target, file.getvalue())
  print(
    f'{how.num} events in {decoded.evaluations} passes, checksum right: '
    f'{target}'
  )


def _table(
  model: Any,
  x: np.ndarray,
  promised: tuple[float, float],
  files: dict[str, bytes],
  found: dict[str, Any],
  rounds: timing.Rounds,
  num_values: int,
) -> report.Numbers:
  """Prints what every file costs, and checks every integer."""
  per_dim = lambda bits: bits / x.size
  own, coded = promised
  numbers: report.Numbers = {
    'model': (per_dim(own), 'bits/dim'),
    'whole frequencies': (per_dim(coded), 'bits/dim'),
  }
  print(describe(model))
  print(f'{len(x)} events\n')
  print(
    '| | bits/dim | above the model | passes an event | encode, s | decode, s '
    '| different integers |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|')
  print(f'| the model, -log2 p | {per_dim(own):.4f} | | | | | |')
  print(
    f'| its whole frequencies | {per_dim(coded):.4f} | {coded / own - 1:+.2%} '
    '| | | | |'
  )
  for name, packed in files.items():
    bits = 8 * len(packed)
    passes = found[name].evaluations / len(x)
    different = int((found[name].x != x).sum())
    encode, decode = (
      timing.summarize(rounds.seconds[f'{way} {name}']).median
      for way in ('encode', 'decode')
    )
    print(
      f'| {name} | {per_dim(bits):.4f} | {bits / own - 1:+.2%} '
      f'| {passes:.2f} | {encode:.2f} | {decode:.2f} | {different} |'
    )
    numbers |= {
      f'{name}: size': (per_dim(bits), 'bits/dim'),
      f'{name}: above the model': (bits / own - 1, '1'),
      f'{name}: above whole frequencies': (bits / coded - 1, '1'),
      f'{name}: passes an event': (passes, 'passes'),
      f'{name}: encode': (encode, 's'),
      f'{name}: decode': (decode, 's'),
      f'{name}: different': (different, 'integers'),
    }
  for name, size in baselines.sizes(x, num_values).items():
    above = f'{8 * size / own - 1:+.2%}'
    print(f'| {name} | {per_dim(8 * size):.4f} | {above} | | | | |')
    numbers[name] = (per_dim(8 * size), 'bits/dim')
  return numbers


if __name__ == '__main__':
  entry.run(main, takes=TAKES)
