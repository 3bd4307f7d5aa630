"""What a framework's own cache, or a window, gains over a pass for each symbol.

  ./run.sh tables/framework_caches
  ./run.sh tables/framework_caches --length=64 --rounds=3

Networks as their users write them: two layers of Linen's attention of width 64
with learned positions, whose cache is `decode=True`, and four causal
convolutions of 3 taps, which read 9 symbols. Samplers of the same keys are
timed in turn; 'ancestral / it' above 1 says that the sampler is faster.
'differ' counts the integers that are not those of ancestral, 'repaired' those
that rounding in the cache had flipped and the proving pass put right.
Parameters are random, so that passes of a fixed point say nothing about
trained models.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

import parallel_ar as par
from experiments import entry, options
from experiments.tables import report
from parallel_ar.analysis import timing

_LENGTH = flags.DEFINE_integer('length', 256, 'Symbols.', lower_bound=16)
_BATCHES = options.define_numbers('batches', [1, 8], 'Samples at once.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

VALUES, WIDTH, READS = 32, 64, 9


class Attention(nn.Module):
  """Two layers of attention; with `decode` one symbol from Flax's cache."""

  length: int
  decode: bool = False

  @nn.compact
  def __call__(self, tokens, position=0):
    """Logits of a batch of tokens, the first of them at `position`."""
    places = nn.Embed(self.length, WIDTH)
    at = position + jnp.arange(tokens.shape[1])
    h = nn.Embed(VALUES + 1, WIDTH)(tokens) + places(at)[None]
    mask = None if self.decode else nn.make_causal_mask(tokens)
    for _ in range(2):
      attend = nn.MultiHeadDotProductAttention(4, decode=self.decode)
      h = h + attend(nn.LayerNorm()(h), mask=mask)
      h = h + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(h))))
    return nn.Dense(VALUES)(h)


class Convolutions(nn.Module):
  """Four causal convolutions of 3 taps over a start symbol and x."""

  @nn.compact
  def __call__(self, x, context):
    """Logits of one event, which is shifted inside."""
    h = nn.Embed(VALUES, WIDTH)(x)
    h = jnp.pad(h, ((1, 0), (0, 0)))[:-1]
    for _ in range(4):
      h = h + jnp.tanh(nn.Conv(WIDTH, (3,), padding=[(2, 0)])(h))
    return nn.Dense(VALUES)(h)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  numbers: report.Numbers = {}
  print(
    '| network | batch | sampler | ms | ancestral / it | differ | repaired |'
  )
  print('|---|--:|---|--:|--:|--:|--:|')
  for name, (model, path) in networks(_LENGTH.value).items():
    for batch in _BATCHES.value:
      numbers |= measure(name, model, path, int(batch))
  config = {'length': _LENGTH.value, 'batches': _BATCHES.value}
  report.save(_OUT.value, numbers, config, started)


def networks(
  length: int,
) -> dict[str, tuple[par.AutoregressiveModel, par.Decode]]:
  """Name -> the model, and the path that its user would give it."""
  head = par.heads.categorical(VALUES)
  attention = par.from_linen(
    Attention(length),
    event=(length,),
    head=head,
    start=VALUES,
    batched=True,
  )
  cache = par.linen_cache(
    Attention(length, decode=True),
    length,
    call=lambda module, tokens, context, position: module(tokens, position),
  )
  line = par.from_linen(Convolutions(), event=(length,), head=head)
  return {
    'Linen attention': (
      attention,
      par.decode_from_cache(attention, cache, start=VALUES),
    ),
    'convolutions, a window of 9': (line, par.windowed_decode(line, READS)),
  }


def measure(
  name: str, model: par.AutoregressiveModel, path: par.Decode, batch: int
) -> report.Numbers:
  """Prints the rows of one network, and returns their numbers."""
  params = model.init(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), batch)
  samplers: dict[str, Callable] = {
    'ancestral': par.ancestral(model),
    'fixed_point': par.fixed_point(model),
    'cached, this path': par.cached(model, path),
    'cached, derived': par.cached(model, par.derive_decode(model)),
  }
  programs = {
    how: report.compile_program(sampler, params, keys)[0]
    for how, sampler in samplers.items()
  }
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  want, numbers = np.asarray(programs['ancestral']().x), {}
  for how, program in programs.items():
    sample = program()
    differ = int((np.asarray(sample.x) != want).sum())
    guessed = 'cached' in how
    repaired = int(np.sum(sample.info.repaired)) if guessed else 0
    seconds = timing.summarize(rounds.seconds[how])
    gain = timing.ratio(rounds, 'ancestral', how)
    print(
      f'| {name} | {batch} | {how} | {seconds.text(1e3)} | {gain.text()} '
      f'| {differ} of {want.size} | {repaired if guessed else ""} |'
    )
    label = f'{name}, batch {batch}, {how}'
    numbers[f'{label}: ms'] = 1e3 * seconds.median, 'ms'
    numbers[f'{label}: gain'] = gain.median, 'x'
    numbers[f'{label}: differ'] = float(differ), 'integers'
  return numbers


if __name__ == '__main__':
  entry.run(main)
