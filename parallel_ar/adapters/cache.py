"""Functions that come with a cache of their own, as decode paths.

  outputs_k, cache = step(params, cache, x_{k-1}, k),   x_{-1} = start

Frameworks have caches for generation: Linen's `decode=True`, NNX's
`init_cache`, `past_key_values` of Hugging Face. None of them can be set back,
which samplers that guess must do. What each array of a cache is shows in a few
steps:

  constant   step hands it on as it is
  index      integers that every step increases by one: set back to slot k
  rows       step writes row k of one axis only: rows from k on are cleared
  state      all else, as the state of a recurrence: kept before every slot
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors
from parallel_ar.adapters import trial
from parallel_ar.adapters.network import cut, of_head
from parallel_ar.decode import Decode, slot_by_slot
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Dist, Params

_TRIED = 3  # steps that show what an array is


class Cache(NamedTuple):
  """A function that evaluates one symbol after another, with its own cache.

  Attributes:
    init: (params, context) -> cache, a tree of arrays with room for all slots;
      what a step needs of the context is kept in it.
    step: (params, cache, token, position) -> (outputs, cache) for one example.
      `token` is the symbol before slot `position`, int32[] counted from 0, or
      the start symbol. Outputs are what the head takes for one position, or
      hold it by name, such as `.logits`; more than V logits are cut.
  """

  init: Callable[[Params, Context], Any]
  step: Callable[[Params, Any, Array, Array], tuple[Any, Any]]


class _Kept(NamedTuple):
  """The cache of a decode path.

  Attributes:
    live: all leaves of the function's cache.
    first: those that are an index, before slot 0.
    before: those that are a state, before each slot: [D + 1, ...].
  """

  live: list[Array]
  first: dict[int, Array]
  before: dict[int, Array]


class _Rows(NamedTuple):
  """An array of which step k writes row `offset` + k along `axis`."""

  axis: int
  offset: int
  fill: Any  # what stands in rows that no step has written

  def cleared(self, rows: Array, k: Array) -> Array:
    """The array as it is before step k."""
    unwritten = jnp.arange(rows.shape[self.axis]) >= self.offset + k
    shape = [1] * rows.ndim
    shape[self.axis] = unwritten.size
    fill = jnp.asarray(self.fill, rows.dtype)
    return jnp.where(unwritten.reshape(shape), fill, rows)


def decode_from_cache(
  model: AutoregressiveModel,
  cache: Cache,
  *,
  start: float,
  params: Params = None,
) -> Decode:
  """Makes a decode path of a function that comes with a cache.

  The function is run for three steps, to see what each array of its cache is
  (see above) and whether it computes the conditionals of the model's pass.

  Args:
    model: the model, with one rank a position.
    cache: the function; `linen_cache`, `nnx_cache` and `past_key_values` make
      it of a framework's.
    start: what it reads before the first symbol.
    params: what it is tried with; `model.init` of a fixed key, disturbed so
      that no weight is zero, by default.

  Returns:
    The path, for `par.cached(model, path)` and the other samplers.

  Raises:
    ValueError: the order has ties, the cache changes its shape, or the first
      conditionals are not those of the pass.
  """
  doors.check_model(model)
  if model.depth < model.num_positions:
    raise ValueError(
      f'A cache goes symbol after symbol, but {model.name} draws '
      f'{model.num_positions} positions in {model.depth} ranks. Use '
      'par.derive_decode(model).'
    )
  example = trial.example(model, params)
  made = jax.eval_shape(cache.init, example.params, model.context)
  path = _Path(model, cache, start, made)
  kinds, size = path.tried(example), model.num_positions

  def init(params: Params, context: Context) -> _Kept:
    live = jax.tree.leaves(cache.init(params, context))
    room = lambda leaf: jnp.zeros((size + 1, *leaf.shape), leaf.dtype)
    return _Kept(
      live,
      {n: live[n] for n, kind in enumerate(kinds) if kind == 'index'},
      {
        n: room(live[n]).at[0].set(live[n])
        for n, kind in enumerate(kinds)
        if kind == 'state'
      },
    )

  def slot(
    params: Params, kept: _Kept, k: Array, value: Array
  ) -> tuple[Dist, _Kept]:
    live = list(kept.live)
    for n, first in kept.first.items():
      live[n] = first + k.astype(first.dtype)
    for n, states in kept.before.items():
      live[n] = states[k]
    dist, live = path.step(params, live, value, k)
    before = {
      n: states.at[k + 1].set(live[n]) for n, states in kept.before.items()
    }
    return dist, kept._replace(live=live, before=before)

  def rewind(kept: _Kept, k: Array) -> _Kept:
    live = list(kept.live)
    for n, kind in enumerate(kinds):
      if isinstance(kind, _Rows):
        live[n] = kind.cleared(live[n], k)
    return kept._replace(live=live)

  return Decode(init, slot_by_slot(slot), rewind)


class _Path(NamedTuple):
  """The function with its start symbol, on flat caches.

  Attributes:
    model: the model.
    cache: the function.
    start: its start symbol.
    made: shapes and dtypes of its cache.
  """

  model: AutoregressiveModel
  cache: Cache
  start: float
  made: Any

  def step(
    self, params: Params, live: list[Array], value: Array, k: Array
  ) -> tuple[Dist, list[Array]]:
    """Conditionals of slot k, given the value of the one before."""
    tree = jax.tree.structure(self.made)
    if jnp.issubdtype(value.dtype, jnp.integer):
      value = value.astype(jnp.promote_types(value.dtype, jnp.int32))
    token = jnp.where(k > 0, value, jnp.asarray(self.start, value.dtype))
    inner = jax.tree.unflatten(tree, live)
    outputs, inner = self.cache.step(params, inner, token, k)
    found: Any = jax.tree.structure(inner)
    if found != tree:
      raise ValueError(
        f'step gives a cache of another tree, {found}, than init, {tree}.'
      )
    new = jax.tree.leaves(inner)
    named = jax.tree_util.tree_leaves_with_path(self.made)
    for (path, old), leaf in zip(named, new, strict=True):
      if (old.shape, old.dtype) != (leaf.shape, leaf.dtype):
        raise ValueError(
          f'A step changes the cache: {jax.tree_util.keystr(path) or "it"} is '
          f'{old.dtype}{list(old.shape)} before and {leaf.dtype}'
          f'{list(leaf.shape)} after. A compiled loop needs room for all '
          f'{self.model.num_positions} slots from the start, as the caches of '
          'Flax have it.'
        )
    head = self.model.head
    return cut(head, of_head(head, outputs), 1), new

  def tried(self, example: trial.Example) -> list[Any]:
    """What each leaf of the cache is.

    Raises:
      ValueError: the conditionals are not those of the pass.
    """
    size = self.model.num_positions
    count = min(_TRIED, size)
    values = trial.in_slots(self.model, example.x)

    @jax.jit
    def run(params: Params, values: Array, context: Context) -> Any:
      live = jax.tree.leaves(self.cache.init(params, context))
      found, dists = [live], []
      for k in range(count):
        before = values[max(k - 1, 0)]
        dist, live = self.step(params, live, before, jnp.int32(k))
        found.append(live)
        dists.append(dist)
      return found, jax.tree.map(lambda *a: jnp.stack(a), *dists)

    found, dist = jax.device_get(run(example.params, values, example.context))
    trial.check(
      self.model,
      example,
      np.arange(count),
      dist,
      f'Is {self.start} what the pass reads first? Has step the parameters of '
      'the pass, and does it count positions from 0?',
    )
    live = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in found[0]]
    args = example.params, live, values[0], jnp.int32(0)
    traced = jax.make_jaxpr(self.step)(*args).jaxpr
    ends = traced.outvars[len(traced.outvars) - len(live) :]
    columns = [np.stack(column) for column in zip(*found, strict=True)]
    return [
      'constant' if end in traced.invars else _kind(column, size)
      for end, column in zip(ends, columns, strict=True)
    ]


def past_key_values(model: Any, length: int) -> Cache:
  """The cache of a model in the convention of Hugging Face's Flax models.

    cache = model.init_cache(1, length)
    out = model(input_ids=[[token]], past_key_values=cache, params=params,
                position_ids=[[position]], attention_mask=ones[1, length])
    logits, cache = out.logits, out.past_key_values

  `attention_mask` and `position_ids` are given to a model that takes them.

  Args:
    model: such a model.
    length: symbols that it makes room for.

  Returns:
    The cache, for `decode_from_cache`.
  """
  takes = inspect.signature(type(model).__call__).parameters

  def step(params: Params, cache: Any, token: Array, position: Array) -> Any:
    optional = {
      'attention_mask': jnp.ones((1, length), jnp.int32),
      'position_ids': position[None, None],
    }
    outputs = model(
      input_ids=token[None, None],
      params=params,
      past_key_values=cache,
      **{name: a for name, a in optional.items() if name in takes},
    )
    return of_one(outputs.logits, True), outputs.past_key_values

  return Cache(lambda params, context: model.init_cache(1, length), step)


def of_one(outputs: Any, batched: bool) -> Any:
  """Outputs [1, 1, ...] or [1, ...] of one symbol as [...]."""
  lead = (0, 0) if batched else (0,)
  first = lambda leaf: leaf[lead] if leaf.ndim >= len(lead) else leaf
  return jax.tree.map(first, outputs)


def _kind(values: np.ndarray, size: int) -> Any:
  """What a leaf is, from its values before each of the first steps."""
  if np.issubdtype(values.dtype, np.integer):
    steps = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    if (values == values[0] + steps).all():
      return 'index'
  # The bits: nan, which may stand in rows not yet written, is itself.
  moved = np.stack(
    [
      (a != b) & ~((a != a) & (b != b))
      for a, b in zip(values[1:], values[:-1], strict=True)
    ]
  )
  for axis in range(values.ndim - 1):
    if values.shape[axis + 1] < size:
      continue
    others = tuple(n for n in range(1, moved.ndim) if n != axis + 1)
    step, row = np.nonzero(moved.any(others))
    if not len(row) or len(set(row - step)) > 1 or row[0] < step[0]:
      continue
    offset = int(row[0] - step[0])
    unwritten = np.moveaxis(values[0], axis, 0)[offset:]
    fill = unwritten.reshape(-1)[0]
    whole = unwritten.shape[0] >= size
    if whole and np.array_equal(unwritten, np.full_like(unwritten, fill)):
      return _Rows(axis, offset, fill)
  return 'state'
