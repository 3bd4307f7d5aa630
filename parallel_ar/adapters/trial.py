"""What a path of someone else's is tried with, and compared with the pass."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.adapters.network import of_head
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Context, Dist, Params

# Of the largest number, by the bytes of a float: two programs round otherwise.
_ROUNDING = {2: 1e-1, 4: 2e-3, 8: 1e-8}


class Example(NamedTuple):
  """One event of a model, its context and parameters."""

  params: Params
  x: np.ndarray
  context: Context


def example(model: AutoregressiveModel, params: Params = None) -> Example:
  """A random event, and parameters of which none is zero, if none are given."""
  rng = np.random.default_rng(0)

  def draw(spec: Any) -> np.ndarray:
    if jnp.issubdtype(spec.dtype, jnp.floating):
      return rng.normal(size=spec.shape).astype(spec.dtype)
    return np.zeros(spec.shape, spec.dtype)

  x = draw(model.event)
  if count := model.head.num_values:
    x = rng.integers(count, size=model.event.shape).astype(model.event.dtype)
  if params is None:
    params = jax.tree.map(
      lambda leaf: leaf + jnp.asarray(0.1 * draw(leaf), leaf.dtype),
      model.init(jax.random.key(0)),
    )
  return Example(params, x, jax.tree.map(draw, model.context))


def in_slots(model: AutoregressiveModel, tree: Any) -> Any:
  """Leaves [*E, ...] as [D, ...], in the order of generation."""
  slots, lead = order.slots(model.rank), model.rank.ndim
  flat = lambda a: a.reshape(slots.size, *a.shape[lead:])[slots]
  return jax.tree.map(flat, tree)


def check(
  model: AutoregressiveModel,
  example: Example,
  slots: np.ndarray,
  dist: Dist,
  hint: str,
) -> None:
  """Compares conditionals of some slots with those of the pass.

  Args:
    model: the model.
    example: what both were computed for.
    slots: int[n].
    dist: conditionals of these slots.
    hint: what to look at.

  Raises:
    ValueError: they are of other shapes, or further away than rounding.
  """
  conditionals = jax.jit(model.conditionals)
  want = of_head(model.head, conditionals(*example))
  want = jax.tree.map(lambda a: np.asarray(a)[slots], in_slots(model, want))
  shapes = [jax.tree.map(lambda a: a.shape, tree) for tree in (dist, want)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f'For {len(slots)} slots of {model.name} the path gives conditionals of '
      f'shapes {shapes[0]}, and the pass {shapes[1]}. {hint}'
    )
  leaves = zip(jax.tree.leaves(dist), jax.tree.leaves(want), strict=True)
  for have, exact in leaves:
    wide = [np.asarray(a).astype(np.float64) for a in (have, exact)]
    bytes_ = min(np.asarray(a).dtype.itemsize for a in (have, exact))
    scale = max(1.0, float(np.abs(wide[1]).max(initial=0)))
    error = np.abs(wide[0] - wide[1]).reshape(len(slots), -1).max(1) / scale
    wrong = np.flatnonzero(error > _ROUNDING.get(bytes_, 2e-3))
    if len(wrong):
      raise ValueError(
        f'The path does not compute what the pass of {model.name} does: the '
        f'conditionals of slot {slots[wrong[0]]} are {error[wrong[0]]:.1e} of '
        f'the largest away. {hint}'
      )
