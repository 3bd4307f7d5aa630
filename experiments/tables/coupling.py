"""How often two conditionals agree under shared noise, and what it is worth.

  ./run.sh tables/coupling --workdir=runs/digits_gated_pixelcnn

The conditionals that a fixed-point pass computes from a prefix that is still
partly wrong are set beside those of the finished sample, after 1, 2, 4 and 8
passes, for each coupling of noise that the head of the run knows. A rate is of
positions that pick the same; `parallel_ar/analysis/coupling.py` has the bounds.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import describe, heads, samplers, transform
from parallel_ar.analysis import coupling
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.training import configuration, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_COUNT = flags.DEFINE_integer(
  'count', 16, 'Samples whose conditionals are compared.', lower_bound=1
)
_DRAWS = flags.DEFINE_integer(
  'draws', 200, 'Draws of the noise of each position.', lower_bound=2
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

PASSES = (1, 2, 4, 8)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  run = trained.load(entry.require(_WORKDIR))
  model = run.models[0]
  if model.context is not None or model.head.pmf is None:
    raise ValueError(
      f'tables/coupling compares probabilities of an unconditional model; '
      f'{model.name} has head {model.head.name} and context {model.context}.'
    )
  print(f'{describe(model)}\n')
  print(
    '| coupling | passes done | rate | 1 - TV | (1 - TV) / (1 + TV) '
    '| independent | mean apart | passes of fixed_point |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|--:|')
  numbers: dict[str, tuple[float | int, str]] = {}
  for kind, coupled in couplings(model).items():
    passes, found = measure(coupled, run.params)
    numbers[f'{kind}: passes mean'] = passes, 'passes'
    for done, got in found.items():
      print(
        f'| {kind} | {done} | {got.rate:.4f} | {got.maximum:.4f} '
        f'| {got.gumbel:.4f} | {got.independent:.4f} | {got.apart:.4f} '
        f'| {passes:.1f} |'
      )
      for name, value in got._asdict().items():
        unit = 'symbols' if name == 'apart' else '1'
        numbers[f'{kind}, {done} passes: {name}'] = value, unit
  report.save(
    _OUT.value,
    numbers,
    configuration.to_json(run.config),
    started,
    seed=_SEED.value,
    model=describe(model),
    params=run.params_name,
  )


def couplings(model: AutoregressiveModel) -> dict[str, AutoregressiveModel]:
  """The model under every coupling of noise that its head knows."""
  if not model.head.name.startswith('categorical'):
    return {model.head.name: model}
  num_values = model.head.num_values
  assert num_values is not None
  return {
    kind: transform.wrap(model, head=heads.categorical(num_values, kind))
    for kind in ('gumbel', 'inverse_cdf')
  }


def measure(
  model: AutoregressiveModel, params: Any
) -> tuple[float, dict[int, coupling.Collision]]:
  """Mean passes of `fixed_point`, and the agreement after some of them."""
  keys = jax.random.split(jax.random.key(_SEED.value), _COUNT.value)
  sample = samplers.fixed_point(model)(params, keys)
  apply = jax.jit(jax.vmap(lambda x: model.conditionals(params, x, None)))
  noise = jax.vmap(lambda key: position_noise(model, key))(keys)
  pick = jax.vmap(model.head.pick)
  lead = model.rank.ndim + 1

  def flat(dist: Any) -> Any:
    return jax.tree.map(lambda d: d.reshape(-1, *d.shape[lead:]), dist)

  x = jnp.zeros_like(sample.x)
  final, found = flat(apply(sample.x)), {}
  for done in range(1, max(PASSES) + 1):
    x = pick(apply(x), noise)
    if done in PASSES:
      found[done] = coupling.collision_rate(
        model.head,
        flat(apply(x)),
        final,
        jax.random.key(_SEED.value + 1),
        _DRAWS.value,
      )
  return float(jnp.mean(sample.info.passes)), found


if __name__ == '__main__':
  entry.run(main)
