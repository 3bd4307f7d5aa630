"""Laws of which log p(x) is known exactly: by name, and mixtures of them.

  KL(p || q) = E_p[log p(x) - log q(x)]

is how far a model q is from the best there can be. It needs samples of p and
log p(x), both exact, which a `Law` has: `synthetic.MarkovChain`,
`synthetic.Lattice` and the `Mixture` of any laws over the same events.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from parallel_ar.data import dataset, synthetic
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike


class Law(Protocol):
  """A distribution that is known exactly."""

  @property
  def entropy(self) -> float:
    """H, nats of an example."""

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """The log-probability of x[N, *E]: float64[N], nats."""

  def sample(self, num_examples: int, seed: int) -> np.ndarray:
    """Independent examples, int[N, *E]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """p(x) = sum_k w_k p_k(x): which of K laws drew x is not told.

  log p(x) is a logsumexp over the components. There is no formula for the
  entropy; it is the sum over all V^D events, where those can be enumerated.

  Attributes:
    components: K laws over the same events.
    num_values: V.
    event: E, the shape of an event.
    weights: w, K probabilities; None: all the same.
  """

  components: Sequence[Any]
  num_values: int
  event: tuple[int, ...]
  weights: Sequence[float] | None = None

  def __post_init__(self):
    w = self._weights
    if not len(self.components) or len(w) != len(self.components):
      raise ValueError(
        f'A mixture has one weight for each of its components; got {len(w)} '
        f'weights for {len(self.components)}.'
      )
    if w.min() <= 0 or not np.isclose(w.sum(), 1, atol=1e-12):
      raise ValueError(
        'The weights of a mixture are above 0 and sum to 1; they sum to '
        f'{w.sum():g}, the smallest is {w.min():g}.'
      )

  @classmethod
  def of_chains(
    cls,
    num_components: int,
    num_values: int,
    length: int,
    seed: int,
    concentration: float = 1.0,
  ) -> 'Mixture':
    """K random Markov chains, as likely as one another.

    Args:
      num_components: K >= 1.
      num_values: V >= 2.
      length: L >= 1.
      seed: of the first chain; the others follow.
      concentration: of the Dirichlet of their rows.

    Raises:
      ValueError: no component, or no such chain.
    """
    if num_components < 1:
      raise ValueError(
        f'A mixture needs at least one component; got {num_components}.'
      )
    chains = [
      synthetic.MarkovChain.random(
        num_values, length, num_components * seed + k, concentration
      )
      for k in range(num_components)
    ]
    return cls(chains, num_values, (length,))

  @functools.cached_property
  def _weights(self) -> np.ndarray:
    count = len(self.components)
    even = np.full(count, 1 / max(count, 1))
    return even if self.weights is None else np.asarray(self.weights, float)

  @functools.cached_property
  def entropy(self) -> float:
    """H of an event, nats, by enumeration.

    Raises:
      ValueError: more than 2^20 events.
    """
    events = synthetic.enumerate_events(self.num_values, self.event)
    log_p = self.log_prob(events)
    p = np.exp(log_p)
    return -float((p * np.where(p > 0, log_p, 0)).sum())

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """The log-probability of x int[N, *E]: float64[N], nats."""
    each = np.stack([law.log_prob(x) for law in self.components])
    return np.logaddexp.reduce(each + np.log(self._weights)[:, None])

  def sample(self, num_examples: int, seed: int) -> np.ndarray:
    """Independent events, int32[N, *E]: a component each, then an event."""
    random = dataset.random_state('mixture', seed)
    count = len(self.components)
    u = random.random_sample(num_examples)
    bounds = np.cumsum(self._weights)[:-1]
    which = np.searchsorted(bounds, u, side='right')
    x = np.empty((num_examples, *self.event), np.int32)
    for k, law in enumerate(self.components):
      mine = which == k
      drawn = law.sample(int(mine.sum()), count * seed + k)
      x[mine] = drawn.reshape(-1, *self.event)
    return x


def mixture(
  split: str,
  data_dir: PathLike | None = None,
  *,
  num_components: int = 3,
  num_values: int = 3,
  length: int = 10,
  num_examples: int | None = None,
  seed: int = 0,
  concentration: float = 1.0,
) -> Dataset:
  """Sequences of one of K Markov chains, `Mixture.of_chains`.

  Args:
    split: 'train', 'valid' or 'test': independent draws of the same law.
    data_dir: not needed.
    num_components: K.
    num_values: V.
    length: L.
    num_examples: N; by default 50,000 / 5,000 / 10,000.
    seed: of the chains and, with the split, of the draw.
    concentration: of the Dirichlet prior of the chains' rows.

  Returns:
    A Dataset with event (L,), and the exact entropy where V^L <= 2^20.
  """
  del data_dir
  draw = synthetic.split_draw('mixture', split, num_examples, seed)
  options = num_components, num_values, length, seed, concentration
  source = Mixture.of_chains(*options)
  x = source.sample(*draw)
  few = num_values**length <= synthetic.MAX_EVENTS
  entropy = source.entropy if few else None
  return Dataset('mixture', split, x, num_values, entropy=entropy)


def law(name: str, **options: Any) -> Law:
  """The law behind a source of data, by the options of the source.

  Args:
    name: 'markov', 'lattice' or 'mixture'.
    **options: as in `sources.load`; `num_examples` is not looked at.

  Returns:
    The law.

  Raises:
    ValueError: a source without an exact log-probability.
  """
  if name not in _LAWS:
    raise ValueError(
      f'The data source {name!r} has no exact log-probability, so the distance '
      f'of a model to it is not known. Sources that have one: '
      f'{", ".join(_LAWS)}.{dataset.suggest(name, _LAWS)}'
    )
  source, make = _LAWS[name]
  known = {
    field: options.get(field, parameter.default)
    for field, parameter in inspect.signature(source).parameters.items()
    if field in inspect.signature(make).parameters
  }
  return make(**known)


# name -> (source, what makes its law of the fields they share)
_LAWS: dict[str, tuple[Callable[..., Dataset], Callable[..., Law]]] = {
  'markov': (synthetic.markov, synthetic.MarkovChain.random),
  'lattice': (synthetic.lattice, synthetic.Lattice),
  'mixture': (mixture, Mixture.of_chains),
}
