"""The record that every part of the library speaks: an autoregressive model.

  p(x) = prod_i p(x_i | x_j : rank[j] < rank[i])

A model is a frozen record of pure functions for ONE example. `conditionals`
computes the parameters of all D conditionals in one pass; likelihood, samplers
and analysis are written over the record and never ask how the pass is made.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import keys, order
from parallel_ar.decode import Decode
from parallel_ar.head import Head
from parallel_ar.types import (
  Array,
  ArrayLike,
  Context,
  Dist,
  Params,
  PRNGKey,
)


class Features(NamedTuple):
  """What a family knows beside its conditionals, for forecasting heads.

  Attributes:
    apply: (params, x, context) -> (dist, raw), one pass.
    at: (raw, slot) -> float[F], what is known before that slot: it must not
      depend on values of that slot or of later ones.
  """

  apply: Callable[[Params, Array, Context], tuple[Dist, Any]]
  at: Callable[[Any, Any], Array]


Objective = Callable[[Params, Array, Context, PRNGKey], Array]
FromData = Callable[[PRNGKey, Array, Context], Params]
Given = Callable[[Params, Array, Context, Array, Array], Dist]


@dataclasses.dataclass(frozen=True, eq=False)
class AutoregressiveModel:
  """p(x) = prod_i p(x_i | x_j : rank[j] < rank[i]), every factor in one pass.

  Two records are equal only if they are the same object, so a record can be a
  static argument of `jax.jit`.

  Attributes:
    event: shape and dtype of one x. Its leading axes are those of `rank` (E);
      axes beyond them are a small vector that one position carries.
    rank: int32[E]; see `parallel_ar.order`.
    head: family of the conditionals.
    init: key -> params.
    conditionals: (params, x, context) -> dist whose leaves lead with E. The
      part for position i must not depend on x_j unless rank[j] < rank[i].
    context: shapes and dtypes of what one example is conditioned on, a pytree
      of jax.ShapeDtypeStruct, or `Labels` for a label; None for an
      unconditional model.
    decode: an incremental path of its own; without one samplers derive it from
      `conditionals`.
    features: for forecasting heads, where the family has them.
    objective: (params, x, context, key) -> nats[], what training minimises in
      the mean over examples: a bound, drawn with `key`, or a regularised
      likelihood. None is -log p(x). Evaluation never reads it.
    init_from_data: (key, x[B, *event], context[B]) -> params, what training
      starts from where a model has it, on the batch of its first step: layers
      whose outputs are normalized on these examples.
    conditionals_given: (params, x, context, slots, count) -> dist, where one
      network serves every order: conditionals of the positions of later slots
      given x at the first `count`; slots int[D], their positions, is data.
    causality: 'exact' promises that forbidden inputs change no bit of the
      output; 'rounding' that they change it by rounding only (FFT
      convolutions).
    whole: the pass computes whole numbers that cannot round, as `par.exact`
      makes it: every program of it gives the same, so that nothing that a
      cache draws needs a proof.
    name: shown in errors and descriptions.

  Raises:
    ValueError: at construction, when the parts do not fit each other. The
      check traces every function on abstract values and computes nothing.
  """

  event: jax.ShapeDtypeStruct
  rank: np.ndarray
  head: Head
  init: Callable[[PRNGKey], Params]
  conditionals: Callable[[Params, Array, Context], Dist]
  context: Any = None
  decode: Decode | None = None
  features: Features | None = None
  objective: Objective | None = None
  init_from_data: FromData | None = None
  conditionals_given: Given | None = None
  causality: Literal['exact', 'rounding'] = 'exact'
  whole: bool = False
  name: str = 'model'

  def __post_init__(self):
    _check_parts(self)
    rank = np.asarray(self.rank)
    positions = self.event.shape[: rank.ndim]
    object.__setattr__(self, 'rank', order.check(rank, positions))
    if self.causality not in ('exact', 'rounding'):
      raise ValueError(
        f"causality must be 'exact' or 'rounding'; got {self.causality!r}."
      )
    _check_fit(self)

  def given(
    self, params: Params, x: Array, context: Context, slots: Array, count: Array
  ) -> Array:
    """Nats[E]: log p(x_i | x at the first `count` slots), i in a later slot.

    Raises:
      ValueError: the model has one order.
    """
    if self.conditionals_given is None:
      raise ValueError(f'{self.name} has one order; ardm and two_stream any.')
    dist = self.conditionals_given(params, x, context, slots, count)
    return self.head.log_prob(dist, x)

  @property
  def depth(self) -> int:
    """Number of ranks R."""
    return order.depth(self.rank)

  @property
  def num_positions(self) -> int:
    """Number of positions D."""
    return self.rank.size

  @property
  def num_dims(self) -> int:
    """Number of scalars in one event, the divisor of bits/dim."""
    return int(np.prod(self.event.shape))


def from_function(
  fn: Callable[[Params, Array, Context], Dist],
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  rank: ArrayLike,
  head: Head,
  init: Callable[[PRNGKey], Params] | None = None,
  context: Any = None,
  decode: Decode | None = None,
  features: Features | None = None,
  objective: Objective | None = None,
  init_from_data: FromData | None = None,
  conditionals_given: Given | None = None,
  causality: Literal['exact', 'rounding'] = 'exact',
  name: str = 'function',
) -> AutoregressiveModel:
  """Makes a model of any causal function that JAX can trace.

  Args:
    fn: (params, x, context) -> dist for one example, one pass.
    event: shape of one x (int32), or its ShapeDtypeStruct.
    rank: int[E]; the promise that `fn` keeps. `analysis.causality` audits it.
    head: family of the conditionals.
    init: key -> params; without it params is the empty dict.
    context: shapes and dtypes of one example's context; `Labels` for a label.
    decode: an incremental path of its own, instead of the derived one.
    features: for forecasting heads.
    objective: what training minimises, instead of -log p(x).
    init_from_data: what training starts from, on its first batch.
    conditionals_given: where one network serves every order.
    causality: 'rounding' where outputs are causal up to rounding only, as with
      Fourier transforms.
    name: shown in errors.

  Returns:
    The record.

  Raises:
    ValueError: the parts do not fit each other.
  """
  return AutoregressiveModel(
    event=as_event(event),
    rank=np.asarray(rank),
    head=head,
    init=init or (lambda key: {}),
    conditionals=fn,
    context=context,
    decode=decode,
    features=features,
    objective=objective,
    init_from_data=init_from_data,
    conditionals_given=conditionals_given,
    causality=causality,
    name=name,
  )


def position_noise(model: AutoregressiveModel, key: PRNGKey) -> Any:
  """Noise of every position of one example: leaves lead with E."""
  key = keys.of_its_own(key)
  noise = jax.vmap(lambda i: model.head.noise(key, i))(
    jnp.arange(model.num_positions)
  )
  shape = model.rank.shape
  return jax.tree.map(lambda n: n.reshape(shape + n.shape[1:]), noise)


def over_positions(mask: Array, x: Array) -> Array:
  """Appends axes to a mask over positions so that it broadcasts with x."""
  return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))


def describe(model: AutoregressiveModel) -> str:
  """One line: name, event, depth, head and number of parameters."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  count = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))
  return (
    f'{model.name}: event [{_show(model.event.shape)}], '
    f'{model.num_positions} positions, depth {model.depth}, '
    f'{model.head.name}, {count:,} parameters'
    + ', nothing to train'
    * (not count)
  )


