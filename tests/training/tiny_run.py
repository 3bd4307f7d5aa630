"""A run small enough to be killed.

  python -m tests.training.tiny_run WORKDIR STEPS [section.field=value ...]

Leaves the final state in WORKDIR/final.npz. `pause=S` waits S seconds before
each step, so that a signal can come in time, `wait=S` gives other processes S
seconds to come. Several processes are told of each
other by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import ast
import sys
import time

import jax
import numpy as np

from parallel_ar.data import pipeline
from parallel_ar.distributed import multihost
from parallel_ar.training import configuration, loop, run_directory


def config(steps):
  """MADE on a small lattice, with everything that a checkpoint must carry."""
  config = configuration.default_config()
  config.data.update(name='lattice', height=4, width=3, num_examples=96)
  config.model.update(
    name='made', event=(4, 3, 1), hidden=(8,), num_masks=2, degrees='even'
  )
  config.optimizer.update(
    name='adam', schedule='cosine', warmup_steps=5, decay_steps=55
  )
  config.train.update(
    batch_size=20,
    steps=steps,
    ema_decay=0.9,
    log_every=2,
    eval_every=15,
    checkpoint_every=5,
    tensorboard=False,
  )
  return config


def main():
  workdir, steps = run_directory.resolve(sys.argv[1]), int(sys.argv[2])
  changed, wait = config(steps), 60.0
  for word in sys.argv[3:]:
    path, _, value = word.partition('=')
    if path == 'pause':
      _pause(float(value))
    elif path == 'wait':
      wait = float(value)
    else:
      section, field = path.split('.')
      changed[section][field] = ast.literal_eval(value)
  multihost.initialize('auto', timeout=wait, heartbeat_seconds=5)
  summary = loop.train(changed, workdir, progress=False)
  leaves = jax.tree.leaves(multihost.fetch(summary.state))
  with run_directory.whole(workdir / 'final.npz') as file:
    np.savez(file, *leaves)


def _pause(seconds):
  gather = pipeline.Batches._gather

  def slowly(*args):
    time.sleep(seconds)
    return gather(*args)

  pipeline.Batches._gather = slowly


if __name__ == '__main__':
  main()
