"""Between which bounds a function of one number lies."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from parallel_ar.analysis.static.value import SOME, UNKNOWN, Bounds, kind

# What a computed function may be off by, relative to the exact one.
SLACK = 1e-5


def wide(lo: Any, hi: Any) -> Bounds:
  """Room for the error of a computed function."""
  return lo - SLACK * np.abs(lo), hi + SLACK * np.abs(hi)


def exponential(function: Callable, offset: float) -> Callable:
  """exp, exp2 and expm1: they overflow, but not below zero."""

  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each
    lo, hi = wide(*(np.minimum(function(x), 1e100) for x in (a, b)))
    lo = np.maximum(lo, -offset)
    hi = np.where(b <= 0, np.minimum(hi, 1.0 - offset), hi)
    hi = np.where(np.asarray(hi) > 1e50, np.inf, hi)
    return mark(np.isnan(a) | np.isnan(b), lo, hi)

  return bounds


def rising(
  function: Callable, start: float, least: float = -SOME, most: float = SOME
) -> Callable:
  """A function that grows from `start` on, and is nan before."""

  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each
    nan = np.isnan(a) | np.isnan(b) | (a < start)
    lo, hi = wide(function(a), function(b))
    return mark(nan, np.maximum(lo, least), np.minimum(hi, most))

  return bounds


def root(eqn: Any, each: list[Bounds]) -> Bounds:
  """sqrt, which is nan below zero."""
  ((a, b),) = each
  nan = np.isnan(a) | np.isnan(b) | (a < 0)
  of = lambda x: np.where(np.abs(x) >= UNKNOWN, np.sign(x) * np.abs(x), x)
  lo, hi = np.sqrt(of(a)), np.where(b >= UNKNOWN, b, np.sqrt(of(b)))
  return mark(nan, *wide(lo, hi))


def one_over_root(eqn: Any, each: list[Bounds]) -> Bounds:
  """rsqrt, which is infinite at zero and nan below."""
  ((a, b),) = each
  nan = np.isnan(a) | np.isnan(b) | (a < 0)
  hi = np.where(a == 0, np.inf, 1 / np.sqrt(np.maximum(a, 1e-300)))
  lo = np.where(b >= UNKNOWN, 0.0, 1 / np.sqrt(np.maximum(b, 1e-300)))
  return mark(nan, *wide(lo, hi))


def logarithm(function: Callable, pole: float) -> Callable:
  """log and log1p: infinite at the pole and nan below."""

  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each
    nan = np.isnan(a) | np.isnan(b) | (a < pole)
    lo = np.where(a <= pole, -np.inf, function(np.maximum(a, pole)))
    hi = np.where(b <= pole, -np.inf, function(np.maximum(b, pole)))
    hi = np.where(b >= UNKNOWN, 1e3, hi)
    return mark(nan, *wide(lo, hi))

  return bounds


def wave(eqn: Any, each: list[Bounds]) -> Bounds:
  """sin and cos."""
  ((a, b),) = each
  nan = ~(np.isfinite(a) & np.isfinite(b))
  return mark(nan, np.float64(-1), np.float64(1))


def bounded(least: float, most: float) -> Callable:
  """A function that stays between two numbers."""

  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    nan = np.logical_or.reduce([np.isnan(a) | np.isnan(b) for a, b in each])
    return mark(nan, np.float64(least), np.float64(most))

  return bounds


def mark(nan: Any, lo: Any, hi: Any) -> Bounds:
  """Bounds, and nan where the result may be nan."""
  return np.where(nan, np.nan, lo), np.where(nan, np.nan, hi)


def times(x: Any, y: Any) -> Any:
  """A product; beyond float64 of finite numbers it is of unknown size."""
  out = x * y
  finite = np.isfinite(x) & np.isfinite(y)
  unknown = (np.abs(x) >= UNKNOWN) | (np.abs(y) >= UNKNOWN)
  out = np.where(finite & unknown & np.isinf(out), np.sign(out) * SOME, out)
  huge = finite & ~unknown & (np.abs(out) >= UNKNOWN)
  return np.where(huge, np.sign(out) * np.inf, out)


def to_whole(eqn: Any, each: list[Bounds]) -> Bounds:
  """round, to even or away from zero."""
  ((a, b),) = each
  if eqn.params['rounding_method'] == lax.RoundingMethod.TO_NEAREST_EVEN:
    return np.round(a), np.round(b)
  away = lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x)
  return away(a), away(b)


def reduced(eqn: Any, each: list[Bounds]) -> Bounds:
  """Fewer bits: what is large may be infinite, and what is small be zero."""
  ((a, b),) = each
  exponent, mantissa = eqn.params['exponent_bits'], eqn.params['mantissa_bits']
  bias = 2.0 ** (exponent - 1) - 1
  most, least = 2.0 ** min(bias, 127.0), 2.0 ** (1 - bias)
  near = 2.0**-mantissa
  lo, hi = a - near * np.abs(a), b + near * np.abs(b)
  far = lambda x: (np.abs(x) >= most) & (np.abs(x) < UNKNOWN)
  lo = np.where(far(lo), np.where(lo < 0, -np.inf, most), lo)
  hi = np.where(far(hi), np.where(hi > 0, np.inf, -most), hi)
  lo = np.where((lo > 0) & (lo < 2 * least), 0.0, lo)
  hi = np.where((hi < 0) & (hi > -2 * least), 0.0, hi)
  return lo, hi


def converted(eqn: Any, each: list[Bounds]) -> Bounds:
  """Another type; `ranges.fit` knows what it holds."""
  ((a, b),) = each
  dtype = eqn.outvars[0].aval.dtype
  what = kind(dtype)
  if what == 'b':
    zero = (a == 0) & (b == 0)
    other = (a > 0) | (b < 0)
    return np.where(other, 1.0, 0.0), np.where(zero, 0.0, 1.0)
  if what in 'iu':
    return np.trunc(a), np.trunc(b)
  return a, b