def as_event(event: jax.ShapeDtypeStruct | order.Shape) -> jax.ShapeDtypeStruct:
  """The shape and dtype of one x; int32 where only a shape is given."""
  if isinstance(event, jax.ShapeDtypeStruct):
    return event
  return jax.ShapeDtypeStruct(order.as_shape(event), jnp.int32)


def _check_parts(model: AutoregressiveModel) -> None:
  """Checks what a part is, before anything is made of it."""
  if not isinstance(model.head, Head):
    raise ValueError(
      f'{model.name}: head must be a Head, such as par.heads.categorical(V); '
      f'got {type(model.head).__name__}.'
    )
  for what, tree in (('event', [model.event]), ('context', model.context)):
    for leaf in jax.tree.leaves(tree):
      if not hasattr(leaf, 'shape') or not hasattr(leaf, 'dtype'):
        raise ValueError(
          f'{model.name}: {what} says shape and dtype, as '
          'jax.ShapeDtypeStruct((3,), jnp.int32) does, or par.Labels(10) for '
          f'labels 0..9; got {leaf!r}.'
        )
  num_values, dtype = model.head.num_values, model.event.dtype
  if num_values is None or not jnp.issubdtype(dtype, jnp.integer):
    return
  if num_values - 1 > jnp.iinfo(dtype).max:
    raise ValueError(
      f'{model.name}: events of {np.dtype(dtype).name} hold no more than '
      f'{jnp.iinfo(dtype).max}, but the head {model.head.name} has the values '
      f'0..{num_values - 1}. Use int32 events.'
    )


