"""Law 7: a source of known entropy is learnt to a stated distance.

  E_p[-log q(x)] = H(p) + KL(p || q)

so (mean nats - H) / H is the model's error, and no hope is needed.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parallel_ar import likelihood
from parallel_ar.model import AutoregressiveModel
from parallel_ar.testing.case import LawBroken
from parallel_ar.types import Params


class Source(Protocol):
  """A law that is known exactly; `data.synthetic` has two."""

  @property
  def entropy(self) -> float:
    """H, nats for one event."""

  def sample(self, num_examples: int, seed: int) -> np.ndarray:
    """Independent events, int[N, ...]."""

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """Exact log p(x), float64[N], nats."""


def known_entropy(
  model: AutoregressiveModel,
  source: Source,
  *,
  within: float,
  steps: int = 600,
  batch: int = 256,
  learning_rate: float = 1e-2,
  num_test: int = 20_000,
  seed: int = 0,
) -> str:
  """Law 7. A trained model is at most `within` of the entropy above it.

  The model is trained by Adam with a cosine decay on fresh samples. The test
  is on other samples, by the difference -log q(x) + log p(x), whose mean is KL
  and whose spread is far below that of -log q(x). A model that falls below
  the entropy by more than four standard errors is not normalised or reads its
  future.

  Args:
    model: the model; its event holds as many symbols as the source's.
    source: where the events come from.
    within: largest KL, as a fraction of the entropy.
    steps: of training.
    batch: events of one step.
    learning_rate: of the first step.
    num_test: events of the test.
    seed: of parameters and data.

  Returns:
    What was measured.

  Raises:
    LawBroken: too far above the entropy, or below it.
  """
  params = fit(model, source, steps, batch, learning_rate, seed)
  x = source.sample(num_test, seed + 1)
  log_q = jax.jit(lambda x: likelihood.log_prob(model, params, x))
  events = x.reshape(-1, 2000, *model.event.shape).astype(np.int32)
  nats = np.concatenate([np.asarray(log_q(e), np.float64) for e in events])
  excess = source.log_prob(x) - nats
  error = excess.std() / num_test**0.5
  gap, entropy = float(excess.mean()), source.entropy
  line = (
    f'{entropy + gap:.4f} nats for an entropy of {entropy:.4f}: '
    f'{100 * gap / entropy:+.2f} % (standard error {100 * error / entropy:.2f})'
  )
  if gap < -4 * error:
    raise LawBroken(
      f'Law 7, known entropy. {model.name}: {line}. No model beats the '
      'entropy: it is not normalised, or it reads its own future.'
    )
  if gap > within * entropy:
    raise LawBroken(
      f'Law 7, known entropy. {model.name}: {line}; at most '
      f'{100 * within:g} % is allowed. It does not learn what it should: '
      'inputs it needs are masked away, or it needs more units or steps.'
    )
  return line


def fit(
  model: AutoregressiveModel,
  source: Source,
  steps: int,
  batch: int,
  learning_rate: float,
  seed: int,
) -> Params:
  """Parameters after `steps` of Adam with a cosine decay on fresh samples."""
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
  params = jax.jit(model.init)(jax.random.key(seed))
  state = optimizer.init(params)

  def loss(params: Params, x: jax.Array) -> jax.Array:
    return -likelihood.log_prob(model, params, x).mean()

  # A loop of calls, not a scan: XLA's CPU backend is slow at the gradient of a
  # convolution inside one.
  @jax.jit
  def step(params: Params, state: Any, x: jax.Array) -> tuple[Params, Any]:
    updates, state = optimizer.update(jax.grad(loss)(params, x), state)
    return optax.apply_updates(params, updates), state

  x = source.sample(steps * batch, seed + 2)
  x = x.reshape(steps, batch, *model.event.shape).astype(np.int32)
  for events in x:
    params, state = step(params, state, jnp.asarray(events))
  return params
