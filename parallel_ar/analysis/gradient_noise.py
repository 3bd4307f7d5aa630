"""The noise of a stochastic gradient, and the batch size that it asks for.

Let g_b be the gradient of one example's loss, G = E g_b and S = Cov(g_b). The
gradient of a batch of B has mean G and covariance S / B, so that in one step of
the best size the loss falls by 1 / (1 + B_noise / B) of what it would fall with
the true gradient, where

  B_noise = tr(S) / |G|^2                 (examples, the gradient noise scale)

and reaching a loss takes

  steps(B) = S_min (1 + B_crit / B),      examples(B) = B steps(B)

with B_crit about B_noise: below it a batch twice as large halves the steps,
above it larger batches waste examples. Two estimators, neither biased in
numerator or denominator, though their ratio is, by O(1/N):

  per example   tr(S) = (sum |g_b|^2 - N |mean g|^2) / (N - 1)
                |G|^2 = |mean g|^2 - tr(S) / N
  two batches   |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b)
                tr(S) = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)

McCandlish, Kaplan, Amodei et al. 2018, 'An empirical model of large-batch
training', section 2 and appendix A.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.types import Array, Params

Loss = Callable[[Params, Any], Array]  # (params, batch) -> mean over the batch


class Noise(NamedTuple):
  """An estimate.

  Attributes:
    trace: tr(S), of the gradient of one example, nats^2.
    squared_norm: |G|^2, nats^2; may be negative where N is too small to see G.
    scale: B_noise, examples; inf where `squared_norm` is not positive.
    standard_error: of `scale`, by leaving out one part of the examples at a
      time; nan where there are no parts.
    examples: N.
  """

  trace: float
  squared_norm: float
  scale: float
  standard_error: float
  examples: int


def per_example(
  loss: Loss, params: Params, data: Any, *, chunk: int = 32, parts: int = 8
) -> Noise:
  """The noise scale from the gradients of single examples.

  Args:
    loss: (params, batch) -> mean loss of the batch, nats.
    params: where the gradients are taken.
    data: a batch, leaves with leading axis N.
    chunk: examples whose gradients are held at once.
    parts: of the jackknife that gives the standard error; as many gradients
      are kept.

  Returns:
    The estimate.

  Raises:
    ValueError: fewer than 2 examples in a part.
  """
  count = len(jax.tree.leaves(data)[0])
  parts = min(parts, count // 2)
  if parts < 2:
    raise ValueError(
      f'A noise scale needs at least 4 examples, better 1,000; got {count}.'
    )

  def one(params: Params, example: Any) -> Array:
    single = jax.tree.map(lambda leaf: leaf[None], example)
    return _flat(jax.grad(loss)(params, single))

  @jax.jit
  def sums(params: Params, batch: Any) -> tuple[Array, Array]:
    g = jax.vmap(one, (None, 0))(params, batch)
    return g.sum(0), (g**2).sum()

  bounds = np.linspace(0, count, parts + 1).astype(int)
  total, square = [], []
  for low, high in zip(bounds[:-1], bounds[1:], strict=True):
    g: Any = 0.0
    s = 0.0
    for start in range(low, high, chunk):
      rows = slice(start, min(start + chunk, high))
      a, b = sums(params, jax.tree.map(lambda leaf, r=rows: leaf[r], data))
      g, s = g + np.asarray(a, np.float64), s + float(b)
    total.append(g)
    square.append(s)
  sizes = np.diff(bounds)
  all_g, all_s = np.sum(total, 0), float(np.sum(square))
  whole = _moments(all_g, all_s, count)
  left_out = [
    _moments(all_g - g, all_s - s, count - n)[2]
    for g, s, n in zip(total, square, sizes, strict=True)
  ]
  return Noise(*whole, _jackknife(left_out), count)


def two_batches(
  loss: Loss, params: Params, batches: Sequence[Any], small: int
) -> Noise:
  """The noise scale from the norms of gradients of two sizes of batch.

  What data-parallel training sees for nothing: the small batch is one device's
  share, the large one the whole.

  Args:
    loss: (params, batch) -> mean loss of the batch, nats.
    params: where the gradients are taken.
    batches: K batches of one size B; the estimate averages over them.
    small: b < B, a divisor of B; every batch is cut into B / b small ones.

  Returns:
    The estimate, with the standard error over batches.

  Raises:
    ValueError: b does not divide B, or is no less.
  """
  big = len(jax.tree.leaves(batches[0])[0])
  if small < 1 or small >= big or big % small:
    raise ValueError(
      f'Two sizes of batch are compared: small={small} must divide and be less '
      f'than the {big} examples of a batch.'
    )

  @jax.jit
  def norms(params: Params, batch: Any) -> tuple[Array, Array]:
    cut = jax.tree.map(
      lambda leaf: leaf.reshape(-1, small, *leaf.shape[1:]), batch
    )
    g = jax.lax.map(lambda part: _flat(jax.grad(loss)(params, part)), cut)
    return (g**2).sum(1).mean(), (g.mean(0) ** 2).sum()

  both = np.array([[float(n) for n in norms(params, b)] for b in batches])

  def moments(rows: np.ndarray) -> tuple[float, float, float]:
    of_small, of_big = rows.mean(0)
    squared = (big * of_big - small * of_small) / (big - small)
    trace = (of_small - of_big) / (1 / small - 1 / big)
    return trace, squared, _scale(trace, squared)

  left_out = [
    moments(np.delete(both, k, 0))[2] for k in range(len(both)) if len(both) > 1
  ]
  return Noise(*moments(both), _jackknife(left_out), big * len(batches))


class Frontier(NamedTuple):
  """steps(B) = min_steps (1 + critical / B), fitted.

  Attributes:
    min_steps: S_min, with the true gradient.
    critical: B_crit, examples; the batch at which twice S_min is needed.
    error: largest |log| of measured over fitted steps.
  """

  min_steps: float
  critical: float
  error: float

  def steps(self, batch: Any) -> Any:
    """Predicted steps to the target with this batch."""
    return self.min_steps * (1 + self.critical / np.asarray(batch))


def fit_frontier(batch: Sequence[float], steps: Sequence[float]) -> Frontier:
  """Fits the hyperbola to measured steps, by least squares of log steps.

  Args:
    batch: batch sizes, at least two different.
    steps: updates until the target was reached with each.

  Returns:
    The frontier.

  Raises:
    ValueError: fewer than two sizes.
  """
  b, s = np.asarray(batch, np.float64), np.asarray(steps, np.float64)
  if len(set(b.tolist())) < 2:
    raise ValueError('A frontier needs steps at two batch sizes or more.')
  critical = np.geomspace(b.min() / 100, b.max() * 100, 4001)
  shape = np.log1p(critical[:, None] / b)
  offset = (np.log(s) - shape).mean(1)
  residual = np.log(s) - shape - offset[:, None]
  best = int((residual**2).sum(1).argmin())
  return Frontier(
    float(np.exp(offset[best])),
    float(critical[best]),
    float(np.abs(residual[best]).max()),
  )


def _jackknife(left_out: Sequence[float]) -> float:
  """Standard error from estimates that leave out one part each."""
  if not left_out or not np.isfinite(left_out).all():
    return float('nan')
  return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


def _flat(tree: Any) -> Array:
  leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
  return jnp.concatenate(leaves).astype(jnp.float32)


def _moments(
  total: np.ndarray, square: float, count: int
) -> tuple[float, float, float]:
  mean = total / count
  norm = float((mean**2).sum())
  trace = (square - count * norm) / (count - 1)
  squared = norm - trace / count
  return trace, squared, _scale(trace, squared)


def _scale(trace: float, squared: float) -> float:
  return float(trace / squared) if squared > 0 else float('inf')
