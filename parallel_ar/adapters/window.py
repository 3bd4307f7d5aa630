"""Models that read a few symbols only, as decode paths that keep no state.

  p(x_k | x_<k) = p(x_k | x_{k-R}, ..., x_{k-1})

n slots are then the last n outputs of the same function on R + n symbols, as a
stack of convolutions has it, or attention to a window.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors
from parallel_ar.adapters import trial
from parallel_ar.adapters.network import of_head
from parallel_ar.decode import Decode
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Dist, Params

_PROVED = 256  # positions up to which the reads of a model are followed
_TRIED = 64  # slots that are compared with the pass


def windowed_decode(
  model: AutoregressiveModel,
  reads: int,
  fn: Callable[[Params, Array, Context], Dist] | None = None,
  *,
  params: Params = None,
) -> Decode:
  """Makes a decode path of a model that reads the last R symbols only.

  What the model reads is followed through its program (`analysis.static`) for
  up to 256 positions, and the path is compared with the pass at up to 64 slots
  of a random event.

  Args:
    model: the model, with one rank a position.
    reads: R, how many symbols before a slot its conditional may depend on.
    fn: (params, x[W], context) -> dist of W slots in the order of generation,
      for any W up to D: entry j reads the last R of x[:j], and its border at
      the left is that of the model. By default the model's own function, which
      then must take events of any length.
    params: what it is tried with; `model.init` of a fixed key, disturbed so
      that no weight is zero, by default.

  Returns:
    The path. A block of n slots costs a pass over min(R + n, D) symbols, and
    no rewind costs anything.

  Raises:
    ValueError: the order has ties, R is not positive, the model reads further,
      or the function is not the same at every place.
  """
  doors.check_model(model)
  size = model.num_positions
  if model.depth < size:
    raise ValueError(
      f'A window goes symbol after symbol, but {model.name} draws {size} '
      f'positions in {model.depth} ranks. Use par.derive_decode(model).'
    )
  if reads < 1:
    raise ValueError(f'A window holds at least 1 symbol; got reads={reads}.')
  if fn is None and model.rank.ndim > 1:
    raise ValueError(
      f'{model.name} takes events of shape {model.event.shape}. Give fn=, a '
      'function of a line of symbols in the order of generation.'
    )
  _check_reach(model, reads)
  path = _path(model, reads, fn or model.conditionals)
  example = trial.example(model, params)
  slots = _slots_to_try(size, reads)
  trial.check(
    model,
    example,
    slots,
    _tried(model, path, example, slots),
    (
      f'With reads={reads}: does it read further back, or by the number of the '
      'position? A function of a window must give the same wherever the window '
      'stands.'
    ),
  )
  return path


def _path(model: AutoregressiveModel, reads: int, fn: Callable) -> Decode:
  size, lead = model.num_positions, model.rank.ndim
  value = model.event.shape[lead:]

  def init(params: Params, context: Context) -> Any:
    return jnp.zeros((size, *value), model.event.dtype), context

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    x, context = cache
    n = previous.shape[0]
    at = k - 1 + jnp.arange(n, dtype=jnp.int32)
    # Slot -1 does not exist: send its write out of bounds, where it is dropped.
    x = x.at[jnp.where(at < 0, size, at)].set(
      previous.astype(x.dtype), mode='drop'
    )
    width = min(reads + n, size)
    first = jnp.clip(k - reads, 0, size - width)
    cut = jax.lax.dynamic_slice_in_dim
    dist = of_head(model.head, fn(params, cut(x, first, width), context))
    return jax.tree.map(lambda d: cut(d, k - first, n), dist), (x, context)

  return Decode(init, extend, rewind=lambda cache, k: cache)


def _check_reach(model: AutoregressiveModel, reads: int) -> None:
  """Refuses what surely reads further back.

  Raises:
    ValueError: it does; the message names a pair and the R that is needed.
  """
  if model.num_positions > _PROVED:
    return
  from parallel_ar.analysis import receptive, static  # they stand above

  found = static.check(model)
  need, output = receptive.reach(found.firm, model.rank)
  if need > reads:
    raise ValueError(
      f'{model.name} reads further back than reads={reads}: position {output} '
      f'reads a symbol {need} slots before it. Use reads={need}, or '
      'par.derive_decode(model), which needs no window.'
    )


def _slots_to_try(size: int, reads: int) -> np.ndarray:
  """Slots at both ends, where the window begins to move, and between."""
  near = np.arange(reads - 1, reads + 4)
  spread = np.linspace(0, size - 1, _TRIED - len(near)).astype(int)
  return np.unique(np.concatenate([near[near < size], spread]))


def _tried(
  model: AutoregressiveModel,
  path: Decode,
  example: trial.Example,
  slots: np.ndarray,
) -> Dist:
  """Conditionals of some slots by the path, each from all values before it."""
  values = trial.in_slots(model, example.x)

  @jax.jit
  def run(params: Params, values: Array, context: Context) -> Dist:
    _, context = path.init(params, context)
    of = lambda k: path.extend(
      params, (values, context), k, values[jnp.maximum(k - 1, 0)][None]
    )[0]
    return jax.lax.map(of, jnp.asarray(slots, jnp.int32))

  dist = run(example.params, values, example.context)
  return jax.device_get(jax.tree.map(lambda d: d[:, 0], dist))
