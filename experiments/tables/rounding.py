"""What rounding the operands of products to bfloat16 does to a trained model.

  ./run.sh train --config=configs/digits_gated_pixelcnn.py
  ./run.sh tables/rounding --workdir=runs/digits_gated_pixelcnn \
      --result=results/rounding.json

That is what a TPU does to products of float32 unless it is told otherwise
(`precision`). Here it is done on any device: the pass is traced, and every
operand of a product or convolution is rounded to the 8 bits of bfloat16's
mantissa. The likelihood of the test images, and samples of the same keys, stand
beside those in float32.
"""

import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import model as model_lib
from parallel_ar import samplers, transform
from parallel_ar.program import trace
from parallel_ar.training import configuration, evaluate, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a run.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_SAMPLES = flags.DEFINE_integer('samples', 64, 'Samples.', lower_bound=1)
_RESULT = options.define_output('result', 'Write the result here, as JSON.')
_PRODUCTS = 'dot_general', 'conv_general_dilated'
_LOOPS = 'scan', 'while', 'cond'


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  run = trained.load(entry.require(_WORKDIR))
  data = run.load_split(run.config.evaluate.split, _DATA_DIR.value)
  size = run.config.evaluate.batch_size
  keys = jax.random.split(jax.random.key(0), _SAMPLES.value)
  nats, x = [], []
  for model in (run.model, rounded(run.model)):
    found = evaluate.evaluate([model], run.params, data, size)
    print(found)
    nats.append(found.per_example)
    x.append(np.asarray(samplers.fixed_point(model)(run.params, keys).x))
  gap, other = np.abs(nats[1] - nats[0]), x[0] != x[1]
  images = other.reshape(len(other), -1).any(1)
  print(
    f'mean {nats[0].mean():.4f} and {nats[1].mean():.4f} nats; up to '
    f'{gap.max():.3f} nats an example; {other.sum()} of {other.size} sampled '
    f'integers differ, in {images.sum()} of {len(images)} samples'
  )
  numbers: report.Numbers = {
    'in_float32': (float(nats[0].mean()), 'nats'),
    'in_bfloat16': (float(nats[1].mean()), 'nats'),
    'largest_difference': (float(gap.max()), 'nats'),
    'different_integers': (int(other.sum()), 'integers'),
    'integers': (int(other.size), 'integers'),
    'different_samples': (int(images.sum()), 'samples'),
  }
  config = configuration.to_json(run.config)
  report.save(_RESULT.value, numbers, config, started)


def rounded(
  model: model_lib.AutoregressiveModel,
) -> model_lib.AutoregressiveModel:
  """The model whose products have operands that are rounded to bfloat16.

  Raises:
    ValueError: when it is called, that the pass has loops, whose products are
      not seen.
  """

  def conditionals(params: Any, x: Any, context: Any) -> Any:
    given = params, x, context
    program = trace.trace(model.conditionals, *given)
    known = dict(zip(program.inputs, jax.tree.leaves(given), strict=True))
    read = lambda v: known[v] if v.value is None else v.value
    for op in program.ops:
      if op.name in _LOOPS:
        raise ValueError(
          f'The pass of {model.name} has a {op.name}, and products inside are '
          'not rounded. Take a model without loops, such as a Gated PixelCNN.'
        )
      values = [read(v) for v in op.inputs]
      if op.name in _PRODUCTS:
        values = [jax.lax.reduce_precision(v, 8, 7) for v in values]
      known.update(zip(op.outputs, op.bind(*values), strict=True))
    tree = jax.tree.structure(jax.eval_shape(model.conditionals, *given))
    return jax.tree.unflatten(tree, [read(v) for v in program.outputs])

  return transform.wrap(
    model, conditionals=conditionals, decode=None, conditionals_given=None
  )


if __name__ == '__main__':
  entry.run(main)
