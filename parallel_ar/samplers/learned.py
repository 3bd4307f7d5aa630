"""Learned forecasting heads on the features that the model has anyway.

  z_s = features at slot s, which read slots < s only
  q_{s,t} = A_t[s + t] z_s + b_t[s + t],   t = 1, ..., T: logits of slot s + t

trained to minimise sum_t KL(p(x_{s+t} | x_{<s+t}) || q_{s,t}) with the model
frozen. After a pass the last slot whose features read final values forecasts
the T slots after it, picked with their own noise; beyond them the picks of the
pass are kept.

References:
  Wiggers, Hoogeboom: Predictive sampling with forecasting autoregressive
  models. ICML 2020, section 3.3 (their heads are small convolutions).
"""

from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import npz, order
from parallel_ar.keys import of_its_own
from parallel_ar.model import AutoregressiveModel
from parallel_ar.npz import PathLike
from parallel_ar.samplers.forecasters import Forecaster, Progress
from parallel_ar.types import Array, Params, PRNGKey

Heads = dict[str, Any]  # 'weight' [T, D, F, V'], 'bias' [T, D, V']


def init(model: AutoregressiveModel, horizon: int) -> Heads:
  """Heads that say nothing yet.

  Args:
    model: a total order, with features and a head with a pmf.
    horizon: T, slots that are forecast.

  Returns:
    Zeros.

  Raises:
    ValueError: the model is not such a one, or T is not in 1..D-1.
  """
  size = model.num_positions
  if model.features is None or model.head.pmf is None or model.depth != size:
    raise ValueError(
      f'Forecasting heads need a total order, features and probabilities; '
      f'{model.name} has depth {model.depth} of {size} positions, '
      f'{"no " if model.features is None else ""}features and the head '
      f'{model.head.name}. Use the forecasters previous or last.'
    )
  if not 1 <= horizon < size:
    raise ValueError(f'The horizon must be in 1..{size - 1}; got {horizon}.')
  params = jax.eval_shape(model.init, jax.random.key(0))
  features = model.features
  dist, raw = jax.eval_shape(features.apply, params, model.event, model.context)
  width = jax.eval_shape(lambda raw: features.at(raw, 0), raw).shape[-1]
  values = int(np.prod(dist.shape[model.rank.ndim :]))
  return {
    'weight': jnp.zeros((horizon, size, width, values)),
    'bias': jnp.zeros((horizon, size, values)),
  }


def load(path: PathLike | IO[bytes], model: AutoregressiveModel) -> Heads:
  """The heads in a .npz file of anyone.

  Args:
    path: of the file.
    model: that they are for.

  Returns:
    Heads for `forecaster`.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it holds no heads of this model.
  """
  try:
    with npz.Archive(path) as file:
      horizon = (*file.header('bias').shape, 0)[0]
      like = jax.eval_shape(lambda: init(model, horizon))
      return {
        name: file.read(name, like=(leaf.shape, leaf.dtype))
        for name, leaf in like.items()
      }
  except ValueError as error:
    raise ValueError(
      f'{path} holds no forecasting heads of {model.name}: {error}. Train '
      'them: ./run.sh forecaster'
    ) from error


def forecaster(model: AutoregressiveModel, heads: Heads) -> Forecaster:
  """The forecaster of trained heads, for `fixed_point`.

  Raises:
    ValueError: the heads are not those of such a model.
  """
  heads = jax.tree.map(jnp.asarray, heads)
  horizon = len(heads['bias'])
  have = jax.tree.map(jnp.shape, heads)
  want = jax.tree.map(jnp.shape, init(model, horizon))
  if have != want:
    raise ValueError(
      f'These heads have shapes {have}; those of {model.name} would have '
      f'{want}. Train them on this run.'
    )
  features, slots = model.features, jnp.asarray(order.slots(model.rank))
  assert features is not None

  def guess(at: Progress) -> Array:
    # The pass read a wrong value at frontier - 1, and right ones before it.
    slot = at.frontier - 1
    dist = _dist(model, heads, features.at(at.extra, slot), slot)
    ahead = slot + 1 + jnp.arange(horizon)
    place = slots[jnp.minimum(ahead, slots.size - 1)]
    lead = model.rank.ndim
    flat = lambda a: a.reshape(slots.size, *a.shape[lead:])
    noise = jax.tree.map(lambda a: flat(a)[place], at.noise)
    picks = model.head.pick(dist, noise).astype(at.picks.dtype)
    target = jnp.where(ahead < slots.size, place, slots.size)
    said = flat(at.picks).at[target].set(picks, mode='drop')
    return said.reshape(at.picks.shape)

  return Forecaster('learned', next=guess, conditionals=features.apply)


def loss(
  model: AutoregressiveModel, params: Params, heads: Heads, x: Any, key: PRNGKey
) -> tuple[Array, Array]:
  """Mean KL of the heads on one event, and how often they would agree.

  Args:
    model: the model.
    params: its parameters, frozen.
    heads: the heads.
    x: one event.
    key: of the slots that are looked at, and of the noise.

  Returns:
    float[], nats a forecast, and float[T], the share of slots where the head's
    pick is the model's under the same noise.
  """
  features, pmf = model.features, model.head.pmf
  assert features is not None and pmf is not None
  dist, raw = jax.lax.stop_gradient(features.apply(params, x, None))
  slots, size = jnp.asarray(order.slots(model.rank)), model.num_positions
  flat = dist.reshape(size, *dist.shape[model.rank.ndim :])
  horizon = len(heads['bias'])
  steps = 1 + jnp.arange(horizon)

  def at(key: PRNGKey) -> tuple[Array, Array]:
    slot = jax.random.randint(key, (), 0, size - horizon)
    place = slots[slot + steps]
    said = _dist(model, heads, features.at(raw, slot), slot)
    p, q = pmf(flat[place]), pmf(said)
    logs = jnp.log(jnp.maximum(p, 1e-30)) - jnp.log(jnp.maximum(q, 1e-30))
    noise = jax.vmap(model.head.noise, (None, 0))(key, place)
    same = model.head.pick(flat[place], noise) == model.head.pick(said, noise)
    return (p * logs).sum(-1).mean(), same

  divergence, same = jax.vmap(at)(jax.random.split(of_its_own(key), 32))
  return divergence.mean(), same.mean(0)


def _dist(
  model: AutoregressiveModel, heads: Heads, z: Array, slot: Any
) -> Array:
  """The forecasts of slots slot + 1, ..., slot + T, as dists of the head."""
  size = model.num_positions
  steps = jnp.arange(len(heads['bias']))
  place = jnp.minimum(slot + 1 + steps, size - 1)
  weight, bias = heads['weight'][steps, place], heads['bias'][steps, place]
  said = jnp.einsum('f,tfv->tv', z, weight) + bias
  # A Bernoulli's dist is one number.
  return said[:, 0] if said.shape[-1] == 1 else said
