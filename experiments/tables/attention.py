"""What sparse attention costs beside dense causal attention.

  ./run.sh tables/attention
  ./run.sh tables/attention --platform=cuda --dtype=bfloat16 --batch=4

Local attention to a window of w slots, strided attention, and the dense one
that skips what lies above the diagonal, on the same queries and in turn:
forward, and forward with the gradient. Bytes are what XLA sets aside beside the
arguments. A window that were only a mask would cost as much as the dense one.
'kernel' is that of the platform (`layers.kernels`), where it has one for such
queries; the largest difference is that of its output from the dense one's.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar.analysis import timing
from parallel_ar.layers import attention, flash, kernels
from parallel_ar.layers.sharded import Reach

_LENGTHS = options.define_numbers('lengths', [1024, 8192], 'Slots.')
_WINDOW = flags.DEFINE_integer('window', 256, 'w.', lower_bound=1)
_HEADS = flags.DEFINE_integer('heads', 8, 'Heads.', lower_bound=1)
_SIZE = flags.DEFINE_integer('size', 64, 'Features of a head.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 1, 'Sequences.', lower_bound=1)
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of queries, keys and values.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = {
    'window': _WINDOW.value,
    'heads': _HEADS.value,
    'size': _SIZE.value,
    'lengths': _LENGTHS.value,
    'batch': _BATCH.value,
    'dtype': _DTYPE.value,
  }
  numbers: report.Numbers = {}
  print('| slots | attention | program | ms | of dense | MB | of dense |')
  print('|--:|---|---|--:|--:|--:|--:|')
  for length in _LENGTHS.value:
    for what in ('forward', 'gradient'):
      numbers |= measure(length, what)
      # What is measured stays, whatever ends the run later.
      report.save(_OUT.value, numbers, config, started)


def measure(length: int, what: str) -> report.Numbers:
  """Prints the rows of one length, and returns their numbers."""
  shape = _BATCH.value, length, _HEADS.value, _SIZE.value
  keys = jax.random.split(jax.random.key(0), 3)
  qkv = tuple(jax.random.normal(key, shape, _DTYPE.value) for key in keys)
  kinds = {name: jax.vmap(kind) for name, kind in choices(qkv[0][0]).items()}
  programs, memory = {}, {}
  for name, kind in kinds.items():

    def loss(qkv: Any, kind: Any = kind) -> jax.Array:
      return (kind(*qkv).astype(jnp.float32) ** 2).sum()

    def forward(qkv: Any, kind: Any = kind) -> jax.Array:
      return kind(*qkv)

    function = jax.grad(loss) if what == 'gradient' else forward
    programs[name], memory[name] = report.compile_program(function, qkv)
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  numbers: report.Numbers = {}
  for name in programs:
    seconds = timing.summarize(rounds.seconds[name])
    share = timing.ratio(rounds, name, 'dense')
    room = memory[name] / max(memory['dense'], 1)
    print(
      f'| {length} | {name} | {what} | {seconds.text(1e3, 1)} '
      f'| {share.text(digits=3)} | {memory[name] / 1e6:.1f} | {room:.3f} |',
      flush=True,
    )
    label = f'{length} slots, {name}, {what}'
    numbers[f'{label}: ms'] = 1e3 * seconds.median, 'ms'
    numbers[f'{label}: of dense'] = share.median, '1'
    numbers[f'{label}: bytes'] = memory[name], 'bytes'
    numbers[f'{label}: bytes of dense'] = room, '1'
  if 'kernel' in kinds and what == 'forward':
    far = jnp.abs(programs['kernel']() - programs['dense']()).max()
    print(f'Largest difference of the kernel at {length} slots: {far:.3g}.')
    numbers[f'{length} slots, kernel: largest difference'] = float(far), '1'
  return numbers


def choices(q_LHK: Any) -> dict[str, Any]:
  """Kinds of attention, those of the platform for such queries among them."""
  window = _WINDOW.value
  kinds: dict[str, Any] = {
    'dense': attention.block_causal_attention,
    'flash': flash.flash_attention,
    'local': functools.partial(attention.local_attention, window=window),
    'strided': functools.partial(attention.strided_attention, stride=window),
  }
  for name, reach in {
    'kernel': Reach(),
    'local, kernel': Reach(window=window),
  }.items():
    if (fused := kernels.choose('auto', q_LHK, reach)) is not None:
      kinds[name] = functools.partial(fused, reach=reach)
  return kinds


if __name__ == '__main__':
  entry.run(main)
