"""What comes in: events, contexts, keys and parameters, checked at every entry.

Each check returns its argument as the model's functions take it. Shapes and
dtypes are static and are looked at under `jit` too. Values are looked at where
they are concrete: on the host where NumPy can read them, else by one reduction
on the device, of which one bool is fetched. That waits for the array, so jit
what is called in a hot loop. Under jit there is nothing to look at, and what
is no symbol or no label gives nan: see `Head` and `layers.embedding`.
"""

import functools
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import Decode
from parallel_ar.keys import of_its_own
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, ArrayLike, Context, Labels, Params, PRNGKey


def check_model(model: Any) -> None:
  """Refuses what is no record where a model belongs."""
  if not isinstance(model, AutoregressiveModel):
    raise ValueError(
      'The first argument is the model, an AutoregressiveModel as '
      f'par.from_function makes it; got {type(model).__name__}.'
    )


def check_part(what: str, part: Any, kind: type, example: str) -> None:
  """Refuses what is not of the kind that a sampler is made of beside a model.

  Args:
    what: the name of the argument.
    part: its value; None leaves it out.
    kind: what it must be.
    example: where such a one comes from.

  Raises:
    ValueError: it is something else, such as the parameters.
  """
  if part is not None and not isinstance(part, kind):
    raise ValueError(
      f'{what} must be of kind {kind.__name__}, such as {example}; got '
      f'{type(part).__name__}. A sampler is made of the model and called with '
      'parameters: par.fixed_point(model)(params, keys).'
    )


def check_decode(model: AutoregressiveModel, decode: Any) -> Decode | None:
  """Checks a decode path that is given beside a model; traces it once.

  Returns:
    The path; None stays None.

  Raises:
    ValueError: no model, no `Decode`, or one that does not make the
      conditionals of this model's slots from its parameters.
  """
  check_model(model)
  check_part('decode', decode, Decode, 'par.derive_decode(model)')
  if decode is not None and decode is not model.decode:
    once(model, ('check_decode', decode), lambda: _check_decode(model, decode))
  return decode


def _check_decode(model: AutoregressiveModel, decode: Decode) -> None:
  lead, event = model.rank.ndim, model.event
  params = jax.eval_shape(model.init, jax.random.key(0))
  value = jax.ShapeDtypeStruct((1, *event.shape[lead:]), event.dtype)
  slot = jax.ShapeDtypeStruct((), jnp.int32)
  extend = lambda params, context, k, value: decode.extend(
    params, decode.init(params, context), k, value
  )[0]
  args = params, model.context
  try:
    have = jax.eval_shape(extend, *args, slot, value)
  except Exception as error:
    raise ValueError(
      f'The decode path does not fit {model.name}, so it is that of another '
      f'model: one slot could not be traced: {error}'
    ) from error
  want = jax.eval_shape(model.conditionals, params, event, model.context)
  expected = [(1, *leaf.shape[lead:]) for leaf in jax.tree.leaves(want)]
  found = [leaf.shape for leaf in jax.tree.leaves(have)]
  if found != expected:
    raise ValueError(
      f'The decode path does not fit {model.name}: for one slot it gives '
      f'conditionals of shapes {found}, but the model {expected}.'
    )


