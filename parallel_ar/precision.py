"""What a product of float32 is on this device, by a name that is recorded.

A CPU multiplies float32 as float32. An accelerator need not: by default a TPU
rounds both operands to bfloat16 (8 bits of mantissa) and adds up in float32,
and an NVIDIA GPU since the A100 may round them to TF32 (11 bits). A config has
two levels, for training and for what is measured or coded:

  default   what the device is fastest at, as above
  high      three products of bfloat16 on a TPU, TF32 on a GPU
  highest   float32: six products of bfloat16 on a TPU

Products of bfloat16 operands, which `model.dtype` asks for, are the same at
every level. On a CPU no level changes anything, and none is set there.
"""

import contextlib
from typing import Any, Literal, get_args

import jax

from parallel_ar import target

Level = Literal['default', 'high', 'highest']
LEVELS: tuple[str, ...] = get_args(Level)
# Platform -> level -> what a product of two float32 is.
_PRODUCTS = {
  'tpu': {
    'default': 'bfloat16 operands, float32 sums',
    'high': 'three products of bfloat16 parts, float32 sums',
    'highest': 'six products of bfloat16 parts: float32',
  },
  'gpu': {
    'default': 'TF32 operands where XLA takes them, float32 sums',
    'high': 'TF32 operands, float32 sums',
    'highest': 'float32',
  },
}


def scope(level: str) -> contextlib.AbstractContextManager[Any]:
  """Puts a level in force for what is traced inside.

  Args:
    level: one of LEVELS.

  Returns:
    A context manager. It does nothing at 'default', where JAX's own setting
    `jax_default_matmul_precision` stays, nor for a CPU without such a setting,
    where the levels are one.

  Raises:
    ValueError: no such level.
  """
  check(level)
  one = target.platform() == 'cpu' and _own() is None
  if level == 'default' or one:
    return contextlib.nullcontext()
  return jax.default_matmul_precision(level)


def check(level: str) -> None:
  """Checks the name of a level.

  Raises:
    ValueError: no such level.
  """
  if level not in LEVELS:
    raise ValueError(
      f'Unknown precision {level!r}: expected one of {", ".join(LEVELS)}.'
    )


def products(level: str) -> str:
  """In words what a product of two float32 is, for a record.

  Args:
    level: one of LEVELS.
  """
  words = _PRODUCTS.get(target.platform(), {}).get(level, 'float32')
  if level == 'default' and _own() is not None:
    words = f'jax_default_matmul_precision={_own()}'
  return words


def _own() -> Any:
  """What was asked of JAX itself."""
  return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
