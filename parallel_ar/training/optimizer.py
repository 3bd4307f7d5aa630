r"""Optimizers and learning-rate schedules from the `optimizer` section.

The update of every rule is

  g <- g * min(1, clip_norm / ||g||_2)          (clip_norm > 0)
  g <- g + weight_decay * p                     (every rule but adamw)
  p <- p - rate(t) * rule(g)                    (adamw adds weight_decay * p)

where weight decay touches what an input is multiplied with or looked up in:
kernels and tables. Biases and scales keep their freedom, whatever their shape.
`t` counts optimizer updates from 0; an update of accumulated micro-batches is
one update. `name` may be any rule of optax (see `rules`), `schedule` any
schedule of `optax.schedules`, each with options, and both
`my.module:function`, such as mine:rule(rate, **options) and
mine:schedule(peak, updates, **schedule_options), see `resolve`.

`groups` gives parameters fields of their own, by what is found in their path:

  groups = ('embed: learning_rate=1e-4', 'norm|bias: name=sgd, momentum=0.9',
            'block_0/: learning_rate=0')           # a rate of 0 freezes

Patterns are regular expressions, the first that matches counts, and the rest
have the fields of the section. The norm that clips is that of all parameters.
"""

import ast
import functools
import re
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from parallel_ar import resolve
from parallel_ar.training import rules

SCHEDULES = ('constant', 'cosine', 'linear', 'exponential')


# Fields that no group has for itself.
_OF_ALL = ('groups', 'options', 'schedule_options', 'mup_base', 'clip_norm')


