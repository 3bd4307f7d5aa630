"""A model as one file that runs without this library.

The file is a zip of StableHLO programs (`jax.export`), their parameters and a
description. Each program was lowered for cpu, cuda and tpu, and takes any
number of examples; what reads it needs JAX and NumPy only:

  likelihood   (params, x, context) -> nats[B], log p(x)
  step         (params, x, noise keys, context) -> (picks[B, *event], nats[B]):
               one pass of fixed-point sampling; x <- picks until nothing
               changes is the sample of the keys
  begin        (params, context) -> cache, and
  extend       (params, cache, k, previous[B, ...], keys, context) ->
               (values[B, ...], cache): one slot of cached sampling, by the
               model's own path or the derived one; not where that is a full
               pass a slot

Keys travel as their words, uint32[B, 2], of the threefry generator. The length
of an event is part of a model's rank, an array and no symbol, so the programs
are for one length; only the batch is symbolic. Parameters in bfloat16, which
NumPy lacks, are stored as float32.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from parallel_ar import likelihood, npz, order, target
from parallel_ar.decode import Decode, recompute_decode
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.samplers.path import choose
from parallel_ar.training import run_directory
from parallel_ar.types import Params

PLATFORMS = ('cpu', 'cuda', 'tpu')
FORMAT = 1
_PROGRAMS = {'likelihood', 'step', 'begin', 'extend'}
_ABOUT_BYTES = 1 << 26  # of a description at most; it has the whole rank
_FIELDS = {
  'name': str,
  'event': list,
  'dtype': str,
  'rank': list,
  'depth': int,
  'programs': list,
}


class Bundle(NamedTuple):
  """What `load` gives back.

  Attributes:
    programs: name -> function of arrays, compiled at the first call.
    params: leaves of the parameters, in the order that programs take.
    about: name, event, rank, values, platforms, versions.
  """

  programs: dict[str, Callable[..., Any]]
  params: list[Any]
  about: dict[str, Any]


def save(
  path: str | os.PathLike[str], model: AutoregressiveModel, params: Params
) -> dict[str, Any]:
  """Writes a model to a file.

  Args:
    path: of the file.
    model: the model.
    params: its parameters.

  Returns:
    What `Bundle.about` will hold.

  Raises:
    ImportError: jax.export needs flatbuffers, which is not installed.
  """
  leaves, tree = jax.tree.flatten(params)
  blobs = {
    name: _lower(program, leaves, arguments)
    for name, (program, arguments) in _programs(model, tree, leaves).items()
  }
  about = {
    'format': FORMAT,
    'name': model.name,
    'event': list(model.event.shape),
    'dtype': np.dtype(model.event.dtype).name,
    'rank': model.rank.tolist(),
    'num_values': model.head.num_values,
    'depth': model.depth,
    'platforms': list(PLATFORMS),
    'jax': jax.__version__,
    'programs': sorted(blobs),
  }
  named: dict[str, Any] = {
    _leaf(i): np.asarray(p, npz.stored_dtype(p.dtype))
    for i, p in enumerate(leaves)
  }
  arrays, content = io.BytesIO(), io.BytesIO()
  np.savez(arrays, **named)
  with zipfile.ZipFile(content, 'w') as file:
    file.writestr('about.json', json.dumps(about, indent=2))
    file.writestr('params.npz', arrays.getvalue())
    for name, blob in blobs.items():
      file.writestr(f'{name}.stablehlo', blob)
  run_directory.replace(path, content.getvalue())
  return about


def load(path: str | os.PathLike[str]) -> Bundle:
  """Reads a file of `save`.

  The programs of a bundle are code that XLA will run: load those of people you
  trust (docs/trust.md).

  Args:
    path: of the file.

  Returns:
    A Bundle.

  Raises:
    ValueError: no such file, or one of another format.
  """
  try:
    return _load(path)
  except Exception as error:  # a damaged file fails in many ways
    words = error if isinstance(error, ValueError) else npz.told(error)
    raise ValueError(
      f'{path} is not a file that export.save wrote, or is damaged: {words}. '
      'Export the model again.'
    ) from error


def _load(path: str | os.PathLike[str]) -> Bundle:
  # `save` compresses nothing; others may, within reason.
  most = (1 << 24) + 32 * os.path.getsize(path)
  with npz.open_zip(path) as file:
    about = json.loads(npz.member(file, 'about.json', _ABOUT_BYTES))
    _check_about(about)
    exported = {
      name: jax_export.deserialize(
        bytearray(npz.member(file, f'{name}.stablehlo', most))
      )
      for name in about['programs']
    }
    arrays = io.BytesIO(npz.member(file, 'params.npz', most))
  programs: dict[str, Callable[..., Any]] = {
    name: jax.jit(program.call) for name, program in exported.items()
  }
  program = exported['likelihood']
  (avals, *_), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
  with npz.Archive(arrays) as stored:
    if stored.names != [_leaf(i) for i in range(len(avals))]:
      raise ValueError('its parameters are not those that its programs take')
    params = [
      jnp.asarray(
        stored.read(name, like=(aval.shape, npz.stored_dtype(aval.dtype))),
        aval.dtype,
      )
      for name, aval in zip(stored.names, avals, strict=True)
    ]
  return Bundle(programs, params, about)


def _leaf(i: int) -> str:
  """The name of a leaf in params.npz."""
  return f'{i:05d}'


def _check_about(about: Any) -> None:
  """Raises a ValueError where a description lacks what readers use."""
  if not isinstance(about, dict) or about.get('format') != FORMAT:
    there = about.get('format') if isinstance(about, dict) else about
    raise ValueError(f'it has format {there!r}; this version reads {FORMAT}')
  for field, kind in _FIELDS.items():
    if not isinstance(about.get(field), kind):
      raise ValueError(f'its description has no {field}')
  if not {'likelihood', 'step'} <= set(about['programs']) <= _PROGRAMS:
    raise ValueError(f'its programs are {about["programs"]}')
  sizes = [*about['event'], about['depth']]
  if not all(isinstance(n, int) and n > 0 for n in sizes):
    raise ValueError(f'its event is {about["event"]}')
  np.dtype(about['dtype'])


def sample(bundle: Bundle, keys: Any, context: Any = None) -> tuple[Any, Any]:
  """Draws by the program `step`, from a bundle alone.

  Args:
    bundle: of `load`.
    keys: key[B].
    context: with leading axis B, or None.

  Returns:
    (x[B, *event], nats[B]), the integers of `samplers.fixed_point` but where
    another program's rounding flips a near tie.
  """
  words = jax.random.key_data(keys)
  shape = len(words), *bundle.about['event']
  x = jnp.zeros(shape, bundle.about['dtype'])
  for _ in range(bundle.about['depth'] + 1):
    y, nats = bundle.programs['step'](bundle.params, x, words, context)
    if (y == x).all():
      break
    x = y
  return y, nats


def _programs(
  model: AutoregressiveModel, tree: Any, leaves: list[Any]
) -> dict[str, tuple[Callable, Callable]]:
  """Name -> (program, the shapes of its arguments for B examples)."""

  def log_prob(leaves, x, context):
    params = jax.tree.unflatten(tree, leaves)
    return likelihood.log_prob(model, params, x, context)

  def step(leaves, x, words, context):
    params = jax.tree.unflatten(tree, leaves)

    def one(x, words, context):
      key = jax.random.wrap_key_data(words, impl='threefry2x32')
      dist = model.conditionals(params, x, context)
      y = model.head.pick(dist, position_noise(model, key)).astype(x.dtype)
      return y, model.head.log_prob(dist, y).sum()

    return jax.vmap(one)(x, words, context)

  def shapes(b):
    lead = lambda s: jax.ShapeDtypeStruct((b, *s.shape), s.dtype)
    words = jax.ShapeDtypeStruct((b, 2), jnp.uint32)
    return lead(model.event), words, jax.tree.map(lead, model.context)

  found: dict[str, tuple[Callable, Callable]] = {
    'likelihood': (log_prob, lambda b: shapes(b)[::2]),
    'step': (step, shapes),
  }
  decode = choose(model).decode
  if decode is not recompute_decode(model):
    found |= _decode(model, decode, tree, leaves, shapes)
  return found


def _decode(
  model: AutoregressiveModel,
  decode: Decode,
  tree: Any,
  leaves: list[Any],
  shapes: Callable,
) -> dict[str, tuple[Callable, Callable]]:
  """The programs of cached sampling."""
  slots = jnp.asarray(order.slots(model.rank))
  value = model.event.shape[model.rank.ndim :]
  # Records of this library are not known where the file is read: lists are.
  like = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), leaves)
  caches = jax.tree.structure(
    jax.eval_shape(decode.init, jax.tree.unflatten(tree, like), model.context)
  )

  def begin(leaves, words, context):
    params = jax.tree.unflatten(tree, leaves)
    one = lambda _, context: decode.init(params, context)
    return jax.tree.leaves(jax.vmap(one)(words, context))

  def extend(leaves, cache, k, previous, words):
    params = jax.tree.unflatten(tree, leaves)
    cache = jax.tree.unflatten(caches, cache)

    def one(cache, previous, words):
      key = jax.random.wrap_key_data(words, impl='threefry2x32')
      dist, cache = decode.extend(params, cache, k, previous[None])
      first = jax.tree.map(lambda d: d[0], dist)
      noise = model.head.noise(key, slots[k])
      x = model.head.pick(first, noise).astype(model.event.dtype)
      return x.reshape(value), cache

    x, cache = jax.vmap(one)(cache, previous, words)
    return x, jax.tree.leaves(cache)

  def arguments(b):
    _, words, context = shapes(b)
    cache = jax.eval_shape(begin, like, words, context)
    k = jax.ShapeDtypeStruct((), jnp.int32)
    before = jax.ShapeDtypeStruct((b, *value), model.event.dtype)
    return cache, k, before, words

  return {
    'begin': (begin, lambda b: shapes(b)[1:]),
    'extend': (extend, arguments),
  }


def _lower(program: Callable, leaves: list[Any], arguments: Callable) -> bytes:
  """One program for every platform and any number of examples.

  It is traced for none of them: without a kernel that only one has, and with
  products of float32 that are float32 wherever it runs.
  """
  (b,) = jax_export.symbolic_shape('b')
  like = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), leaves)
  made = jax_export.export(jax.jit(program), platforms=PLATFORMS)
  level = jax.default_matmul_precision('highest')
  try:
    with target.on('cpu'), level:
      return bytes(made(like, *arguments(b)).serialize())
  except ModuleNotFoundError as error:
    raise ImportError(
      'A program is serialised by flatbuffers, which is not installed: '
      "pip install -c constraints.txt -e '.[export]'."
    ) from error
