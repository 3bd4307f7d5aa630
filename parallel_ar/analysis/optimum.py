"""How far a model is from the best there can be: KL to a law that is known.

  KL(p || q) = E_p[log p(x) - log q(x)] = cross-entropy - entropy

Three ways, from the least exact to the most: cross-entropy of samples less the
entropy; the mean of log p(x) - log q(x) over the same samples, whose terms vary
as little as the two laws differ; and the sum over all events.

How KL falls with the number N of training examples is fitted by

  KL(N) = floor + scale N^-exponent

The second term is estimation: what more examples would mend. The floor is what
they would not: approximation, that no parameters of this network are p, and
what training left undone. An efficient estimator with d free parameters that
hold p among them has no floor and

  KL(N) = d / (2 N)

since 2 N KL tends to a chi-squared variable of d degrees of freedom.

References:
  Wilks, The large-sample distribution of the likelihood ratio, 1938.
  Billingsley, Statistical methods in Markov chains, 1961 (counts of pairs are
  an efficient estimate). Rosenfeld et al., A constructive prediction of the
  generalization error across scales, ICLR 2020 (a power law with a floor).
"""

from typing import NamedTuple

import numpy as np

from parallel_ar.data.synthetic import MarkovChain
from parallel_ar.types import ArrayLike


class Divergence(NamedTuple):
  """KL(p || q) of an example.

  Attributes:
    nats: the estimate, nats.
    standard_error: of it; 0 where it is exact.
    unpaired_error: what cross-entropy less entropy would have; nan where KL is
      exact.
    how: 'enumeration' or 'paired'.
  """

  nats: float
  standard_error: float
  unpaired_error: float
  how: str


def paired(log_p: ArrayLike, log_q: ArrayLike) -> Divergence:
  """KL from samples of p: the mean of log p - log q over the same events.

  Args:
    log_p: float[N], nats, of samples of p under p.
    log_q: float[N], of the same samples under the model.

  Returns:
    The estimate, unbiased.

  Raises:
    ValueError: shapes that differ, or fewer than two samples.
  """
  log_p, log_q = _pair(log_p, log_q)
  if len(log_p) < 2:
    raise ValueError('KL from samples needs at least two of them; got one.')
  d, root = log_p - log_q, np.sqrt(len(log_p))
  of = lambda values: float(values.std(ddof=1) / root)
  return Divergence(float(d.mean()), of(d), of(log_q), 'paired')


def enumerated(log_p: ArrayLike, log_q: ArrayLike) -> Divergence:
  """KL from all events: the sum of p (log p - log q).

  Args:
    log_p: float[V^D], nats, of every event under p.
    log_q: float[V^D], of every event under the model.

  Returns:
    KL, exact.

  Raises:
    ValueError: shapes that differ, or events under p that do not sum to 1.
  """
  log_p, log_q = _pair(log_p, log_q)
  p = np.exp(log_p)
  if abs(p.sum() - 1) > 1e-6:
    raise ValueError(
      f'The {len(p)} events have a probability of {p.sum():.6f} under p: they '
      'are not all events, or p is no distribution.'
    )
  d = np.where(p > 0, log_p, 0) - np.where(p > 0, log_q, 0)
  return Divergence(float((p * d).sum()), 0.0, float('nan'), 'enumeration')


class PowerLaw(NamedTuple):
  """KL(N) = floor + scale N^-exponent.

  Attributes:
    floor: nats that more examples do not mend.
    scale: nats at N = 1.
    exponent: 1 for an efficient estimator.
    error: largest |log| of fitted over measured.
  """

  floor: float
  scale: float
  exponent: float
  error: float

  def estimation(self, count: ArrayLike) -> np.ndarray:
    """scale N^-exponent.

    Args:
      count: int[...], N, training examples.

    Returns:
      float64[...], nats.
    """
    return self.scale * np.asarray(count, np.float64) ** -self.exponent

  def __call__(self, count: ArrayLike) -> np.ndarray:
    """KL(N), nats."""
    return self.floor + self.estimation(count)


