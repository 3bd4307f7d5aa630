"""Quantized weights: another model, in a quarter of the bytes or less.

  W[..., f] ~ s_f Q[..., f],   s_f = max |W[..., f]| / (2^(b-1) - 1)

A record is a set of pure functions of params, so quantization is the same for
every family: the weights are kept as integers with a scale for each output
channel, and every function of the record reads s Q. Activations stay as they
are. The result is a model of its own: its likelihood is exact, and all its
samplers return the same integers, which are not those of the first model.

References:
  Jacob et al.: Quantization and training of neural networks for efficient
  integer-arithmetic-only inference. CVPR 2018. The arrays are those of qwix.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from parallel_ar import transform
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Params

Bits = Literal['int8', 'int4']


def weights(
  model: AutoregressiveModel, params: Params, kind: Bits = 'int8', tile: int = 0
) -> tuple[AutoregressiveModel, Params]:
  """Quantizes every matrix and kernel of a model.

  Args:
    model: p.
    params: its parameters. Leaves of two or more axes are quantized; biases,
      norms and other vectors stay.
    kind: 'int8' or 'int4'.
    tile: > 0 gives every `tile` inputs of a channel a scale of their own, where
      it divides their number.

  Returns:
    The model that reads quantized parameters, and these.

  Raises:
    ValueError: another kind, or tile < 0.
    ModuleNotFoundError: qwix is not installed.
  """
  if kind not in get_args(Bits) or tile < 0:
    raise ValueError(
      f"kind must be 'int8' or 'int4' and tile at least 0; got {kind!r} and "
      f'{tile}.'
    )
  qwix = _qwix()

  def quantize(leaf: Any) -> Any:
    if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    inputs = leaf.ndim - 2
    tiled = {inputs: tile} if tile and leaf.shape[inputs] % tile == 0 else None
    return qwix.quantize(
      leaf,
      getattr(jnp, kind),
      channelwise_axes=(leaf.ndim - 1,),
      tiled_axes=tiled,
    )

  def make() -> AutoregressiveModel:
    to = functools.partial(jax.tree.map, quantize)
    return transform.wrap(
      model, params=(restore, to), name=f'{model.name} in {kind}'
    )

  made: AutoregressiveModel = once(model, ('quantized', kind, tile), make)
  return made, jax.tree.map(quantize, params)


def restore(params: Params) -> Params:
  """The parameters as the first model's functions take them."""
  qwix = _qwix()
  is_array = lambda leaf: isinstance(leaf, qwix.QArray)
  return jax.tree.map(
    lambda leaf: qwix.dequantize(leaf) if is_array(leaf) else leaf,
    params,
    is_leaf=is_array,
  )


def num_bytes(params: Params) -> float:
  """Bytes that the parameters need; an int4 counts half a byte."""
  bits = lambda a: 4 if a.dtype == jnp.int4 else 8 * a.dtype.itemsize
  return sum(leaf.size * bits(leaf) for leaf in jax.tree.leaves(params)) / 8


def _qwix() -> Any:
  try:
    import qwix
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      'Quantized weights are arrays of qwix, which is not installed: pip '
      "install -c constraints.txt -e '.[quantization]'."
    ) from error
  return qwix
