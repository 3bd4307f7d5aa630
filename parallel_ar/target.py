"""The platform that programs are traced for.

It is that of JAX here, unless they are to be compiled for another one, or read:
audits and derived paths read the program of a CPU, which has no kernels that
only one vendor's compiler understands.
"""

import contextlib
from typing import Any

import jax

_NAMED = jax.make_user_context(default_value=None)  # part of what is compiled


def platform() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  name = _NAMED.value
  return jax.default_backend() if name is None else str(name)


def on(name: str) -> contextlib.AbstractContextManager[Any]:
  """Traces for a platform what is traced inside.

  Args:
    name: 'cpu', 'gpu' (or 'cuda') or 'tpu'.
  """
  found: contextlib.AbstractContextManager[Any] = _NAMED(
    {'cuda': 'gpu'}.get(name, name)
  )
  return found
