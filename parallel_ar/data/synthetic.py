"""Sources whose entropy is known exactly, so a distance to the optimum is too.

For any model q, E_p[-log q(x)] = H(p) + KL(p || q), so the test nats of a
model of such a source, less its entropy, are the model's own error. Both
sources here give the exact log-probability of any x, the exact entropy, and
independent exact samples, in float64.

References:
  Cover and Thomas, Elements of information theory, 2006, chapter 4 (entropy
  rates of Markov chains).
  Kramers and Wannier, Statistics of the two-dimensional ferromagnet, 1941, and
  Onsager, Crystal statistics I, 1944 (the transfer matrix).
"""

import dataclasses
import functools
import itertools

import numpy as np

from parallel_ar.data import dataset
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

_MAX_WIDTH = 10  # a transfer matrix of 2^10 x 2^10 doubles is 8 MiB
MAX_EVENTS = 1 << 20  # that are enumerated
_CHUNK = 1 << 22  # doubles of the largest temporary array of a sampler
_NUM_EXAMPLES = {'train': 50_000, 'valid': 5_000, 'test': 10_000}


def enumerate_events(num_values: int, event: tuple[int, ...]) -> np.ndarray:
  """All V^D events, in lexicographic order of their raster.

  Args:
    num_values: V.
    event: E, with D = prod(E).

  Returns:
    int32[V^D, *E].

  Raises:
    ValueError: more than 2^20 of them.
  """
  size = int(np.prod(event))
  if num_values**size > MAX_EVENTS:
    raise ValueError(
      f'There are {num_values}^{size} events of shape {event} with '
      f'{num_values} values; at most {MAX_EVENTS} are enumerated. Take fewer '
      'positions or values.'
    )
  flat = list(itertools.product(range(num_values), repeat=size))
  return np.array(flat, np.int32).reshape(-1, *event)


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovChain:
  """A stationary Markov chain of L symbols.

    p(x) = pi[x_1] prod_{i=2}^L P[x_{i-1}, x_i],      pi P = pi
    H(x) = H(pi) + (L - 1) h,      h = -sum_{a,b} pi_a P_ab log P_ab

  Attributes:
    transition: P, float64[V, V], rows that sum to 1; irreducible.
    length: L.
  """

  transition: np.ndarray
  length: int

  def __post_init__(self):
    shape = np.shape(self.transition)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
      raise ValueError(
        f'A transition matrix must be [V, V] with V >= 2, got {list(shape)}.'
      )
    rows = np.sum(self.transition, 1)
    if np.min(self.transition) < 0 or not np.allclose(rows, 1, atol=1e-12):
      raise ValueError(
        'The rows of a transition matrix must be probabilities that sum to 1; '
        f'they sum to {rows.min():g}..{rows.max():g}, with a smallest entry of '
        f'{np.min(self.transition):g}.'
      )
    if self.length < 1:
      raise ValueError(f'A chain needs length >= 1, got {self.length}.')

  @classmethod
  def random(
    cls, num_values: int, length: int, seed: int, concentration: float = 1.0
  ) -> 'MarkovChain':
    """A chain whose rows are drawn from a symmetric Dirichlet distribution.

    Args:
      num_values: V >= 2.
      length: L >= 1.
      seed: of the transition matrix.
      concentration: of the Dirichlet; small values give a low entropy.

    Returns:
      A MarkovChain.

    Raises:
      ValueError: fewer than two values, or no concentration above 0.
    """
    if num_values < 2 or concentration <= 0:
      raise ValueError(
        'A random Markov chain needs num_values >= 2 and concentration > 0, '
        f'got {num_values} and {concentration}.'
      )
    alpha = np.full(num_values, float(concentration))
    rows = dataset.random_state('chain', seed).dirichlet(alpha, num_values)
    # Every transition keeps some probability: an irreducible, finite log p.
    rows = 0.999 * rows + 0.001 / num_values
    return cls(rows / rows.sum(1, keepdims=True), length)

  @functools.cached_property
  def stationary(self) -> np.ndarray:
    """pi, float64[V], the law of every single symbol."""
    num_values = len(self.transition)
    equations = np.vstack(
      [self.transition.T - np.eye(num_values), np.ones(num_values)]
    )
    target = np.append(np.zeros(num_values), 1.0)
    pi = np.linalg.lstsq(equations, target, rcond=None)[0]
    pi = np.clip(pi, 0, None)
    return pi / pi.sum()

  @property
  def entropy_rate(self) -> float:
    """h, nats per symbol after the first."""
    return float(self.stationary @ _entropy(self.transition))

  @property
  def entropy(self) -> float:
    """H of a sequence, nats."""
    first = float(_entropy(self.stationary[None])[0])
    return first + (self.length - 1) * self.entropy_rate

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """The log-probability of x int[N, L]: float64[N], nats."""
    with np.errstate(divide='ignore'):
      first = np.log(self.stationary)[x[:, 0]]
      return first + np.log(self.transition)[x[:, :-1], x[:, 1:]].sum(1)

  def sample(self, num_examples: int, seed: int) -> np.ndarray:
    """Independent sequences, int32[N, L], by inverting the distributions."""
    random = dataset.random_state('markov', seed)
    last = len(self.transition) - 1
    cumulative = np.cumsum(self.transition, 1)
    x = np.empty((num_examples, self.length), np.int32)
    u = random.random_sample(num_examples)
    x[:, 0] = np.minimum(np.searchsorted(np.cumsum(self.stationary), u), last)
    for i in range(1, self.length):
      u = random.random_sample(num_examples)
      x[:, i] = (u[:, None] > cumulative[x[:, i - 1], :last]).sum(1)
    return x


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
  """The two-dimensional Ising model on H x W sites with free boundaries.

  With spins s = 2x - 1 and the pairs <i,j> of horizontal and vertical
  neighbours,

    p(x) = w(x) / Z,    log w(x) = K sum_<i,j> s_i s_j + B sum_i s_i

  The weight is a product over rows, so with the 2^W states of a row as the
  index, the diagonal D (a row's own weight) and the matrix T (between two
  rows), Z = 1' D (T D)^(H-1) 1. The entropy H = log Z - E[log w] comes from the
  same recursion over pairs (z, e), e being the sum of w log w (the expectation
  semiring), and an exact sample from drawing the rows backwards, each from the
  forward message times the matrix column of the row below it.

  Attributes:
    height: H.
    width: W <= 10.
    coupling: K; the infinite lattice orders above log(1 + sqrt 2) / 2 = 0.4407.
    field: B.

  References:
    Kramers and Wannier 1941; Onsager 1944.
    Eisner, Parameter estimation for probabilistic finite-state transducers,
    2002 (the expectation semiring).
  """

  height: int
  width: int
  coupling: float
  field: float = 0.0

  def __post_init__(self):
    if self.height < 1 or not 1 <= self.width <= _MAX_WIDTH:
      raise ValueError(
        f'A lattice needs height >= 1 and 1 <= width <= {_MAX_WIDTH}, since '
        f'its transfer matrix is 2^width square; got {self.height} x '
        f'{self.width}. Turn it on its side if it is wide and low.'
      )
    if not np.isfinite(self.coupling) or not np.isfinite(self.field):
      raise ValueError(
        f'coupling and field must be finite, got {self.coupling}, {self.field}.'
      )

  @functools.cached_property
  def _spins(self) -> np.ndarray:
    """float64[2^W, W], the spins of every state; bit 0 is the first column."""
    bits = np.arange(1 << self.width)[:, None] >> np.arange(self.width) & 1
    return 2.0 * bits - 1.0

  @functools.cached_property
  def _row(self) -> np.ndarray:
    """The log of D, float64[2^W]: a row's own log-weight by its state."""
    s = self._spins
    bonds = (s[:, 1:] * s[:, :-1]).sum(1)
    return self.coupling * bonds + self.field * s.sum(1)

  @functools.cached_property
  def _between(self) -> np.ndarray:
    """The log of T, float64[2^W, 2^W]: the log-weight between two rows."""
    return self.coupling * self._spins @ self._spins.T

  @functools.cached_property
  def _forward(self) -> tuple[np.ndarray, float, float]:
    """Messages float64[H, 2^W] (each sums to 1), log Z, and E[log w]."""
    row = np.exp(self._row - self._row.max())
    top = float(self._between.max())
    between = np.exp(self._between - top)
    weighted = between * self._between
    log_scale = 0.0
    z, e = row, row * self._row
    messages = []
    for r in range(self.height):
      if r:
        z, e = z @ between, e @ between + z @ weighted
        z, e = z * row, row * (e + z * self._row)
        log_scale += top
      total = z.sum()
      log_scale += float(np.log(total)) + float(self._row.max())
      z, e = z / total, e / total
      messages.append(z)
    return np.stack(messages), log_scale, float(e.sum())

  @property
  def log_partition(self) -> float:
    """The log of Z, nats."""
    return self._forward[1]

  @property
  def entropy(self) -> float:
    """H of a configuration, nats."""
    return self._forward[1] - self._forward[2]

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """The log-probability of bits x[N, H, W(, 1)]: float64[N], nats."""
    s = 2.0 * np.asarray(x).reshape(-1, self.height, self.width) - 1.0
    bonds = (s[:, 1:] * s[:, :-1]).sum((1, 2))
    bonds += (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2))
    log_weight = self.coupling * bonds + self.field * s.sum((1, 2))
    return log_weight - self.log_partition

  def sample(self, num_examples: int, seed: int) -> np.ndarray:
    """Independent configurations, uint8[N, H, W], drawn row by row upwards."""
    random = dataset.random_state('lattice', seed)
    messages = self._forward[0]
    num_states = len(self._row)
    states = np.empty((num_examples, self.height), np.int64)
    u = random.random_sample((num_examples, self.height))
    last = np.cumsum(messages[-1])
    states[:, -1] = np.searchsorted(last, u[:, -1] * last[-1])
    between = np.exp(self._between - self._between.max())
    chunk = max(1, _CHUNK // num_states)
    for r in range(self.height - 2, -1, -1):
      # cumulative[b, a] = P(row r is at most a | row r + 1 is b), unnormalized
      cumulative = np.cumsum(messages[r] * between, 1)
      for start in range(0, num_examples, chunk):
        rows = slice(start, start + chunk)
        table = cumulative[states[rows, r + 1]]
        level = u[rows, r] * table[:, -1]
        states[rows, r] = (level[:, None] > table[:, :-1]).sum(1)
    return (self._spins[states] > 0).astype(np.uint8)


def markov(
  split: str,
  data_dir: PathLike | None = None,
  *,
  num_values: int = 4,
  length: int = 16,
  num_examples: int | None = None,
  seed: int = 0,
  concentration: float = 1.0,
) -> Dataset:
  """Sequences of `MarkovChain.random(num_values, length, seed, ...)`.

  Args:
    split: 'train', 'valid' or 'test': independent draws of the same chain.
    data_dir: not needed.
    num_values: V.
    length: L.
    num_examples: N; by default 50,000 / 5,000 / 10,000.
    seed: of the chain and, with the split, of the draw.
    concentration: of the Dirichlet prior of the chain's rows.

  Returns:
    A Dataset with event (L,) and the exact entropy.
  """
  del data_dir
  draw = split_draw('markov', split, num_examples, seed)
  chain = MarkovChain.random(num_values, length, seed, concentration)
  x = chain.sample(*draw)
  return Dataset('markov', split, x, num_values, entropy=chain.entropy)


def lattice(
  split: str,
  data_dir: PathLike | None = None,
  *,
  height: int = 8,
  width: int = 8,
  coupling: float = 0.4,
  field: float = 0.0,
  num_examples: int | None = None,
  seed: int = 0,
) -> Dataset:
  """Configurations of `Lattice(height, width, coupling, field)`.

  Args:
    split: 'train', 'valid' or 'test': independent draws of the same law.
    data_dir: not needed.
    height: H.
    width: W <= 10.
    coupling: K.
    field: B.
    num_examples: N; by default 50,000 / 5,000 / 10,000.
    seed: of the draw, with the split.

  Returns:
    A Dataset with event (H, W, 1), 2 values and the exact entropy.
  """
  del data_dir
  draw = split_draw('lattice', split, num_examples, seed)
  source = Lattice(height, width, coupling, field)
  x = source.sample(*draw)[..., None]
  return Dataset('lattice', split, x, 2, entropy=source.entropy)


def split_draw(
  name: str, split: str, num_examples: int | None, seed: int
) -> tuple[int, int]:
  """(N, seed) of a split's draw; the splits of a source are independent.

  Raises:
    ValueError: an unknown split, or N < 1.
  """
  dataset.check_split(name, split, tuple(_NUM_EXAMPLES))
  if num_examples is None:
    num_examples = _NUM_EXAMPLES[split]
  if num_examples < 1:
    raise ValueError(
      f'The {split!r} split of {name!r} would be empty: num_examples must be '
      f'at least 1, got {num_examples}.'
    )
  index = list(_NUM_EXAMPLES).index(split)
  return num_examples, len(_NUM_EXAMPLES) * seed + index


def _entropy(rows: np.ndarray) -> np.ndarray:
  """Entropies in nats, float64[n], of n distributions [n, V]."""
  safe = np.where(rows > 0, rows, 1.0)
  return -(rows * np.log(safe)).sum(1)