def check_events(model: AutoregressiveModel, x: Any, used: Any = None) -> Array:
  """Checks events and gives them the dtype of the model's events.

  Args:
    model: the model they are meant for.
    x: array[B, *event]; B may be 0.
    used: bool[B, E], the positions whose values count; None for all.

  Returns:
    `x` as array[B, *event] of `event.dtype`.

  Raises:
    ValueError: wrong shape or dtype, or a value outside 0..V-1; the message
      names the first offending example, position and value.
  """
  check_model(model)
  event = model.event
  x = _array(x)
  if x.ndim != len(event.shape) + 1 or x.shape[1:] != event.shape:
    raise ValueError(
      f'{model.name}: x has shape {x.shape}; expected '
      f'[{", ".join(map(str, ("B", *event.shape)))}], a leading batch axis '
      'before the event. For one example pass x[None].'
    )
  head, num_values = model.head, model.head.num_values
  if num_values is None:
    return _cast(f'{model.name}: x', x, event)
  if not jnp.issubdtype(x.dtype, jnp.integer):
    raise ValueError(
      f'{model.name}: the head {head.name} takes integers 0..{num_values - 1}; '
      f'got dtype {x.dtype}. Quantize or binarize first.'
    )
  if used is not None:
    used = used.reshape(used.shape + (1,) * (x.ndim - used.ndim))
    seen = _concrete(x, used) and _on_host(x) and _on_host(used)
    x = (np if seen else jnp).where(used, x, 0)
  if found := _outside(x, 0, num_values - 1):
    (example, *position), value, count = found
    raise ValueError(
      f'{model.name}: x out of range: example {example}, position '
      f'{tuple(position)} holds {value}, but the head {head.name} takes '
      f'0..{num_values - 1} ({count} values are outside).'
    )
  return x.astype(event.dtype)


def check_context(
  model: AutoregressiveModel, context: Context, batch: int
) -> Context:
  """Checks the contexts of a batch and gives them the dtypes of the model's.

  Args:
    model: the model they are meant for.
    context: pytree with leading axis B, or None.
    batch: B.

  Returns:
    `context` with the dtypes of `model.context`.

  Raises:
    ValueError: another tree, shape or kind of number, or a label outside
      0..num_classes-1.
  """
  check_model(model)
  want = jax.tree.map(lambda c: (batch, *c.shape), model.context)
  have = jax.tree.map(np.shape, context)
  if want != have:
    takes = f'conditioned on a context of shapes {want}'
    raise ValueError(
      f'{model.name} is {takes if want else "unconditional"}; got, for a batch '
      f'of {batch}, a context of shapes {have}.'
    )
  cast = functools.partial(_cast, f'{model.name}: the context')
  return jax.tree.map(lambda s, c: cast(_array(c), s), model.context, context)


def check_batch(
  model: AutoregressiveModel, x: ArrayLike, context: Context
) -> tuple[Array, Context]:
  """`check_events`, and `check_context` for as many examples."""
  x = check_events(model, x)
  return x, check_context(model, context, x.shape[0])


def check_keys(keys: PRNGKey) -> PRNGKey:
  """Checks the keys of a batch.

  Args:
    keys: key[B], B >= 1.

  Returns:
    Keys whose draws do not depend on their batch, see `of_its_own`.

  Raises:
    ValueError: no typed keys, of another shape, or none.
  """
  make = 'Use jax.random.split(jax.random.key(seed), B).'
  dtype, shape = _typed(keys, 'keys must be typed keys of shape [B]', make)
  if len(shape) != 1 or not shape[0]:
    raise ValueError(
      'keys must be typed keys of shape [B], one for each example and at least '
      f'one; got {dtype}{list(shape)}. {make}'
    )
  return of_its_own(keys)


def check_key(key: PRNGKey) -> PRNGKey:
  """As `check_keys`, for one key.

  Raises:
    ValueError: no typed key, or several.
  """
  make = 'Use jax.random.key(seed).'
  dtype, shape = _typed(key, 'key must be one typed key', make)
  if shape:
    raise ValueError(f'key must be one key; got {dtype}{list(shape)}. {make}')
  return of_its_own(key)


def _typed(keys: Any, want: str, make: str) -> tuple[Any, tuple[int, ...]]:
  dtype, shape = getattr(keys, 'dtype', None), np.shape(keys)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
    old = dtype == np.uint32 and shape[-1:] == (2,)
    cure = 'Wrap them: jax.random.wrap_key_data(keys).' if old else make
    got = f'{dtype}{list(shape)}' if dtype else type(keys).__name__
    raise ValueError(
      f'{want}; got {got}{", the old kind of key" if old else ""}. {cure}'
    )
  return dtype, shape


def check_known(known: Any) -> Array:
  """bool[B, E], where positions are known.

  Raises:
    ValueError: neither bool nor integers 0 and 1.
  """
  known = _array(known)
  if known.dtype != bool and (
    not jnp.issubdtype(known.dtype, jnp.integer) or _outside(known, 0, 1)
  ):
    raise ValueError(
      f'known says of each position whether it is given, True or False; got '
      f'{known.dtype}{"" if known.dtype.kind == "f" else " other than 0 and 1"}'
      '.'
    )
  return known.astype(bool)


