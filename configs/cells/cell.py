"""What a cell of a paper table is, and the parts of its fields."""

from typing import Any, NamedTuple

Fields = dict[str, Any]


class Cell(NamedTuple):
  """One run of a table.

  Attributes:
    row: what the table calls it.
    published: the model of third_party/published/TABLE.csv that it repeats, or
      '' where none has been published.
    minutes: of the run on two CPU cores that do nothing else.
    fields: what differs from `default_config`, or from the base, as
      'section.field': value; a 'model.name' here replaces the base's model but
      for its event, values and contexts.
    base: the config of configs/ to start from, if any.
  """

  row: str
  published: str
  minutes: float
  fields: Fields
  base: str = ''


def schedule(batch: int, steps: int, evals: int, **more: Any) -> Fields:
  """Steps, with so many validations and checkpoints; the best is kept."""
  every = steps // evals
  fields = {
    'train.batch_size': batch,
    'train.steps': steps,
    'train.eval_every': every,
    'train.checkpoint_every': every,
    'train.keep_best': True,
    'evaluate.batch_size': 500,
  }
  return fields | {f'train.{name}': value for name, value in more.items()}


def optimizer(name: str, rate: float, schedule: str, **more: Any) -> Fields:
  """The `optimizer` section."""
  fields = {'name': name, 'learning_rate': rate, 'schedule': schedule} | more
  return {f'optimizer.{name}': value for name, value in fields.items()}


def model(name: str, **more: Any) -> Fields:
  """The `model` section."""
  return {f'model.{field}': v for field, v in ({'name': name} | more).items()}


def independent(dims: int) -> Fields:
  """All positions share a rank, and so nothing is read."""
  return model('made', hidden=(), order='blocks', order_block=dims)
