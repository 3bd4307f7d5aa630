"""Between which bounds a function of one number lies."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.analysis.static.value import SOME, UNKNOWN, Bounds

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
  finite = np.isfinite(x) & np.isfinite(y) & np.isinf(out)
  return np.where(finite, np.sign(out) * SOME, out)
