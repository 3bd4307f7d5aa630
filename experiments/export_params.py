"""Writes the parameters of a run into one plain file that others can read.

  ./run.sh export_params --workdir=runs/digits_gated_pixelcnn
  ./run.sh evaluate --workdir=runs/digits_gated_pixelcnn/params.npz

The file is a NumPy .npz: one array a parameter, and the config, the step and
checksums as JSON under '__meta__'. `evaluate`, `sample` and every other script
with --workdir take it in the place of the run's directory.
"""

from absl import flags

from experiments import entry, hosts, options
from parallel_ar import describe
from parallel_ar.distributed import multihost
from parallel_ar.training import (
  bucket,
  configuration,
  params_file,
  run_directory,
  trained,
)

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_PARAMS = flags.DEFINE_enum(
  'params', 'auto', ['auto', 'raw', 'ema'], 'Which parameters; see evaluate.'
)
_STEP = flags.DEFINE_integer(
  'step',
  None,
  'Step of the checkpoint; without it the best, or the newest.',
  lower_bound=0,
)
_OUT = options.define_output(
  'out', 'The file; params.npz in the directory of the run without it.'
)


def main() -> None:
  """Runs the script."""
  hosts.connect()
  workdir = run_directory.resolve(entry.require(_WORKDIR))
  out = run_directory.resolve(_OUT.value or workdir / 'params.npz')
  options.check_writable(out)
  run = trained.load(workdir, which=_PARAMS.value, step=_STEP.value)
  params_file.save(
    out,
    run.params,
    configuration.to_json(run.config),
    step=run.step,
    which=run.params_name.split()[0],
    identity=run.identity,
  )
  if not multihost.is_first():
    return
  print(describe(run.models[0]))
  print(f'{run.params_name}, {bucket.size(out)} bytes: {out}')


if __name__ == '__main__':
  entry.run(main, connects=True)
