"""What decides the bits of a float here, and what a file says about it.

The same network rounds otherwise with other compiler options, another number of
threads, another CPU. So the codec's programs are compiled with options of their
own, which override XLA_FLAGS: products and convolutions go through kernels
whose sums do not depend on the number of threads. What cannot be fixed is told
in the header in a few bytes. It refuses nothing by itself: a file is refused
when a pass on fixed events gives other bits than the pass that its header
remembers, and then these facts say why.
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import precision
from parallel_ar.types import Array

_KERNELS = ('DOT', 'REDUCE', 'INDIVIDUAL_DOT', 'INDIVIDUAL_CONVOLUTION')
# XLA's defaults, written down so that no environment changes them. With the
# first one turned off products are Eigen's, cut by the number of threads.
_CPU: dict[str, Any] = {
  'xla_cpu_experimental_ynn_fusion_type': ','.join(
    f'LIBRARY_FUSION_TYPE_{name}' for name in _KERNELS
  ),
  'xla_cpu_experimental_onednn_fusion_type': '',
  'xla_cpu_experimental_xnn_fusion_type': '',
  'xla_cpu_experimental_xnn_graph_fusion_mode': (
    'XNN_GRAPH_FUSION_MODE_DISABLED'
  ),
  'xla_cpu_use_onednn': False,
  'xla_cpu_use_xnnpack': True,
  'xla_cpu_use_fusion_emitters': True,
  'xla_cpu_multi_thread_eigen': True,
  'xla_cpu_strict_dot_conv_math': False,
  'xla_cpu_enable_fast_math': False,
  'xla_cpu_enable_fast_min_max': True,
  'xla_cpu_enable_platform_dependent_math': True,
  'xla_cpu_ftz': False,
  'xla_cpu_prefer_vector_width': 256,
}
_ANY: dict[str, Any] = {
  'xla_allow_excess_precision': True,
  'xla_backend_optimization_level': 3,
  'xla_llvm_disable_expensive_passes': False,
  'xla_disable_hlo_passes': '',
  'xla_disable_all_hlo_passes': False,
}
# Else a GPU times its kernels at every compilation, and takes the fastest.
_GPU: dict[str, Any] = {
  'xla_gpu_autotune_level': 0,
  'xla_gpu_deterministic_ops': True,
}
_FACTS = struct.Struct('<3s3s2s2s2s2sB')


class Facts(NamedTuple):
  """What may decide bits and is not fixed by `options`.

  Attributes:
    jaxlib: the first three numbers of its version.
    parallel_ar: the same.
    device: hash of the kind of device.
    cpu: hash of the CPU's name and features.
    flags: hash of XLA_FLAGS without those that `options` overrides.
    settings: hash of JAX's settings that change a program.
    cores: threads that this process may use, at most 255.
  """

  jaxlib: bytes
  parallel_ar: bytes
  device: bytes
  cpu: bytes
  flags: bytes
  settings: bytes
  cores: int

  def pack(self) -> bytes:
    """15 bytes."""
    return _FACTS.pack(*self)


SIZE = _FACTS.size


def unpack(data: bytes) -> Facts:
  """The facts of `Facts.pack`."""
  return Facts(*_FACTS.unpack(data))


@functools.cache
def options() -> dict[str, Any]:
  """The compiler options of the codec's programs that this jaxlib knows."""
  backend = jax.default_backend()
  wanted = _ANY | {'cpu': _CPU, 'gpu': _GPU}.get(backend, {})
  if _compiles(wanted):
    return wanted
  return {n: value for n, value in wanted.items() if _compiles({n: value})}


def program(function: Callable[..., Any]) -> Callable[..., Any]:
  """A program of the codec, of (model, precision, ...): `options`, float32.

  Coding is at the highest level of `precision`, whatever else is in force.
  """
  jitted = jax.jit(function, static_argnums=(0, 1), compiler_options=options())

  def run(*args: Any) -> Any:
    with precision.scope('highest'):
      return jitted(*args)

  return run


