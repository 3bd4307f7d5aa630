"""What a law is tried on: a model, its parameters, keys and events."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.model import AutoregressiveModel
from parallel_ar.testing import oracles
from parallel_ar.types import ArrayLike, Context, Params, PRNGKey


class LawBroken(AssertionError):
  """A model or a sampler does not keep its promise."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A model with what is needed to try it.

  Attributes:
    name: shown in messages.
    model: the model; tiny for the laws that enumerate.
    params: its parameters.
    keys: key[B], B >= 3.
    x: array[B, *event], random events.
    context: pytree with leading axis B, or None.
    reads: bool[D, D], what each output must read, the positive control of law
      1; None asks only that every position of rank > 0 reads something.
    tolerance: relative, between two programs of the same mathematics; about
      1e-5 for float32 and 2e-2 for bfloat16.
  """

  name: str
  model: AutoregressiveModel
  params: Params
  keys: PRNGKey
  x: np.ndarray
  context: Context = None
  reads: ArrayLike | None = None
  tolerance: float = 2e-5


def make_case(
  model: AutoregressiveModel,
  *,
  name: str = '',
  params: Params = None,
  context: Context = None,
  reads: ArrayLike | None = None,
  tolerance: float = 2e-5,
  batch: int = 3,
  seed: int = 0,
) -> Case:
  """A case with random events, and random parameters unless they are given.

  Args:
    model: the model.
    name: of the case; the model's by default.
    params: its parameters; strong random ones by default, see
      `random_params`.
    context: with leading axis B; by default labels 0, 1, 0, ... or normals.
    reads: see `Case`.
    tolerance: see `Case`.
    batch: B.
    seed: of everything random.

  Returns:
    The case.
  """
  rng = np.random.default_rng(seed)
  shape = (batch, *model.event.shape)
  x: np.ndarray
  if model.head.num_values is None:
    x = rng.normal(size=shape)
  else:
    x = rng.integers(model.head.num_values, size=shape)

  def vary(spec: jax.ShapeDtypeStruct) -> np.ndarray:
    if np.issubdtype(spec.dtype, np.integer):
      labels = (np.arange(batch) % 2).reshape(batch, *(1,) * len(spec.shape))
      return np.broadcast_to(labels, (batch, *spec.shape)).astype(spec.dtype)
    return rng.normal(size=(batch, *spec.shape)).astype(spec.dtype)

  return Case(
    name=name or model.name,
    model=model,
    params=random_params(model, seed) if params is None else params,
    keys=jax.random.split(jax.random.key(seed), batch),
    x=x.astype(model.event.dtype),
    context=jax.tree.map(vary, model.context) if context is None else context,
    reads=reads,
    tolerance=tolerance,
  )


def random_params(
  model: AutoregressiveModel, seed: int = 0, gain: float = 2.0
) -> Params:
  """Parameters under which outputs depend strongly on inputs.

  A fresh network is close to uniform, so that its samples are noise and a
  sampler that reads the wrong inputs passes unseen. Matrices are normal with
  standard deviation gain / sqrt(fan in); vectors are 0.5 +- 0.5, so that few
  rectified units are dead, and scales 1 +- 0.5.
  """
  rng = np.random.default_rng(seed)

  def draw(path: Any, spec: jax.ShapeDtypeStruct) -> jax.Array:
    value = rng.normal(size=spec.shape)
    if len(spec.shape) > 1:
      value *= gain / max(np.prod(spec.shape[:-1]), 1) ** 0.5
    else:
      scale = 'scale' in jax.tree_util.keystr(path[-1:])
      value = 0.5 * value + (1 if scale else 0.5)
    return jnp.asarray(value, spec.dtype)

  specs = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, specs)


def agree(
  case: Case,
  law: str,
  what: str,
  want: ArrayLike,
  got: ArrayLike,
  first: int = 0,
) -> int:
  """Compares samples of two programs.

  Symbols are equal but for near ties. Continuous values are equal up to
  rounding, which grows along the order, so 100 tolerances are allowed.

  Args:
    case: the case.
    law: for the message.
    what: how `got` was made, for the message.
    want: array[b, *event], samples of the keys first, first + 1, ...
    got: array[b, *event].
    first: example of the case that row 0 is.

  Returns:
    The number of samples that differ by a near tie.

  Raises:
    LawBroken: a difference that floating point does not explain.
  """
  want, got = np.asarray(want), np.asarray(got)
  differs, ties = want != got, 0
  if case.model.head.num_values is None:
    near = 100 * case.tolerance
    differs = ~np.isclose(got, want, rtol=near, atol=near)
  for n in np.flatnonzero(differs.reshape(len(want), -1).any(1)):
    b = first + int(n)
    context = oracles.row(case.context, b)
    tie = oracles.near_tie(
      case.model, case.params, case.keys[b], context, want[n], got[n]
    )
    exact = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    if exact or not tie:
      raise LawBroken(
        f'{law}. {case.name}, example {b}: '
        f'{difference(what, got[n], want[n])} No near tie explains it.'
      )
    ties += 1
  return ties


def difference(what: str, got: ArrayLike, want: ArrayLike) -> str:
  """One sentence about the first entry in which two arrays differ."""
  got, want = np.asarray(got), np.asarray(want)
  differs = np.argwhere(got != want)
  at = tuple(int(n) for n in differs[0])
  return (
    f'{what} gives {got[at]} at index {at} where `ancestral` gives {want[at]} '
    f'({len(differs)} of {want.size} values differ).'
  )


def count(ties: int) -> str:
  """What a line says of forgiven near ties."""
  return f' ({ties} near ties fell otherwise)' if ties else ''
