"""Configs by the name of their file, and training that leaves no files."""

import importlib.util
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from parallel_ar import models
from parallel_ar.data import dataset, pipeline
from parallel_ar.training import (
  configuration,
  evaluate,
  optimizer,
  state,
  step,
)


def read(path: str, *arguments: str) -> ConfigDict:
  """The config of a file, a copy for each call.

  Args:
    path: of the file.
    *arguments: of its `get_config`; a config flag has one behind a colon.

  Raises:
    ValueError: there is no such file.
  """
  if not pathlib.Path(path).is_file():
    raise ValueError(
      f'There is no config file {path}. The configs of this project are in '
      'configs/; paths are relative to the repository.'
    )
  spec = importlib.util.spec_from_file_location('config', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config: ConfigDict = module.get_config(*arguments)
  return config


class Fit:
  """Training of one config in memory; compiled once for all data sets."""

  def __init__(self, config: ConfigDict, steps: int, rank: Any = None):
    """Builds the model.

    Args:
      config: of a run of one model.
      steps: updates, the length of its schedule.
      rank: int[E], instead of the config's order.
    """
    configuration.validate(config)
    self.config, self.steps = config, steps
    (self.model,) = models.build(config.model, rank)
    self.rule = optimizer.make(config.optimizer, steps=steps)
    update = step.make_train_step(
      [self.model],
      self.rule,
      schedule=optimizer.schedule(config.optimizer, steps=steps),
      seed=config.seed,
    )
    self.update = jax.jit(update, donate_argnums=0)
    self.log_prob = evaluate.make_log_prob([self.model])

  @property
  def parameters(self) -> int:
    """Their number."""
    shapes = jax.eval_shape(self.model.init, jax.random.key(0))
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(shapes))

  def nats(self, params: Any, data: dataset.Dataset) -> np.ndarray:
    """-log p of every example, float64[N]."""
    size = self.config.evaluate.batch_size
    return evaluate.evaluate(
      [self.model], params, data, size, log_prob=self.log_prob
    ).per_example

  def train(
    self, train: dataset.Dataset, valid: dataset.Dataset, every: int
  ) -> Any:
    """The parameters that are best on the validation examples.

    Args:
      train: what is learnt.
      valid: what chooses, every `every` updates and at the end.
      every: updates between two looks at `valid`.
    """
    key = jax.random.key(self.config.seed)
    now = state.create(self.model, self.rule, key)
    size = min(self.config.train.batch_size, len(train))
    data = pipeline.batches(train, size, self.config.seed).starting_at(0)
    best, least = None, np.inf
    for at in range(1, self.steps + 1):
      now, _ = self.update(now, next(data))
      if at % every and at != self.steps:
        continue
      nats = float(self.nats(now.params, valid).mean())
      if best is None or nats < least:
        best, least = jax.tree.map(np.asarray, now.params), nats
    return best
