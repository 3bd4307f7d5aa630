"""What stands between a network as people write it and a record.

Most networks take a batch of symbols, are fed the symbols before each position
behind a start symbol, and know one symbol more than they predict. A record's
function takes one event, and entry i of what it gives is for position i:

  tokens_k = x_{k-1},   tokens_0 = start          k in the order of generation
  dist     = apply(params, tokens[None])[0, :, :V]
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order, partition
from parallel_ar.decode import Decode
from parallel_ar.head import Head, Logits, is_named, parts_of
from parallel_ar.model import (
  AutoregressiveModel,
  Features,
  FromData,
  Given,
  Objective,
  as_event,
)
from parallel_ar.types import Array, ArrayLike, Context, Dist, Params, PRNGKey


class Fields(TypedDict, total=False):
  """The fields of a record that an adapter hands on; see the record."""

  context: Any
  decode: Decode | None
  features: Features | None
  objective: Objective | None
  init_from_data: FromData | None
  conditionals_given: Given | None
  causality: Literal['exact', 'rounding']
  name: str


class Network(NamedTuple):
  """A network of some framework, as pure functions.

  Attributes:
    init: (key, tokens, context) -> params.
    apply: (params, tokens, context) -> what the network gives.
    train: (params, tokens, context, key) -> the same with dropout; None where
      training uses `apply`.
  """

  init: Callable[[PRNGKey, Array, Context], Params]
  apply: Callable[[Params, Array, Context], Any]
  train: Callable[[Params, Array, Context, PRNGKey], Any] | None = None


def from_apply(
  apply: Callable[..., Any],
  init: Callable[[PRNGKey], Params],
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  head: Head,
  start: float | None,
  rank: ArrayLike | None = None,
  batched: bool = True,
  train: Callable[..., Any] | None = None,
  **fields: Unpack[Fields],
) -> AutoregressiveModel:
  """Makes a model of a network's apply function, as frameworks have them.

  Args:
    apply: (params, tokens) -> outputs, or (params, tokens, context) where the
      record has a context. Outputs are what the head takes, or a mapping, a
      named tuple or an object that holds it by name, such as `.logits`. Logits
      of more than V values are cut to the first V: those of a start symbol
      are never drawn.
    init: key -> params.
    event: shape of one x (int32), or its ShapeDtypeStruct.
    head: family of the conditionals.
    start: what the network reads before the first symbol, often V. The symbols
      are shifted behind it, in the order of generation. None says that apply
      takes x itself and shifts inside: output i must not read x[i].
    rank: int[E], the order of generation; raster by default.
    batched: whether apply takes and gives a leading batch axis.
    train: apply with dropout, (params, tokens[, context], key) -> outputs.
      Training minimises -log p(x) under it; all else uses `apply`.
    **fields: further fields of the record, see `AutoregressiveModel`.

  Returns:
    The record.

  Raises:
    ValueError: the parts do not fit each other.
  """
  takes = (lambda context: ()) if fields.get('context') is None else _one
  network = Network(
    lambda key, tokens, context: init(key),
    lambda params, tokens, context: apply(params, tokens, *takes(context)),
    train
    and (
      lambda params, tokens, context, key: train(
        params, tokens, *takes(context), key
      )
    ),
  )
  name = getattr(apply, '__name__', '').strip('<>')
  return make(
    network,
    event=event,
    head=head,
    start=start,
    rank=rank,
    batched=batched,
    fields={'name': name if name != 'lambda' else 'apply', **fields},
  )


def make(
  network: Network,
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  head: Head,
  start: float | None,
  rank: ArrayLike | None,
  batched: bool,
  fields: Fields,
  seen: bool = False,
) -> AutoregressiveModel:
  """The record of a network; the arguments are those of `from_apply`.

  Args:
    network: the network.
    event: as there, and so are the others.
    head: family of the conditionals.
    start: symbol before the first.
    rank: int[E] or None.
    batched: whether the network has a batch axis.
    fields: of the record.
    seen: whether the network sees the mesh in force, and names its axes.

  Returns:
    The record.

  Raises:
    ValueError: the parts do not fit, `train` and an objective are both given,
      or a start symbol in an order with ties.
  """
  # Axis names of a network of others are none of the mesh in force.
  hidden = [partition.alone(f) if f else None for f in network]
  network = network if seen else Network(*hidden)  # type: ignore[arg-type]
  event = as_event(event)
  rank = order.raster(event.shape) if rank is None else np.asarray(rank)
  door = _Door(event, rank, head, start, batched)
  fields = fields.copy()
  context = fields.get('context')

  def init(key: PRNGKey) -> Params:
    zeros = lambda s: jnp.zeros(s.shape, s.dtype)
    x, c = jax.tree.map(zeros, (event, context))
    return network.init(key, *door.into(x, c))

  def conditionals(params: Params, x: Array, context: Context) -> Dist:
    return door.out_of(network.apply(params, *door.into(x, context)))

  if (train := network.train) is not None:
    if fields.get('objective') is not None:
      raise ValueError(
        'train and objective are two ways to say what training minimises; give '
        'one. train is -log p(x) of its own outputs.'
      )

    def objective(
      params: Params, x: Array, context: Context, key: PRNGKey
    ) -> Array:
      dist = door.out_of(train(params, *door.into(x, context), key))
      return -head.log_prob(dist, x).sum()

    fields['objective'] = objective
  return AutoregressiveModel(
    event=event,
    rank=rank,
    head=head,
    init=init,
    conditionals=conditionals,
    **fields,
  )


class _Door(NamedTuple):
  """From an event to tokens, and from outputs to conditionals."""

  event: jax.ShapeDtypeStruct
  rank: np.ndarray
  head: Head
  start: float | None
  batched: bool

  def into(self, x: Array, context: Context) -> tuple[Array, Context]:
    """What the network is called with, for one event."""
    shifted = x if self.start is None else self._shifted(x, self.start)
    args = shifted, context
    return one_more(args) if self.batched else args

  def out_of(self, outputs: Any) -> Dist:
    """The conditionals by position."""
    dist = of_head(self.head, outputs)
    if self.batched:
      dist = jax.tree.map(self._only, dist)
    if self.start is not None:
      dist = jax.tree.map(self._by_position, dist)
    return cut(self.head, dist, self.rank.ndim + 1)

  def _shifted(self, x: Array, start: float) -> Array:
    size = self.rank.size
    if order.depth(self.rank) < size:
      raise ValueError(
        f'A start symbol stands before the first of {size} positions that are '
        f'drawn one by one; this order has {order.depth(self.rank)} ranks, with'
        ' ties. Shift by whole groups inside the function, and pass start=None.'
      )
    x = x.reshape(size, *self.event.shape[self.rank.ndim :])
    if not self._raster:
      x = x[order.slots(self.rank)]
    if jnp.issubdtype(x.dtype, jnp.integer):
      x = x.astype(jnp.promote_types(x.dtype, jnp.int32))  # start may be 256
    first = jnp.full(x[:1].shape, start, x.dtype)
    return jnp.concatenate([first, x[:-1]])

  def _by_position(self, leaf: Array) -> Array:
    if leaf.shape[:1] != (self.rank.size,):
      return leaf  # the record says what is wrong with it
    if not self._raster:
      leaf = leaf[np.argsort(order.slots(self.rank))]
    return leaf.reshape(*self.rank.shape, *leaf.shape[1:])

  @property
  def _raster(self) -> bool:
    return bool((np.diff(order.slots(self.rank)) == 1).all())

  def _only(self, leaf: Array) -> Array:
    if leaf.shape[:1] != (1,):
      raise ValueError(
        'the network was called with a batch of one event and gave '
        f'{leaf.dtype}{list(leaf.shape)}, which has no leading axis of 1. Pass '
        'batched=False if it takes one event without a batch axis'
      )
    return leaf[0]


def of_head(head: Head, outputs: Any) -> Dist:
  """What the head takes of what a network gives, where that has names."""
  return parts_of(head, outputs) if is_named(head, outputs) else outputs


def cut(head: Head, dist: Dist, axes: int) -> Dist:
  """Logits [..., V' > V] of `axes` axes as those of the V values."""

  def one(logits: Array) -> Array:
    count = head.num_values or logits.shape[-1]
    wide = logits.ndim == axes and logits.shape[-1] > count
    return logits[..., :count] if wide else logits

  return jax.tree.map(one, dist) if head.parts is Logits else dist


def call_with(function: Callable, tokens: Array, context: Context) -> Any:
  """Calls a module: with the context where there is one, or it asks for one.

  It asks by a parameter `context`, or by a second one without a default.
  """
  if context is None:
    rest = list(inspect.signature(function).parameters.values())[1:]
    positional = (
      inspect.Parameter.POSITIONAL_ONLY,
      inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    asks = [p for p in rest if p.kind in positional][:1]
    empty = inspect.Parameter.empty
    if not any(p.name == 'context' or p.default is empty for p in asks):
      return function(tokens)
  return function(tokens, context)


def _one(context: Context) -> tuple[Context]:
  return (context,)


def one_more(tree: Any) -> Any:
  """The leaves with a batch axis of 1."""
  return jax.tree.map(lambda leaf: leaf[None], tree)
