"""What memory across segments costs beside attention to everything before.

  ./run.sh tables/segments

Three programs of the same size on one event, in turn: a Transformer whose
every slot reads all slots before it; a Transformer-XL in one pass, whose slots
read their segment and a memory before it; and the same network segment by
segment, with a carried memory. The gradient of the first two as well. Bytes are
what XLA sets aside beside the arguments. The last column is the largest
deviation of the segments from the one pass, nats of a slot.
"""

import functools
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import likelihood, models
from parallel_ar.analysis import timing

_LENGTHS = options.define_numbers('lengths', [1024, 2048, 8192], 'Slots.')
_SEGMENT = flags.DEFINE_integer('segment', 256, 'S and M.', lower_bound=1)
_FEATURES = flags.DEFINE_integer('features', 64, 'N.', lower_bound=4)
_LAYERS = flags.DEFINE_integer('layers', 2, 'Blocks.', lower_bound=1)
_VALUES = flags.DEFINE_integer('values', 64, 'V.', lower_bound=3)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  lengths = _LENGTHS.value
  if any(length % _SEGMENT.value for length in lengths):
    raise ValueError(
      f'--segment={_SEGMENT.value} must divide every one of --lengths='
      f'{",".join(map(str, _LENGTHS.value))}.'
    )
  numbers: report.Numbers = {}
  print(
    '| slots | network | program | ms | of full | MB | of full | deviation |\n'
    '|--:|---|---|--:|--:|--:|--:|--:|'
  )
  for length in lengths:
    numbers |= measure(length)
  config = {
    'segment': _SEGMENT.value,
    'memory': _SEGMENT.value,
    'features': _FEATURES.value,
    'layers': _LAYERS.value,
    'lengths': lengths,
  }
  report.save(_OUT.value, numbers, config, started)


def measure(length: int) -> report.Numbers:
  """Prints the rows of one length, and returns their numbers."""
  shared: dict[str, Any] = {
    'event': (length,),
    'num_values': _VALUES.value,
    'features': _FEATURES.value,
    'layers': _LAYERS.value,
    'heads': 2,
  }
  size = _SEGMENT.value
  full = models.transformer(**shared)
  short = models.transformer_xl(**shared, segment=size, memory=size)
  x = np.random.default_rng(0).integers(_VALUES.value, size=(1, length))
  x = x.astype(np.int32)
  params = {m: jax.jit(m.init)(jax.random.key(0)) for m in (full, short)}

  def nats(kind: Any, model: Any, params: Any) -> Any:
    return kind(model, params, x)[0] / -length

  plain = functools.partial(nats, likelihood.log_prob)
  parts = functools.partial(nats, likelihood.blockwise_log_prob)
  kinds: dict[tuple[str, str], tuple[Any, Any]] = {
    ('full', 'one pass'): (functools.partial(plain, full), full),
    ('memory', 'one pass'): (functools.partial(plain, short), short),
    ('memory', 'segments'): (functools.partial(parts, short), short),
    ('full', 'gradient'): (jax.grad(functools.partial(plain, full)), full),
    ('memory', 'gradient'): (jax.grad(functools.partial(plain, short)), short),
  }
  programs: dict[str, Any] = {}
  memory: dict[str, int] = {}
  for pair, (function, model) in kinds.items():
    key = ', '.join(pair)
    programs[key], memory[key] = report.compile_program(function, params[model])
  gap = abs(
    float(programs['memory, one pass']())
    - float(programs['memory, segments']())
  )
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  numbers: report.Numbers = {}
  for network, what in kinds:
    name = f'{network}, {what}'
    beside = 'full, gradient' if what == 'gradient' else 'full, one pass'
    seconds = timing.summarize(rounds.seconds[name])
    share = timing.ratio(rounds, name, beside)
    room = memory[name] / max(memory[beside], 1)
    deviation = f'{gap:.0e}' if what == 'segments' else ''
    print(
      f'| {length} | {network} | {what} | {seconds.text(1e3, 1)} '
      f'| {share.text(digits=3)} | {memory[name] / 1e6:.1f} | {room:.3f} '
      f'| {deviation} |'
    )
    label = f'{length} slots, {name}'
    numbers[f'{label}: ms'] = 1e3 * seconds.median, 'ms'
    numbers[f'{label}: of full'] = share.median, '1'
    numbers[f'{label}: bytes'] = memory[name], 'bytes'
    numbers[f'{label}: bytes of full'] = room, '1'
  numbers[f'{length} slots: deviation'] = gap, 'nats'
  return numbers


if __name__ == '__main__':
  entry.run(main)