def make(
  config: ConfigDict,
  *,
  steps: int,
  by_width: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
  """The gradient transformation of an `optimizer` section.

  Args:
    config: section `optimizer` of `configuration.default_config`.
    steps: updates of the whole run; the schedule's length where the section
      does not give one.
    by_width: a parameter's path -> factor of its rate, of `mup.rates`; needed
      where the section has a `mup_base`.

  Returns:
    An optax transformation; update it by `rules.update`.

  Raises:
    ValueError: the rule or the schedule is unknown, or takes no such options.
  """
  if config.mup_base and by_width is None:
    raise ValueError(
      'config.optimizer.mup_base is set, but what asks for this optimizer '
      'knows no widths. Train by experiments.train, or leave mup_base empty.'
    )
  clip = optax.clip_by_global_norm(config.clip_norm)
  parts = [clip] if config.clip_norm > 0 else []
  groups = [_group(config, text) for text in config.groups]
  section = functools.partial(_section, steps=steps, by_width=by_width)
  each = {}
  for (pattern, own), text in zip(groups, config.groups, strict=True):
    try:
      each[pattern] = optax.chain(*section(own, whole=False))
    except ValueError as error:
      raise ValueError(f'config.optimizer.groups, {text!r}: {error}') from error
  rest = section(config, whole=not groups)
  if not groups:
    return optax.chain(*parts, *rest)  # flat, as in the states of older runs
  each[''] = optax.chain(*rest)
  patterns = [pattern for pattern, _ in groups]
  label = lambda params: labels(params, patterns)
  return optax.chain(*parts, optax.multi_transform(each, label))


def labels(params: Any, patterns: list[str]) -> Any:
  """The first pattern found in the path of each leaf; '' for none.

  Args:
    params: a tree of arrays, whose paths are as in 'block_0/att/qkv/kernel'.
    patterns: regular expressions.

  Raises:
    ValueError: a pattern is found in no path, or only after others.
  """

  def one(path: Any, _: Any) -> str:
    name = rules.path_name(path)
    names.append(name)
    return next((p for p in patterns if re.search(p, name)), '')

  names: list[str] = []
  found = jax.tree_util.tree_map_with_path(one, params)
  if idle := set(patterns) - set(jax.tree.leaves(found)):
    raise ValueError(
      f'config.optimizer.groups: {min(idle)!r} is the group of no parameter. '
      f'Paths of this model are such as {", ".join(names[:4])}; the first '
      'pattern that matches counts.'
    )
  return found


def _group(config: ConfigDict, text: str) -> tuple[str, ConfigDict]:
  """'PATTERN: field=value, ...' as the pattern and its own section."""
  pattern, colon, fields = text.rpartition(':')
  if '=' not in fields:  # the colon of my.module:function
    pattern, colon, fields = text.partition(':')
  own = ConfigDict(config.to_dict() | {'groups': ()})
  try:
    re.compile(pattern)
    pairs = [field.split('=') for field in fields.split(',')]
    given = {name.strip(): value.strip() for name, value in pairs}
  except (re.error, ValueError):
    given = {}
  if not (colon and pattern.strip() and given):
    raise ValueError(
      f'config.optimizer.groups has {text!r}; expected a regular expression '
      "and fields, as in 'embed|norm: learning_rate=1e-4, weight_decay=0'."
    )
  for name, value in given.items():
    if name not in own or name in _OF_ALL:
      raise ValueError(
        f'config.optimizer.groups, {text!r}: a group has no field {name!r}.'
        f'{resolve.near(name, list(own))} It may have name, learning_rate, '
        'weight_decay, schedule, b1 and other fields of config.optimizer.'
      )
    own[name] = _value(text, name, value, own[name])
  if 'name' in given:
    own.options = {}
  if 'schedule' in given:
    own.schedule_options = {}
  return pattern.strip(), own


def _value(text: str, name: str, value: str, default: Any) -> Any:
  """The value of a field, of the type of its default."""
  if isinstance(default, str):
    return value
  kind = float if default is None else type(default)
  try:
    read = ast.literal_eval(value)
    if isinstance(read, bool) == (kind is bool) and read >= 0:
      return kind(read)
  except (ValueError, SyntaxError, TypeError):
    pass
  raise ValueError(
    f'config.optimizer.groups, {text!r}: {name}={value}; expected '
    f'{kind.__name__}, at least 0.'
  )


def _section(
  config: ConfigDict,
  *,
  steps: int,
  by_width: Mapping[str, float] | None,
  whole: bool,
) -> list[optax.GradientTransformation]:
  """The parts of the rule of the section, or of a group, without clipping."""
  rate = schedule(config, steps=steps)
  if config.mup_base and config.learning_rate:
    assert by_width is not None, 'checked by make'
    last = rules.adam_by_width(config, rate, by_width)
  else:
    last = rules.make(config, rate, whole)
  coupled = config.name in rules.HOUSE and config.name != 'adamw'
  if config.weight_decay > 0 and coupled:
    decay = optax.add_decayed_weights(config.weight_decay, mask=rules.decayed)
    return [decay, last]
  return [last]


def schedule(config: ConfigDict, *, steps: int) -> optax.Schedule:
  """rate(t): the learning rate of update t = 0, 1, ...

  With W = warmup_steps, L = decay_steps (0: the rest of the run, steps - W),
  u = t - W and e = end_factor, in units of the peak `learning_rate`:

    warm-up       (t + 1) / W                        t < W
    constant      1
    cosine        e + (1 - e) (1 + cos(pi min(u / L, 1))) / 2
    linear        1 - (1 - e) min(u / L, 1)
    exponential   decay_rate^(u / L)

  A schedule of `optax.schedules` has the peak as `peak_value`, `value` or
  `init_value`, L as `decay_steps` or `transition_steps`, and e as `end_value`
  or `alpha`; one with a warm-up of its own has W, and starts it at 0.
  `schedule_options` has its other arguments, or others for these; each of the
  periods of sgdr_schedule, `cosine_kwargs`, may leave them out as well.

  Args:
    config: section `optimizer`.
    steps: updates of the whole run.

  Returns:
    A function from int32[] to float32[].

  Raises:
    ValueError: the schedule is unknown.
  """
  peak = config.learning_rate
  warmup = config.warmup_steps
  length = config.decay_steps or max(1, steps - warmup)
  match config.schedule:
    case 'constant':
      body = optax.constant_schedule(peak)
    case 'cosine':
      body = optax.cosine_decay_schedule(peak, length, config.end_factor)
    case 'linear':
      body = optax.linear_schedule(peak, peak * config.end_factor, length)
    case 'exponential':
      body = optax.exponential_decay(peak, length, config.decay_rate)
    case name if resolve.is_own(name):
      make = resolve.find(name, {}, 'schedule')
      options = rules.plain(config.schedule_options)
      body = resolve.call(name, 'schedule', make, peak, length, **options)
      if not callable(body):
        raise ValueError(
          f'The schedule {name} must return a function of the update, t -> '
          f'rate, as optax.cosine_decay_schedule does; it gives {body!r}.'
        )
    case _:
      body, rises = _schedule_of_optax(config, length)
      warmup = 0 if rises else warmup
  if not warmup:
    return body
  rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
  return optax.join_schedules([rise, body], [warmup])


def depends_on_steps(config: Mapping[str, Any]) -> bool:
  """Whether the rates of a section change with the length of the run."""
  if config['schedule'] == 'constant' or config['decay_steps']:
    return False
  if (found := schedules_of_optax().get(config['schedule'])) is None:
    return True
  open_ = resolve.parameters(found).keys() - config['schedule_options'].keys()
  return not open_.isdisjoint(_LENGTHS)


_LENGTHS = ('decay_steps', 'transition_steps')


@functools.cache
def schedules_of_optax() -> dict[str, Callable[..., optax.Schedule]]:
  """name -> function of `optax.schedules` that makes a schedule."""
  return {
    name: function
    for name, function in sorted(vars(optax.schedules).items())
    if isinstance(function, FunctionType)
    and name.endswith(('_schedule', '_decay'))
  }


def schedule_names() -> list[str]:
  """Of SCHEDULES and of optax."""
  return [*SCHEDULES, *schedules_of_optax()]


def schedule_options(name: str) -> dict[str, Any]:
  """What `optimizer.schedule_options` may hold: names, of type Any."""
  if name in SCHEDULES:
    return {}
  taken = resolve.parameters(_named_schedule(name))
  first = 2 if resolve.is_own(name) else 0  # peak and updates
  return dict.fromkeys(list(taken)[first:], Any)


def _named_schedule(name: str) -> Any:
  known = schedules_of_optax() | dict.fromkeys(SCHEDULES)
  return resolve.find(name, known, 'schedule')


def _schedule_of_optax(
  config: ConfigDict, length: int
) -> tuple[optax.Schedule, bool]:
  """A schedule by its name, and whether its warm-up is its own."""
  make, given = _named_schedule(config.schedule), config.schedule_options
  taken = resolve.parameters(make)
  rises = 'warmup_steps' in taken
  rates = [n for n in ('peak_value', 'value', 'init_value') if n in taken]
  ours: dict[str, Any] = {
    **dict.fromkeys(rates, 0.0),  # a start below a peak
    **dict.fromkeys(rates[:1], config.learning_rate),
    'warmup_steps': config.warmup_steps,
    'decay_steps': length + rises * config.warmup_steps,  # of optax: in all
    'transition_steps': length,
    'decay_rate': config.decay_rate,
  }
  end = taken.get('end_value')
  if config.end_factor or (end and end.default is end.empty):
    ours['end_value'] = config.learning_rate * config.end_factor
    ours['alpha'] = config.end_factor
  ours = {name: value for name, value in ours.items() if name in taken}
  name = f'optax.{config.schedule}'
  rules.check_options(name, make, given, 'schedule_options', ours)
  given = rules.plain(given)
  try:
    if 'cosine_kwargs' in given:
      given['cosine_kwargs'] = _periods(config, given['cosine_kwargs'], length)
    found = make(**(ours | given))
  except Exception as error:
    raise rules.refusal(name, error) from error
  for peak in {p['peak_value'] for p in given.get('cosine_kwargs', ())}:
    if peak > config.learning_rate:
      raise ValueError(
        f'config.optimizer.schedule_options.cosine_kwargs has a peak_value of '
        f'{peak}, above the learning_rate {config.learning_rate}, which is the '
        'peak of every schedule. Leave peak_value out, or raise learning_rate.'
      )
  return found, rises


def _periods(
  config: ConfigDict, given: list[dict[str, Any]], length: int
) -> list[dict[str, Any]]:
  """Those of sgdr_schedule: what one leaves out is as the section has it."""
  warmup = config.warmup_steps
  ours = {
    'init_value': 0.0,
    'peak_value': config.learning_rate,
    'warmup_steps': warmup,
    'decay_steps': length + warmup,
    'end_value': config.learning_rate * config.end_factor,
  }
  return [ours | period for period in given]
