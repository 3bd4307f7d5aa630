"""Fourier transforms, as the linear maps that they are.

Every frequency reads every place, and yet a convolution by FFT that is padded
enough reads only the past: the rest cancels. So between a transform and its
inverse an array is carried as y = sum_s C_s u_s with numbers C for the entries
u of the array that was transformed, and at the end y reads u_s where C_s is
not zero up to rounding. Where parameters enter C, stand-ins are drawn for them
and for all that they make by anything but a polynomial: a coefficient that is a
polynomial of random numbers is zero, with probability 1, only if it always is.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from parallel_ar.analysis.static import sets
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Value

_LIMIT = 2**24  # coefficients of one array
_ROUNDING = 1e-5  # of the largest coefficient
_AFFINE = frozenset(
  'add broadcast_in_dim concatenate conj convert_element_type copy div '
  'dot_general expand_dims mul neg pad reduce_sum reshape slice squeeze sub '
  'transpose'.split()
)
_LEAVES = ('real', 'imag')


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
  """An array as coefficients [S, *shape] of S entries and their sets."""

  coefficients: np.ndarray
  sources: np.ndarray


def transform(eqn: Any, operands: list[Value]) -> list[Value]:
  """fft, of any kind."""
  (v,) = operands
  aval = eqn.outvars[0].aval
  if v.reads is None:
    numbers = None
    if v.numeric:
      numbers = np.asarray(eqn.primitive.bind(v.value, **eqn.params))
    known = np.True_ if v.constant else None
    return [
      values.of_aval(
        aval, value=numbers, known=known, sampled=v.numeric, exact=True
      )
    ]
  start = v
  if v.linear is None and v.size * v.size <= _LIMIT:
    eye = np.eye(v.size, dtype=v.dtype).reshape(v.size, *v.shape)
    sources = v.reads.reshape(*v.reads.shape[:2], 1, v.size)
    if values.kind(v.dtype) == 'c':  # its real and imaginary part, apart
      eye = np.concatenate([eye, 1j * eye]).astype(v.dtype)
      sources = np.concatenate([sources, sources], -1)
    start = dataclasses.replace(v, linear=Linear(eye, sources))
  real = not np.issubdtype(aval.dtype, np.complexfloating)
  return [_apply(eqn, [start], leaves=real)]


def affine(eqn: Any, operands: list[Value]) -> list[Value] | None:
  """The result, where the operation keeps a linear map; else None."""
  linear = [v for v in operands if v.linear is not None]
  name = eqn.primitive.name
  if not linear or name not in (*_AFFINE, *_LEAVES):
    return None
  if any(v.linear is None and not v.numeric for v in operands):
    return None
  if any(v.linear.sources is not linear[0].linear.sources for v in linear):
    return None
  if len(linear) > 1 and name in ('mul', 'div', 'dot_general'):
    return None
  if name == 'div' and operands[1].linear is not None:
    return None
  known = [np.asarray(v.value) for v in operands if v.numeric]
  if not all(np.isfinite(a).all() for a in known):
    return None
  return [_apply(eqn, operands, leaves=name in _LEAVES)]


def _apply(eqn: Any, operands: list[Value], leaves: bool) -> Value:
  """The operation on the coefficients, and what its result reads."""
  aval = eqn.outvars[0].aval
  fields: dict[str, Any] = {}
  if all(v.finite for v in operands):
    fields['lo'], fields['hi'] = values.finite()
  linear = next((v.linear for v in operands if v.linear is not None), None)
  if linear is None:
    reads = sets.everywhere(sets.spread(operands, False), aval.shape)
    return values.of_aval(aval, reads=reads, **fields)
  which = [n for n, v in enumerate(operands) if v.linear is not None]
  numbers = [
    np.zeros(v.shape, v.dtype) if v.linear is not None else v.value
    for v in operands
  ]
  zero = eqn.primitive.bind(*numbers, **eqn.params)

  def apply(*coefficients: Any) -> jax.Array:
    both: list[Any] = list(numbers)
    for n, c in zip(which, coefficients, strict=True):
      both[n] = c
    return eqn.primitive.bind(*both, **eqn.params) - zero

  rows = [operands[n].linear.coefficients for n in which]
  found = np.asarray(jax.jit(jax.vmap(apply))(*rows))
  size = np.abs(found)
  if not np.isfinite(size).all():
    raise values.UnknownForm('coefficients that overflow')
  nonzero = size > _ROUNDING * float(size.max(initial=0))
  reads = sets.product(linear.sources, nonzero.reshape(len(found), -1))
  reads = reads.reshape(*reads.shape[:2], *aval.shape)
  if leaves:
    return values.of_aval(aval, reads=reads, **fields)
  out = values.of_aval(aval, reads=sets.weaken(reads), **fields)
  return dataclasses.replace(out, linear=Linear(found, linear.sources))