def _check_fit(model: AutoregressiveModel) -> None:
  """Traces the record's functions on abstract values."""
  shape, event = model.rank.shape, model.event
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = _trace(model, 'init(key)', model.init, key, hint=_OF_ARRAYS)
  dist = _trace(
    model,
    f'conditionals(params, x, context) on x {_spec(event)}',
    model.conditionals,
    params,
    event,
    model.context,
  )
  for leaf in jax.tree.leaves(dist):
    if leaf.shape[: len(shape)] != shape:
      batch = leaf.shape[1 : 1 + len(shape)] == shape
      raise ValueError(
        f'{model.name}: conditionals returned a leaf {_spec(leaf)}; every '
        f'leaf must lead with the positions [{_show(shape)}], one conditional '
        'for each.'
        + ' A function is for ONE example; par.from_apply takes one with a '
        'batch axis.' * batch
      )
  noise = _trace(
    model, 'head.noise', lambda key: position_noise(model, key), key
  )
  fits = f'The head {model.head.name} does not fit {model.name}'
  picked = _trace(model, 'head.pick(dist, noise)', model.head.pick, dist, noise)
  integral = jnp.issubdtype(event.dtype, jnp.integer)
  if picked.shape != event.shape or integral != jnp.issubdtype(
    picked.dtype, jnp.integer
  ):
    raise ValueError(
      f'{fits}: pick returned {_spec(picked)}, but the event is {_spec(event)}.'
      f' conditionals returned {_spec(dist)}; see the docstring of the head '
      'for the dist it takes.'
    )
  terms = _trace(
    model, 'head.log_prob(dist, x)', model.head.log_prob, dist, event
  )
  if terms.shape != shape or not jnp.issubdtype(terms.dtype, jnp.floating):
    raise ValueError(
      f'{fits}: log_prob returned {_spec(terms)}; expected one float for each '
      f'position, [{_show(shape)}]. conditionals returned {_spec(dist)}.'
    )
  _check_training(model, params, key)


def _check_training(model: AutoregressiveModel, params: Any, key: Any) -> None:
  """As `_check_fit`, of what only training calls."""
  event, context = model.event, model.context
  if model.init_from_data is not None:
    two = lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype)
    batch = jax.tree.map(two, (event, context))
    found = _trace(model, 'init_from_data', model.init_from_data, key, *batch)
    if _spec(found) != _spec(params):
      raise ValueError(
        f'{model.name}: init_from_data makes {_spec(found)}, but init makes '
        f'{_spec(params)}. Both must make the same tree.'
      )
  if model.objective is None:
    return
  what = 'objective(params, x, context, key)'
  nats = _trace(model, what, model.objective, params, event, context, key)
  one = isinstance(nats, jax.ShapeDtypeStruct) and nats.shape == ()
  if not one or not jnp.issubdtype(nats.dtype, jnp.floating):
    raise ValueError(
      f'{model.name}: {what} returned {_spec(nats)}; expected the nats of ONE '
      'example, a float scalar. Sum over its positions; the mean over the '
      'batch is taken by the training step.'
    )


_OF_ARRAYS = (
  ' init gives a tree of arrays. Of a module take par.from_linen, from_nnx, '
  'from_equinox or from_haiku.'
)


def _trace(
  model: AutoregressiveModel,
  what: str,
  fn: Callable,
  *args: Any,
  hint: str = '',
) -> Any:
  try:
    return jax.eval_shape(fn, *args)
  except Exception as error:
    raise ValueError(
      f'{model.name}: {what} could not be traced: {error} (event '
      f'{_spec(model.event)}, context {_spec(model.context)}, head '
      f'{model.head.name}).' + hint * isinstance(error, TypeError)
    ) from error


def _show(shape: tuple) -> str:
  return ', '.join(str(n) for n in shape)


def _spec(tree: Any) -> str:
  """Shapes and dtypes of a pytree, short enough for one sentence."""
  show = lambda a: f'{np.dtype(a.dtype).name}[{_show(a.shape)}]'
  return str(jax.tree.map(show, tree)).replace("'", '')
