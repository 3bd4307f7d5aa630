"""Newton's method over time, beyond where it contracts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.limits import race
from parallel_ar.layers import deer
from parallel_ar.types import Array


def cell(kernel: Array, h: Array, u: Array) -> Array:
  """h' = tanh(W h + u)."""
  return jnp.tanh(kernel @ h + u)


def diagonal(kernel: Array, h: Array, u: Array) -> Array:
  """d h'_n / d h_n of `cell`."""
  return (1 - cell(kernel, h, u) ** 2) * jnp.diagonal(kernel)


def exponent(kernel: Array, inputs: Array) -> Array:
  """The largest Lyapunov exponent along a trajectory, nats a step.

  lambda = 1/L sum_t log |J_t v_{t-1}|,   v_t = J_t v_{t-1} / |J_t v_{t-1}|
  """
  size = kernel.shape[0]

  def step(carry: tuple, u: Array) -> tuple:
    h, v = carry
    h, v = jax.jvp(lambda h: cell(kernel, h, u), (h,), (v,))
    norm = jnp.linalg.norm(v)
    return (h, v / norm), jnp.log(norm)

  start = jnp.zeros(size), jnp.ones(size) / np.float32(np.sqrt(size))
  logs: Array = jax.lax.scan(step, start, inputs)[1]
  return logs[logs.shape[0] // 4 :].mean()


def case(length: int, size: int, gains: list[float], rounds: int) -> race.Case:
  """Recurrent weights that grow until Newton's steps no longer contract.

  Args:
    length: L of the sequence.
    size: N of the state.
    gains: spectral radii of the weights.
    rounds: timed.

  Returns:
    The case: DEER at every gain; remedies are quasi-DEER, damped steps, and the
    loop. Gains of a row are over DEER at the same weights.
  """
  keys = jax.random.split(jax.random.key(1), 2)  # chaotic from about 1.5
  square = np.asarray(jax.random.normal(keys[0], (size, size)))
  square = square / np.abs(np.linalg.eigvals(square)).max()
  inputs = 0.3 * jax.random.normal(keys[1], (length, size))

  @jax.jit
  def loop(kernel: Array) -> Array:
    def step(h: Array, u: Array) -> tuple[Array, Array]:
      h = cell(kernel, h, u)
      return h, h

    return jax.lax.scan(step, jnp.zeros(size), inputs)[1]

  def newton(**options: Any) -> Any:
    def solve(kernel: Array) -> deer.Solution:
      return deer.solve(cell, kernel, inputs, size, bound=1.0, **options)

    return jax.jit(solve)

  ways = {
    'DEER': newton(),
    'quasi-DEER': newton(diagonal=diagonal),
    'DEER, damped by 0.5': newton(damping=0.5),
    'loop': loop,
  }
  rows: list[race.Row] = []
  facts: dict[str, tuple[float, str]] = {}
  growth = jax.jit(exponent)
  for gain in gains:
    kernel = jnp.asarray(gain * square, jnp.float32)
    rate = float(growth(kernel, inputs))
    facts[f'radius {gain:g}: exponent'] = rate, 'nats a step'
    want, entries = np.asarray(loop(kernel)), []
    for name, way in ways.items():
      got: Any = way(kernel)
      label = f'{name}, radius {gain:g}'
      steps = length
      if isinstance(got, deer.Solution):
        steps, got = int(got.iterations), got.states
        facts[f'{label}: steps'] = steps, 'steps'
      off = float(np.abs(np.asarray(got) - want).max())
      facts[f'{label}: deviation'] = off, '1'
      counted = f'{steps} steps, lambda {rate:+.2f}'
      run = functools.partial(
        lambda w, k: jax.block_until_ready(w(k)), way, kernel
      )
      remedy = name != 'DEER'
      entries.append(race.Entry(label, run, 1, counted, name, gain, remedy))
    rows += race.race(entries, rounds)
  title = f'DEER beyond its stability (L = {length}, N = {size})'
  return race.Case(title, 'pass', 'steps', 'spectral radius', rows, facts)
