"""Finite perturbations of a model's input, and the bits that they change.

Bits are compared between rows of equal place in batches of equal shape, run by
one compiled body, since another shape, or another row of a matrix product, may
round differently on its own. The two zeros count as one value, because a
masked product 0 * x has the sign of x. A NaN equals a NaN of the same bits.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Params


def measure(
  model: AutoregressiveModel,
  params: Params,
  context: Context,
  noise: Any,
  rng: np.random.Generator,
  num_values: int,
  chunk: int,
  kind: str = 'random',
) -> tuple[np.ndarray, int]:
  """Perturbs one event at every position.

  Args:
    model: the model.
    params: its parameters.
    context: of one example, or None.
    noise: the head's, of every position.
    rng: of the event and of the values.
    num_values: values tried at each position.
    chunk: events of one pass.
    kind: of the event: 'random', or one of `SPECIAL`.

  Returns:
    float32[2, D, D] over (input, output): whether any bit of the output
    changed, and the relative change; and the number of perturbed events.
  """
  base = _event(model, rng, kind)
  position, value = _trials(model, base, rng, num_values)
  size, count = model.num_positions, len(position)
  rows = min(chunk, count)
  # Position `size` does not exist, so these rows change nothing. The first
  # chunk of them is what row k of every other chunk is compared with.
  nowhere = np.full(rows, size), position, np.full(-count % rows, size)
  anything = value[:rows], value, value[: -count % rows]
  position, value = np.concatenate(nowhere), np.concatenate(anything)
  found = _compare(
    model,
    params,
    base,
    context,
    noise,
    position.reshape(-1, rows),
    value.reshape(-1, rows, *value.shape[1:]),
  )
  found = np.stack([np.asarray(f) for f in found])[:, rows : rows + count]
  return found.reshape(2, -1, size, size).max(1), count


# Events that random ones hardly ever are. A padding symbol everywhere closes
# whole rows of a mask; a maximum over all but one position shows the one.
SPECIAL = ('first', 'last', 'repeated')


def _event(
  model: AutoregressiveModel, rng: np.random.Generator, kind: str
) -> np.ndarray:
  """A base event: uniform symbols or normal values, or a special one."""
  shape, dtype = model.event.shape, np.dtype(model.event.dtype)
  count = model.head.num_values
  if kind == 'first':
    return np.zeros(shape, dtype)
  if kind == 'last':
    return np.full(shape, 1 if count is None else count - 1, dtype)
  if count is None:
    event = rng.normal(size=shape).astype(dtype)
  else:
    event = rng.integers(count, size=shape).astype(dtype)
  if kind == 'random':
    return event
  size = model.num_positions
  rows = event.reshape(size, *shape[model.rank.ndim :])
  return rows[np.arange(size) % max(size // 3, 1)].reshape(shape)


def _trials(
  model: AutoregressiveModel,
  base: np.ndarray,
  rng: np.random.Generator,
  most: int,
) -> tuple[np.ndarray, np.ndarray]:
  """The trials of one event: position int[P], its new value [P, ...].

  P is a multiple of D, with the positions running fastest.
  """
  size, lead = model.num_positions, model.rank.ndim
  flat = base.reshape(size, *base.shape[lead:])
  num_values = model.head.num_values
  if num_values is None:
    steps = (np.resize([1, -1], most) * np.geomspace(1, 1e4, most)).tolist()
    value = np.stack([flat + step for step in steps])
  else:
    shifts = 1 + rng.permutation(num_values - 1)[:most]
    value = np.stack([(flat + shift) % num_values for shift in shifts])
    if most < num_values - 1:
      value[0] = np.where(flat < num_values // 2, num_values - 1, 0)
    if flat.ndim > 1:  # of a vector, let some components stay as they are
      mixed = np.where(rng.random(value.shape) < 0.5, flat[None], value)
      value = np.concatenate([value, mixed])
  value = value.reshape(-1, *flat.shape[1:]).astype(base.dtype)
  return np.tile(np.arange(size), len(value) // size), value


def _bits(a: Array) -> Array:
  """The bit pattern of each entry, with one zero."""
  if not jnp.issubdtype(a.dtype, jnp.floating):
    return a
  a = jnp.where(a == 0, jnp.zeros_like(a), a)
  return jax.lax.bitcast_convert_type(a, f'uint{8 * a.dtype.itemsize}')


@functools.partial(jax.jit, static_argnums=0)
def _compare(
  model: AutoregressiveModel,
  params: Params,
  base: Array,
  context: Context,
  noise: Any,
  position_MC: Array,
  value_MC: Array,
) -> tuple[Array, Array]:
  """Which outputs each trial changed, bool[M C, D], and by how much, float."""
  size = model.num_positions
  shape = (size, *model.event.shape[model.rank.ndim :])

  def outputs(position: Array, value: Array) -> tuple[list[Array], Array]:
    x = base.reshape(shape).at[position].set(value, mode='drop')
    x = x.reshape(model.event.shape)
    dist = model.conditionals(params, x, context)
    strict = jax.tree.leaves(dist)
    if model.causality == 'exact':  # rounding may flip a pick
      strict.append(model.head.pick(dist, noise))
    terms = model.head.log_prob(dist, x)
    return [a.reshape(size, -1) for a in strict], terms.reshape(size, 1)

  def compare(reference: Any, last: Any, position: Array) -> Any:
    own = position[:, None] == jnp.arange(size)[None]
    strict, terms = jax.tree.map(_difference, reference, last)
    terms = tuple(jnp.where(own, 0, t) for t in terms)
    return jax.tree.map(lambda *each: jnp.stack(each).max(0), *strict, terms)

  def body(carry: Any, item: Any) -> Any:
    # What the step before has left is compared, and not what this one computes:
    # fused into both of its uses, an output would be computed twice, and XLA
    # may round the two otherwise.
    step, reference, last, position = carry
    reference = jax.tree.map(
      lambda r, o: jnp.where(step == 1, o, r), reference, last
    )
    found = compare(reference, last, position)
    return (step + 1, reference, jax.vmap(outputs)(*item), item[0]), found

  first = jax.eval_shape(jax.vmap(outputs), position_MC[0], value_MC[0])
  first = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)
  start = 0, first, first, position_MC[0]
  end, found = jax.lax.scan(body, start, (position_MC, value_MC))
  _, reference, last, position = end
  found = jax.tree.map(
    lambda f, l: jnp.concatenate([f[1:], l[None]]),
    found,
    compare(reference, last, position),
  )
  return tuple(f.reshape(-1, size) for f in found)


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
  """Whether any bit of [C, D, n] differs, and how much: float32[C, D] each."""
  bits = (_bits(a) != _bits(b)).any(-1).astype(jnp.float32)
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  largest = jnp.maximum(jnp.abs(a), jnp.abs(b)).max((1, 2), keepdims=True)
  change = jnp.abs(a - b) / jnp.maximum(largest, jnp.finfo(jnp.float32).tiny)
  return bits, jnp.nan_to_num(change, nan=1.0).max(-1) * bits
