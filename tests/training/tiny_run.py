"""A run small enough to be killed: `python tiny_run.py WORKDIR STEPS`.

Leaves the final state in WORKDIR/final.npz.
"""

import pathlib
import sys

import jax
import numpy as np

from parallel_ar.training import configuration, loop


def config(steps):
  """MADE on a small lattice, with everything that a checkpoint must carry."""
  config = configuration.default_config()
  config.data.update(name='lattice', height=4, width=3, num_examples=96)
  config.model.update(
    name='made', event=(4, 3, 1), hidden=(8,), num_masks=2, degrees='even'
  )
  config.optimizer.update(name='adam', schedule='cosine', warmup_steps=5)
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
  workdir, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  summary = loop.train(config(steps), workdir, progress=False)
  leaves = jax.tree.leaves(summary.state)
  np.savez(workdir / 'final.npz', *[np.asarray(leaf) for leaf in leaves])


if __name__ == '__main__':
  main()
