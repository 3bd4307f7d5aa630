"""Models in whole numbers on one device, and the same on another one.

`tables/portability` runs it. Networks have random weights and events are
random, so that decoding takes many passes.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from parallel_ar import coding, exact, samplers
from parallel_ar.exact import Exact, load, of_program, save
from parallel_ar.model import AutoregressiveModel
from parallel_ar.models import gated_pixelcnn, made, transformer, wavenet
from parallel_ar.testing.case import random_params
from parallel_ar.training import results

EVENTS = 8
SAMPLES = 16
# Weights and activations of models in whole numbers: with the narrow ones the
# products are of int8, then of float32; with the wide ones of its parts and of
# int32, which take minutes to compile where there are many.
_BITS = ((8, 8), (8, 10))
_WIDE = ('MADE', 'Gated PixelCNN')
_LEVELS = (None, 'tensorfloat32', 'highest')
Counts = dict[str, tuple[int, int]]


class Network(NamedTuple):
  """A model that is coded."""

  name: str
  model: AutoregressiveModel


def events(model: AutoregressiveModel) -> np.ndarray:
  """Random ones."""
  shape = EVENTS, *model.event.shape
  values = model.head.num_values
  return np.random.default_rng(0).integers(0, values, shape).astype(np.int32)


def networks() -> Iterator[Network]:
  """Dense layers, convolutions, attention, dilated convolutions."""
  yield Network('MADE', made(event=(784,), hidden=(500,)))
  image = gated_pixelcnn(event=(12, 12, 1), num_values=2, features=32, layers=4)
  yield Network('Gated PixelCNN', image)
  text = transformer(event=(64,), num_values=32, features=128, layers=2)
  yield Network('Transformer', text)
  sound = wavenet(event=(128,), num_values=16, features=32, layers=6)
  yield Network('WaveNet', sound)


def export(directory: pathlib.Path, models: list[Network]) -> None:
  """Writes every model in whole numbers with what it computes here."""
  directory.mkdir(parents=True, exist_ok=True)
  for name, model, bits in _kinds(models):
    x, params = events(model), random_params(model, 0, 1.0)
    weights, activations = bits
    found = exact(
      model, params, x, weight_bits=weights, activation_bits=activations
    )
    stem = _stem(directory, name, bits)
    save(found.report.program, f'{stem}.npz')
    found = of_program(load(f'{stem}.npz'), model)  # as it is there
    np.savez_compressed(
      f'{stem} integers.npz', table=_pass(found, x, None), samples=_draw(found)
    )
    pathlib.Path(f'{stem}.par').write_bytes(_file(found, x))
    print(f'{stem.name}: {_carriers(found)}', flush=True)
  about = {
    'commit': results.commit(),
    'hardware': results.hardware(),
    'versions': results.versions(),
  }
  (directory / 'about.json').write_text(json.dumps(about))


def _kinds(
  models: list[Network],
) -> Iterator[tuple[str, AutoregressiveModel, tuple[int, int]]]:
  for name, model in models:
    for bits in (*_BITS, (12, 14)) if name in _WIDE else _BITS:
      yield name, model, bits


def check(
  directory: pathlib.Path, models: list[Network]
) -> Iterator[tuple[str, str, Counts]]:
  """Computes here what was written elsewhere.

  Yields:
    The model, its carriers on this platform, and of everything that was
    compared how many integers differ, of how many.
  """
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    # Most of it is compilation, which threads do side by side.
    yield from pool.map(lambda kind: _check(directory, *kind), _kinds(models))


def _check(
  directory: pathlib.Path,
  name: str,
  model: AutoregressiveModel,
  bits: tuple[int, int],
) -> tuple[str, str, Counts]:
  x, stem = events(model), _stem(directory, name, bits)
  found = of_program(load(f'{stem}.npz'), model)
  data = pathlib.Path(f'{stem}.par').read_bytes()
  with np.load(f'{stem} integers.npz') as file:
    want = dict(file)
  counts = {
    f'pass, {level or "default"}': _count(want['table'], _pass(found, x, level))
    for level in _LEVELS
  }
  for batch in (1, 3):
    got = _pass(found, x[:batch], None)
    counts[f'pass, batch {batch}'] = _count(want['table'][:batch], got)
  counts['samples'] = _count(want['samples'], _draw(found))
  own = np.frombuffer(_file(found, x), np.uint8)
  counts['bytes of the file'] = _count(np.frombuffer(data, np.uint8), own)
  pair = coding.codec(found.model, method='lanes', batch=3)
  counts['decoded'] = _count(x, pair.decode(found.params, data).x)
  return stem.name, _carriers(found), counts


def _stem(
  directory: pathlib.Path, name: str, bits: tuple[int, int]
) -> pathlib.Path:
  return directory / f'{name}, {bits[0]} and {bits[1]} bits'


def _pass(found: Exact, x: np.ndarray, level: str | None) -> np.ndarray:
  """Frequencies; a product must not obey JAX's own setting."""
  with jax.default_matmul_precision(level):  # type: ignore[no-untyped-call]
    of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, None)))
    return np.asarray(of(found.params, x, None))


def _draw(found: Exact) -> np.ndarray:
  keys = jax.random.split(jax.random.key(0), SAMPLES)
  return np.asarray(samplers.cached(found.model)(found.params, keys).x)


def _file(found: Exact, x: np.ndarray) -> bytes:
  pair = coding.codec(found.model, method='lanes', batch=5, verify=False)
  return pair.encode(found.params, x)


def _carriers(found: Exact) -> str:
  kinds = collections.Counter(p.carrier for p in found.report.products)
  return ', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))


def _count(want: np.ndarray, got: Any) -> tuple[int, int]:
  got = np.asarray(got)
  if want.shape != got.shape:
    return want.size, want.size
  return int((want != got).sum()), want.size
