"""Flags of scripts that lower a run to whole numbers: examples, updates."""

from typing import Any

from absl import flags

from parallel_ar.data.dataset import Dataset
from parallel_ar.training import trained, whole
from parallel_ar.types import Params

flags.disclaim_key_flags()  # they are of the script that makes `Flags`


class Flags:
  """Defines the flags; once they are parsed, what they ask for."""

  def __init__(self) -> None:
    """Defines them."""
    default = whole.Updates._field_defaults
    self._data_dir = flags.DEFINE_string(
      'data_dir', None, 'Directory of the data files; ./data without it.'
    )
    self._examples = flags.DEFINE_integer(
      'examples', 64, 'Examples of which ranges are taken.', lower_bound=1
    )
    self._test = flags.DEFINE_integer(
      'num_test', 0, 'Examples that are tested; 0 for all.', lower_bound=0
    )
    self._steps = flags.DEFINE_integer(
      'steps', 0, 'Updates on the grids before; 0 for none.', lower_bound=0
    )
    self._rate: Any = flags.DEFINE_float(
      'rate',
      default['rate'],
      "Peak of their learning rate, in parts of the run's.",
      lower_bound=0,
    )
    self._ema: Any = flags.DEFINE_float(
      'ema_decay',
      default['ema_decay'],
      'Of the moving average over the updates; 0 for none.',
      lower_bound=0,
      upper_bound=0.999999,
    )
    self._targets: Any = flags.DEFINE_enum(
      'targets',
      default['targets'],
      ['model', 'data'],
      "What they fit: the run's own probabilities, or its training data.",
    )

  @property
  def updates(self) -> whole.Updates:
    """The updates on the grids, of which there may be none."""
    return whole.Updates(
      self._steps.value,
      self._rate.value,
      self._ema.value,
      self._targets.value,
    )

  def shown(self, run: trained.Trained) -> whole.Examples:
    """The validation examples that ranges are taken from."""
    return whole.examples(run, self._examples.value, self._data_dir.value)

  def tested(self, run: trained.Trained) -> Dataset:
    """The test examples."""
    data = run.load_split('test', self._data_dir.value)
    return whole.first(data, self._test.value or len(data))

  def tuned(
    self,
    run: trained.Trained,
    shown: whole.Examples,
    *,
    weight_bits: int,
    activation_bits: int,
  ) -> Params:
    """The parameters after the updates on grids of so many bits."""
    return whole.tune(
      run,
      shown,
      self.updates,
      weight_bits=weight_bits,
      activation_bits=activation_bits,
      data_dir=self._data_dir.value,
    )