def check_params(model: AutoregressiveModel, params: Params) -> None:
  """Refuses parameters with which every sample would be arbitrary.

  A pick among nan is a symbol like any other. Arrays of JAX, which cannot
  change, are looked at once; -inf is allowed, since it forbids a symbol.

  Raises:
    ValueError: a concrete leaf holds nan or +inf.
  """
  new = {
    jax.tree_util.keystr(path) or 'params': leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if _SEEN.get(id(leaf)) is not leaf
    and _concrete(leaf)
    and jnp.issubdtype(getattr(leaf, 'dtype', type(leaf)), jnp.floating)
  }
  leaves = list(new.values())
  if all(map(_on_host, leaves)):
    good = _below_inf([np.asarray(leaf) for leaf in leaves])
  else:
    with jax.ensure_compile_time_eval():
      good = jax.device_get(_below_inf_there(leaves))
  for (name, leaf), fine in zip(new.items(), good, strict=True):
    if not fine:
      raise ValueError(
        f'The parameters of {model.name} are not finite: {name} holds nan or '
        'inf, and what is drawn with them means nothing.'
      )
    if isinstance(leaf, jax.Array):
      _SEEN[id(leaf)] = leaf


_SEEN: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _below_inf(leaves: list[Any]) -> list[Any]:
  return [(leaf < np.inf).all() for leaf in leaves]  # false of nan too


_below_inf_there = jax.jit(_below_inf)


def _array(value: Any) -> Any:
  return value if hasattr(value, 'dtype') else np.asarray(value)


def _concrete(*values: Any) -> bool:
  return all(
    not isinstance(v, jax.core.Tracer)
    and getattr(v, 'is_fully_addressable', True)
    for v in values
  )


def _on_host(value: Any) -> bool:
  """Whether NumPy can read it where it lies."""
  if not isinstance(value, jax.Array):
    return True
  return all(device.platform == 'cpu' for device in value.devices())


def _cast(what: str, value: Any, spec: jax.ShapeDtypeStruct) -> Any:
  """`value` in the dtype of `spec`, if that says the same."""
  if value.dtype == spec.dtype and not isinstance(spec, Labels):
    return value
  whole = jnp.issubdtype(spec.dtype, jnp.integer)
  kinds = (jnp.integer,) if whole else (jnp.integer, jnp.floating)
  if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
    raise ValueError(
      f'{what} holds {value.dtype}; expected '
      f'{"integers" if whole else "real numbers"}, {np.dtype(spec.dtype)}.'
    )
  if whole:
    info = jnp.iinfo(spec.dtype)
    low, high, name = info.min, info.max, np.dtype(spec.dtype).name
    if isinstance(spec, Labels):
      low, high, name = 0, spec.num_classes - 1, 'labels'
    if found := _outside(value, low, high):
      (example, *_), first, count = found
      raise ValueError(
        f'{what} of example {example} holds {first}; expected {name} '
        f'{low}..{high} ({count} are outside).'
      )
  return value.astype(spec.dtype)


def _outside(
  value: Any, low: int, high: int
) -> tuple[list[int], int, int] | None:
  """Place and value of the first integer outside low..high, and how many are.

  None where there is none, or where it cannot be seen.
  """
  if not _concrete(value) or not value.size:
    return None
  info = jnp.iinfo(value.dtype)
  low, high = max(low, int(info.min)), min(high, int(info.max))
  if (low, high) == (info.min, info.max):
    return None
  if not _on_host(value):
    with jax.ensure_compile_time_eval():
      if not _any(value, low, high):
        return None
  value = np.asarray(value)
  places = np.argwhere((value < low) | (value > high))
  if not len(places):
    return None
  first = places[0].tolist()
  return first, int(value[tuple(first)]), len(places)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _any(value: Array, low: int, high: int) -> Array:
  return ((value < low) | (value > high)).any()
