"""A trained run as one file for cpu, cuda and tpu, without this library.

  ./run.sh export --workdir=runs/digits_made --out=digits_made.zip

The file holds the likelihood and a step of sampling as StableHLO (`jax.export`)
for any batch, with the parameters. `parallel_ar/export.py` describes it, and
reads it with JAX and NumPy alone. The length of an event is fixed.
"""

from absl import flags

from experiments import entry, options
from parallel_ar import describe, export
from parallel_ar.training import bucket, run_directory, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_OUT = options.define_output(
  'out', 'The file; model.zip in workdir without it.'
)
_PARAMS = flags.DEFINE_enum(
  'params', 'auto', ['auto', 'raw', 'ema'], 'Which parameters; see evaluate.'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Step of the checkpoint.', lower_bound=0
)


def main() -> None:
  """Runs the script."""
  workdir = run_directory.resolve(entry.require(_WORKDIR))
  out = run_directory.resolve(_OUT.value or workdir / 'model.zip')
  options.check_writable(out)
  run = trained.load(workdir, which=_PARAMS.value, step=_STEP.value)
  if len(run.models) > 1:
    raise ValueError(
      f'A mixture of {len(run.models)} models has no one file. Train one with '
      'num_masks=1 or num_orders=1.'
    )
  print(describe(run.models[0]))
  about = export.save(out, run.models[0], run.params)
  print(
    f'{out}: {bucket.size(out) / 1e6:.2f} MB, {run.params_name}, programs '
    f'{", ".join(about["programs"])} for {", ".join(about["platforms"])}'
  )


if __name__ == '__main__':
  entry.run(main)