def _compiles(some: dict[str, Any]) -> bool:
  try:
    jax.jit(lambda x: x + 1, compiler_options=some).lower(1.0).compile()
  except jax.errors.JaxRuntimeError:  # no such option, or no such value
    return False
  return True


def facts() -> Facts:
  """Those of this process, now."""
  return Facts(
    _version('jaxlib'),
    _version('parallel_ar'),
    _hash(jax.devices()[0].device_kind),
    _hash(_cpu()),
    _hash(flags()),
    _hash(_settings()),
    min(255, cores()),
  )


def cores() -> int:
  """Threads that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def flags() -> str:
  """XLA_FLAGS without those that `options` overrides, sorted."""
  words = os.environ.get('XLA_FLAGS', '').split()
  fixed = options()
  name = lambda word: word.lstrip('-').split('=')[0]
  return ' '.join(sorted(word for word in words if name(word) not in fixed))


def explain(there: Facts, here: Facts) -> str:
  """What differs, and what to do about it; one sentence or more.

  Args:
    there: where the file was written.
    here: this process.

  Returns:
    Text that ends with a full stop.
  """
  dotted = lambda version: '.'.join(str(number) for number in version)
  remedies = {
    'jaxlib': (
      f'jaxlib {dotted(there.jaxlib)} there and {dotted(here.jaxlib)} here: '
      f"pip install 'jax=={dotted(there.jaxlib)}'"
    ),
    'parallel_ar': (
      f'parallel_ar {dotted(there.parallel_ar)} there and '
      f'{dotted(here.parallel_ar)} here: install that version'
    ),
    'device': (
      'another kind of device (here '
      f'{jax.devices()[0].device_kind}): decode on one like it'
    ),
    'cpu': 'a CPU of another kind or other features: decode on one like it',
    'flags': (
      f'other XLA_FLAGS (here {flags()!r}): set those of the writer; without '
      "them: XLA_FLAGS=''"
    ),
    'settings': (
      f"other settings of JAX (here {_settings()}): set the writer's"
    ),
    'cores': (
      f'{there.cores} cores there and {here.cores} here: '
      f'taskset -c 0-{there.cores - 1} python ...'
    ),
  }
  found = [
    remedy
    for name, remedy in remedies.items()
    if getattr(there, name) != getattr(here, name)
  ]
  if not found:
    return (
      'Nothing that the header records differs, so the code of the model has '
      'changed, or this device does not give the same bits twice.'
    )
  return f'What differs: {"; ".join(found)}.'


def fingerprint(tree: Any) -> Array:
  """uint32[]: a sum over the bits of all leaves that no order can change."""
  total = jnp.zeros((), jnp.uint32)
  for leaf in jax.tree.leaves(tree):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      bits = min(32, 8 * leaf.dtype.itemsize)
      leaf = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{bits}'))
    words = leaf.reshape(-1).astype(jnp.uint32)
    weights = jnp.arange(words.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
    terms = (words ^ (words >> 15)) * (weights | 1) + words * words
    total = total * jnp.uint32(31) + terms.sum(dtype=jnp.uint32)
  return total


def fingerprint_if(wanted: Array, tree: Any) -> Array:
  """`fingerprint` where wanted, else 0."""
  return jax.lax.cond(
    wanted, fingerprint, lambda _: jnp.zeros((), jnp.uint32), tree
  )


@functools.cache
def _cpu() -> str:
  """Name and features of the CPU."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return f'{platform.machine()} {platform.processor()}'
  wanted = re.compile(r'(model name|flags|Features|CPU part)\s*:')
  return '\n'.join(sorted({line for line in lines if wanted.match(line)}))


def _settings() -> str:
  names = (
    'jax_enable_x64',
    'jax_default_matmul_precision',
    'jax_numpy_dtype_promotion',
    'jax_disable_jit',
  )
  return ', '.join(f'{name}={getattr(jax.config, name)}' for name in names)


def _version(package: str) -> bytes:
  try:
    text = importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    text = ''
  numbers = [int(n) % 256 for n in re.findall(r'\d+', text)[:3]]
  return bytes(numbers + [0] * (3 - len(numbers)))


def _hash(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()[:2]
