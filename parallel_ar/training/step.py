"""One training step: a pure function of the state and a batch.

  loss(params) = (1/B) sum_b objective(x_b)                    nats per example

The objective of an example is -log p(x_b), one pass of the network, or what its
model says: a bound, say, drawn with a key. That key depends on the seed, the
number of the update and the index of the example in the whole batch, and on
nothing else: cutting the batch, spreading it over devices or resuming the run
draws the same. Loss, metrics, gradients and
averages are float32 or wider, whatever the network computes in.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from parallel_ar import doors, likelihood, partition
from parallel_ar.keys import of_its_own
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import gradient as gradient_lib
from parallel_ar.training import optimizer as optimizer_lib
from parallel_ar.training import outcome, rules, spikes
from parallel_ar.training.packing import Packed, Packing
from parallel_ar.training.state import TrainState
from parallel_ar.types import Array, PRNGKey

Batch = dict[str, Any]
Loss = Callable[..., Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
RunStep = Callable[
  [Packed, outcome.Seen, Batch],
  tuple[Packed, outcome.Seen, dict[str, Array]],
]
_OBJECTIVE = 0x0B1EC7


def make_loss(models: Sequence[AutoregressiveModel], seed: int = 0) -> Loss:
  """Mean objective of a batch, -log p(x) where the model has no other.

  K models are K masks or orders over one params tree; step t trains model
  t mod K, so each gets the same share of the updates. Models that share one
  objective are trained by it in every step.

  Args:
    models: K >= 1 models of the same event.
    seed: of the keys of the objectives.

  Returns:
    loss(params, batch, step, first=0) -> float[], nats per example. `batch`
    holds 'x' [B, *event] and 'context' (ignored by unconditional models);
    `first` is the index of its first example in the batch of the update.

  Raises:
    ValueError: no models.
  """
  if not models:
    raise ValueError('Training needs at least one model; got none.')
  if models[0].objective is not None:
    # Orders of one network may share an objective: one branch is enough.
    if all(model.objective is models[0].objective for model in models):
      models = models[:1]
  branches = [_mean_nats(model) for model in models]
  draws = any(model.objective is not None for model in models)

  def loss(params, batch, step, first=0):
    conditional = models[0].context is not None
    x, context = batch['x'], batch['context'] if conditional else None
    keys = example_keys(seed, step, first, x.shape[0]) if draws else None
    if len(branches) == 1:
      return branches[0](params, x, context, keys)
    index = step % len(branches)
    return jax.lax.switch(index, branches, params, x, context, keys)

  return loss


def example_keys(seed: int, step: Any, first: Any, count: int) -> PRNGKey:
  """Keys of the objectives of one update.

  Args:
    seed: of the run.
    step: number of the update, from 0.
    first: index of the first example in the batch of the update.
    count: how many examples.

  Returns:
    key[count].
  """
  # A word of its own: the parameters and the samples come from this seed too.
  key = of_its_own(jax.random.fold_in(jax.random.key(seed), _OBJECTIVE))
  key = jax.random.fold_in(key, step)
  at = first + jnp.arange(count)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, at)


def make_train_step(
  models: Sequence[AutoregressiveModel],
  optimizer: optax.GradientTransformation,
  *,
  schedule: optax.Schedule,
  ema_decay: float = 0.0,
  seed: int = 0,
  skip_sigmas: float = 0.0,
) -> TrainStep:
  """The update of one step: pure; the caller jits it and donates the state.

  With d = min(ema_decay, (1 + t) / (10 + t)) at step t,

    ema <- d * ema + (1 - d) * params

  so that the average forgets the initial parameters within a few dozen steps
  however slow the decay is. Where the rule keeps an average of its own, as
  schedule-free ones do, `ema` is that.

  Args:
    models: K >= 1 models that share one params tree.
    optimizer: optax transformation, which includes the learning rate.
    schedule: the learning rate, for the metrics only.
    ema_decay: decay of the moving average; 0 keeps none.
    seed: see `make_loss`.
    skip_sigmas: leave out spikes so far above the last steps, see `spikes`;
      the state must have `spikes` then. 0 leaves out none.

  Returns:
    train_step(state, batch) -> (state, metrics); the metrics are float[]:
    'loss_nats' (per example), 'bits_per_dim', 'grad_norm' (before clipping),
    'learning_rate', and with `skip_sigmas` 'skipped_steps' so far.

  Raises:
    ValueError: no models.
  """
  loss = make_loss(models, seed)
  gradient = gradient_lib.value_and_grad(loss)
  update = _make_update(models, optimizer, schedule, ema_decay, skip_sigmas)

  def train_step(state, batch):
    anew = lambda params: loss(params, batch, state.step)
    return update(state, *gradient(state.params, batch, state.step), anew)

  return train_step


def of_config(
  config: ConfigDict,
  models: Sequence[AutoregressiveModel],
  rule: optax.GradientTransformation,
  shapes: TrainState,
  places: TrainState,
  whole: Any,
) -> tuple[RunStep, Packing]:
  """The compiled step of a run, which takes its state over.

  Args:
    config: the configuration of the run.
    models: its models.
    rule: its optimizer.
    shapes: of its state, as `jax.eval_shape` gives them.
    places: shardings of the state.
    whole: sharding of what every device has.

  Returns:
    train_step(packed, seen, batch) -> (packed, seen, metrics), and how states
    are packed: not at all for a step in parts, which is several dispatches.
  """
  options = {
    'schedule': optimizer_lib.schedule(
      config.optimizer, steps=config.train.steps
    ),
    'ema_decay': config.train.ema_decay,
    'skip_sigmas': config.train.skip_sigmas,
    'seed': config.seed,
  }
  if config.train.accumulate > 1:
    parts = make_accumulated_step(
      models,
      rule,
      **options,
      accumulate=config.train.accumulate,
      shardings=places,
    )
    look = jax.jit(outcome.look, out_shardings=whole)
    packing = Packing(shapes, places, whole, largest=0)
    return _watched(parts, packing, look), packing
  packing = Packing(shapes, places, whole)
  at_once = make_train_step(models, rule, **options)
  compiled = jax.jit(
    _watched(at_once, packing, outcome.look),
    donate_argnums=0,
    out_shardings=(packing.places, whole, None),
  )
  return compiled, packing


def _watched(
  step: TrainStep, packing: Packing, look: Callable[..., outcome.Seen]
) -> RunStep:
  """The step, which also notes the first one that is not finite."""

  def train_step(packed, seen, batch):
    state, metrics = step(packing.unpack(packed), batch)
    return packing.pack(state), look(seen, state.step, metrics), metrics

  return train_step


def make_accumulated_step(
  models: Sequence[AutoregressiveModel],
  optimizer: optax.GradientTransformation,
  *,
  schedule: optax.Schedule,
  ema_decay: float = 0.0,
  seed: int = 0,
  skip_sigmas: float = 0.0,
  accumulate: int,
  shardings: Any = None,
) -> TrainStep:
  """As `make_train_step`, in the memory of a part of the batch.

  The batch is cut into micro-batches whose gradients are averaged, which is
  the gradient of the whole. Each micro-batch is one call of a compiled
  function, and so the result must not be jitted again: inside one program the
  gradient of a convolution in a loop is some 20 times slower on a CPU, and
  micro-batches laid out one after another take the memory of the whole batch.

  Args:
    models: as in `make_train_step`.
    optimizer: as there.
    schedule: as there.
    ema_decay: as there.
    seed: as there.
    skip_sigmas: as there.
    accumulate: number of micro-batches; it must divide the batch.
    shardings: TrainState that says where the state lies, on several devices.

  Returns:
    train_step(state, batch) -> (state, metrics), compiled; donates the state.

  Raises:
    ValueError: no models; when called, a batch that cannot be cut.
  """
  gradient = gradient_lib.value_and_grad(make_loss(models, seed))
  update = _make_update(models, optimizer, schedule, ema_decay, skip_sigmas)
  parts = [jnp.int32(i) for i in range(accumulate)]

  def zeros(params, batch, step):
    shapes = jax.eval_shape(gradient, params, batch, step)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def add(total, params, batch, step, i):
    size = batch['x'].shape[0] // accumulate

    def cut(leaf):
      return jax.lax.dynamic_slice_in_dim(leaf, i * size, size)

    part = partition.batch(jax.tree.map(cut, batch))
    part = gradient(params, part, step, i * size)
    return jax.tree.map(jnp.add, total, part)

  def finish(state, total):
    mean = jax.tree.map(lambda leaf: leaf / accumulate, total)
    return update(state, *mean, _cannot_evaluate)

  totals = states = None
  if shardings is not None:
    totals, states = (shardings.step, shardings.params), (shardings, None)
  zeros = jax.jit(zeros, out_shardings=totals)
  add = jax.jit(add, donate_argnums=0, out_shardings=totals)
  finish = jax.jit(finish, donate_argnums=0, out_shardings=states)

  def train_step(state, batch):
    size = batch['x'].shape[0]
    if size % accumulate:
      raise ValueError(
        f'A batch of {size} examples cannot be cut into {accumulate} equal '
        'micro-batches. Make train.batch_size a multiple of train.accumulate.'
      )
    total = zeros(state.params, batch, state.step)
    for i in parts:
      total = add(total, state.params, batch, state.step, i)
    return finish(state, total)

  return train_step


def _make_update(
  models: Sequence[AutoregressiveModel],
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  ema_decay: float,
  skip_sigmas: float,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """(state, loss, gradient, params -> loss) -> (state, metrics)."""
  num_dims = models[0].num_dims

  def apply(state, loss, grads, anew):
    updates, opt_state = rules.update(
      optimizer, grads, state.opt_state, state.params, loss, anew
    )
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if (own := rules.average(opt_state, params)) is not None:
      ema = own
    elif ema_decay > 0:
      t = state.step.astype(jnp.float32)
      decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
      ema = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), ema, params)
    return state._replace(params=params, ema=ema, opt_state=opt_state)

  def update(state, loss, grads, anew):
    norm = optax.tree.norm(grads)
    metrics = {
      'loss_nats': loss,
      'bits_per_dim': likelihood.bits_per_dim(loss, num_dims),
      'grad_norm': norm,
    }
    updates = state.step
    if not skip_sigmas:
      state = apply(state, loss, grads, anew)
    else:
      before = state.spikes
      values = jnp.stack([loss, norm]).astype(jnp.float32)
      skip = spikes.is_spike(before, values, skip_sigmas)
      after = spikes.update(before, values, skip)
      apply_it = functools.partial(apply, anew=anew)
      state = jax.lax.cond(skip, lambda s, *_: s, apply_it, state, loss, grads)
      state = state._replace(spikes=after)
      updates = updates - before.skipped
      metrics['skipped_steps'] = after.skipped.astype(jnp.float32)
    rate = jnp.asarray(schedule(updates), jnp.float32)
    metrics['learning_rate'] = rate
    return state._replace(step=state.step + 1), metrics

  return update


def _cannot_evaluate(params: Any) -> NoReturn:
  """The loss anew of a step whose batch came in parts."""
  raise ValueError(
    'This optimizer evaluates the loss of the whole batch again, which a step '
    'in parts cannot: set config.train.accumulate = 1, or take another.'
  )


def _mean_nats(model: AutoregressiveModel) -> Callable[..., Array]:
  def mean_nats(params, x, context, keys):
    if model.objective is None:
      nats = -likelihood.log_prob(model, params, x, context)
    else:
      x, context = doors.check_batch(model, x, context)
      axes = None, 0, 0, 0
      each = partition.vmap(model.objective, axes, x.shape[0])
      nats = each(params, x, context, keys)
    wide = jnp.promote_types(nats.dtype, jnp.float32)
    return jnp.mean(nats.astype(wide))

  return mean_nats