def fit_power_law(counts: ArrayLike, nats: ArrayLike) -> PowerLaw:
  """The power law with a floor that is nearest in relative error.

  For every exponent of a grid, 0.05 to 2, floor and scale are a least-squares
  problem of two numbers that must not be negative.

  Args:
    counts: float[M], numbers of examples, at least three different ones.
    nats: float[M], KL, above 0.

  Returns:
    The fit. Three numbers fitted to few points describe; they prove nothing.

  Raises:
    ValueError: too few points, or values that are not above 0.
  """
  n, y = _pair(counts, nats)
  if len(np.unique(n)) < 3 or n.min() <= 0 or y.min() <= 0:
    raise ValueError(
      'A power law with a floor is fitted to KL above 0 at three numbers of '
      f'examples or more; got {np.unique(n).size} with KL from {y.min():g}.'
    )
  best, least = None, np.inf
  for exponent in np.arange(0.05, 2.001, 0.01):
    power = n**-exponent
    columns = np.stack([1 / y, power / y], 1)
    both = np.linalg.lstsq(columns, np.ones(len(y)), rcond=None)[0]
    alone = [columns[:, k].sum() / (columns[:, k] ** 2).sum() for k in (0, 1)]
    choices = [(alone[0], 0.0), (0.0, alone[1])]
    if both.min() >= 0:
      choices.append((float(both[0]), float(both[1])))
    for floor, scale in choices:
      residual = float(((floor / y + scale * power / y - 1) ** 2).sum())
      if residual < least:
        best, least = (floor, scale, exponent), residual
  assert best is not None
  floor, scale, exponent = (float(v) for v in best)
  off = np.log((floor + scale * n**-exponent) / y)
  return PowerLaw(floor, scale, exponent, float(np.abs(off).max()))


def efficient(num_parameters: int, count: ArrayLike | int) -> np.ndarray:
  """d / (2 N): KL of an efficient estimator, to first order.

  Args:
    num_parameters: d.
    count: int[...], N, training examples.

  Returns:
    float64[...], nats.
  """
  return num_parameters / (2 * np.asarray(count, np.float64))


def counted_chain(
  x: np.ndarray, num_values: int, prior: float = 0.5
) -> MarkovChain:
  """The Markov chain of counted pairs, with d = V (V - 1) free parameters.

    P_ab = (n_ab + prior) / (n_a + V prior)

  Args:
    x: int[N, L], sequences, L >= 2.
    num_values: V.
    prior: what every count begins with; above 0 every KL is finite.

  Returns:
    A MarkovChain of the same length.
  """
  counts = np.full((num_values, num_values), float(prior))
  np.add.at(counts, (x[:, :-1].reshape(-1), x[:, 1:].reshape(-1)), 1)
  return MarkovChain(counts / counts.sum(1, keepdims=True), x.shape[1])


def chain_divergence(p: MarkovChain, q: MarkovChain) -> float:
  """KL(p || q) of sequences of two Markov chains, nats, exactly.

    KL = KL(pi || pi') + (L - 1) sum_a pi_a KL(P_a || P'_a)

  Raises:
    ValueError: another number of symbols, or another length.
  """
  shapes = [(len(chain.transition), chain.length) for chain in (p, q)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      'Chains of the same symbols and length have a divergence; got V, L = '
      f'{shapes[0]} and {shapes[1]}.'
    )
  first = _relative(p.stationary[None], q.stationary[None])[0]
  rows = _relative(p.transition, q.transition)
  return float(first + (p.length - 1) * (p.stationary @ rows))


def _relative(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """KL(p || q) in nats, float64[n], of n pairs of distributions [n, V]."""
  with np.errstate(divide='ignore'):
    ratio = np.log(np.where(p > 0, p, 1.0)) - np.log(np.where(p > 0, q, 1.0))
  return (p * ratio).sum(1)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 1 or a.shape != b.shape or not a.size:
    raise ValueError(
      f'Two vectors of the same length are compared; got shapes {a.shape} and '
      f'{b.shape}.'
    )
  return a, b
