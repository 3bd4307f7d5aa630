r"""Optimizers and learning-rate schedules from the `optimizer` section.

The update of every rule is

  g <- g * min(1, clip_norm / ||g||_2)          (clip_norm > 0)
  g <- g + weight_decay * p                     (every rule but adamw)
  p <- p - rate(t) * rule(g)                    (adamw adds weight_decay * p)

where weight decay touches what an input is multiplied with or looked up in:
kernels and tables. Biases and scales keep their freedom, whatever their shape.
`t` counts optimizer updates from 0; an update of accumulated micro-batches is
one update. `name` and `schedule` may also be `my.module:function`, such as
mine:rule(rate, **options) and mine:schedule(peak, updates), see `resolve`.

`groups` gives parameters fields of their own, by what is found in their path:

  groups = ('embed: learning_rate=1e-4', 'norm|bias: name=sgd, momentum=0.9',
            'block_0/: learning_rate=0')           # a rate of 0 freezes

Patterns are regular expressions, the first that matches counts, and the rest
have the fields of the section. The norm that clips is that of all parameters.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

import jax
import optax
import optax.contrib
from ml_collections import ConfigDict

from parallel_ar import resolve

RULES = ('adam', 'adamw', 'adagrad', 'adadelta', 'sgd')
# Of optax, by its names: called with the schedule and `options`. Rules whose
# parameters to evaluate are not those that are trained are not among them.
OPTAX = (
  *('adabelief', 'adafactor', 'adamax', 'adamaxw', 'adan', 'amsgrad', 'lamb'),
  *('lars', 'lion', 'nadam', 'nadamw', 'novograd', 'radam', 'rmsprop', 'yogi'),
  *('sign_sgd', 'muon', 'adopt', 'acprop', 'ademamix', 'cocob', 'dadapt_adamw'),
  *('dog', 'dowg', 'fromage', 'galore', 'optimistic_gradient_descent'),
  *('prodigy', 'simplified_ademamix'),
)
_FREE = ('bias', 'scale', 'start')
SCHEDULES = ('constant', 'cosine', 'linear', 'exponential')


def make(config: ConfigDict, *, steps: int) -> optax.GradientTransformation:
  """The gradient transformation of an `optimizer` section.

  Args:
    config: section `optimizer` of `configuration.default_config`.
    steps: updates of the whole run; the schedule's length where the section
      does not give one.

  Returns:
    An optax transformation.

  Raises:
    ValueError: the rule or the schedule is unknown, or takes no such options.
  """
  clip = optax.clip_by_global_norm(config.clip_norm)
  parts = [clip] if config.clip_norm > 0 else []
  groups = [_group(config, text) for text in config.groups]
  rules = {}
  for (pattern, own), text in zip(groups, config.groups, strict=True):
    try:
      rules[pattern] = optax.chain(*_section(own, steps))
    except ValueError as error:
      raise ValueError(f'config.optimizer.groups, {text!r}: {error}') from error
  rest = _section(config, steps)
  if not groups:
    return optax.chain(*parts, *rest)  # flat, as in the states of older runs
  rules[''] = optax.chain(*rest)
  patterns = [pattern for pattern, _ in groups]
  label = lambda params: labels(params, patterns)
  return optax.chain(*parts, optax.multi_transform(rules, label))


def labels(params: Any, patterns: list[str]) -> Any:
  """The first pattern found in the path of each leaf; '' for none.

  Args:
    params: a tree of arrays, whose paths are as in 'block_0/att/qkv/kernel'.
    patterns: regular expressions.

  Raises:
    ValueError: a pattern is found in no path, or only after others.
  """

  def one(path: Any, _: Any) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
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
    if name not in own or name in ('groups', 'options', 'clip_norm'):
      raise ValueError(
        f'config.optimizer.groups, {text!r}: a group has no field {name!r}.'
        f'{resolve.near(name, list(own))} It may have name, learning_rate, '
        'weight_decay, schedule, b1 and other fields of config.optimizer.'
      )
    own[name] = _value(text, name, value, own[name])
  if 'name' in given:
    own.options = {}
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
  config: ConfigDict, steps: int
) -> list[optax.GradientTransformation]:
  """The parts of the rule of the section, or of a group, without clipping."""
  parts = []
  rate = schedule(config, steps=steps)
  if config.name not in RULES:
    return [_other_rule(config, rate)]
  if options := dict(config.options):
    raise ValueError(
      f'config.optimizer.options = {options} are arguments of the other rules; '
      f'{config.name} has fields of its own: set config.optimizer.b1 and so on.'
    )
  if config.weight_decay > 0 and config.name != 'adamw':
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=decayed))
  return [*parts, _rule(config, rate)]


def schedule(config: ConfigDict, *, steps: int) -> optax.Schedule:
  """rate(t): the learning rate of update t = 0, 1, ...

  With W = warmup_steps, L = decay_steps (0: the rest of the run, steps - W),
  u = t - W and e = end_factor, in units of the peak `learning_rate`:

    warm-up       (t + 1) / W                        t < W
    constant      1
    cosine        e + (1 - e) (1 + cos(pi min(u / L, 1))) / 2
    linear        1 - (1 - e) min(u / L, 1)
    exponential   decay_rate^(u / L)

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
    case name:
      make = resolve.find(name, dict.fromkeys(SCHEDULES), 'schedule')
      body = resolve.call(name, 'schedule', make, peak, length)
      if not callable(body):
        raise ValueError(
          f'The schedule {name} must return a function of the update, t -> '
          f'rate, as optax.cosine_decay_schedule does; it gives {body!r}.'
        )
  if not warmup:
    return body
  rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
  return optax.join_schedules([rise, body], [warmup])


def depends_on_steps(config: Mapping[str, Any]) -> bool:
  """Whether the rates of a section change with the length of the run."""
  return config['schedule'] != 'constant' and not config['decay_steps']


def _rule(
  config: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
  """The update rule itself, without clipping and coupled decay."""
  eps = {} if config.eps is None else {'eps': config.eps}
  match config.name:
    case 'adam':
      return optax.adam(rate, b1=config.b1, b2=config.b2, **eps)
    case 'adamw':
      return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=decayed,
        **eps,
      )
    case 'adagrad':
      # p -= rate * g / sqrt(sum g^2 + eps), as in the authors' code of MADE:
      # the sum starts at zero there, where optax's default is 0.1.
      return optax.adagrad(
        rate,
        initial_accumulator_value=config.initial_accumulator,
        **({'eps': 1e-6} | eps),
      )
    case 'adadelta':
      return optax.adadelta(rate, rho=config.rho, **eps)
    case 'sgd':
      return optax.sgd(
        rate, momentum=config.momentum or None, nesterov=config.nesterov
      )
    case name:
      raise AssertionError(name)


def _other_rule(
  config: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
  """A rule of optax or of one's own, which takes no fields but `options`."""
  name, options = config.name, dict(config.options)
  if config.weight_decay:
    raise ValueError(
      f'config.optimizer.weight_decay = {config.weight_decay} is not read by '
      f'{name}: set config.optimizer.options.weight_decay, where it takes one.'
    )
  known = {
    n: getattr(optax, n, None) or getattr(optax.contrib, n) for n in OPTAX
  }
  make = resolve.find(name, known | dict.fromkeys(RULES), 'optimizer')
  if not resolve.is_own(name):
    taken = resolve.parameters(make)
    if wrong := [option for option in options if option not in taken]:
      raise ValueError(
        f'config.optimizer.options.{wrong[0]}: optax.{name} has no such '
        f'argument.{resolve.near(wrong[0], taken)} It has {", ".join(taken)}.'
      )
  found = resolve.call(name, 'optimizer', make, rate, **options)
  kind, how = optax.GradientTransformation, 'optax.chain(...)'
  return resolve.returned(name, 'optimizer', found, kind, how)


def decayed(params: Any) -> Any:
  """Whether weight decay touches a leaf: a tree of bool.

  What is called bias, scale or start is free, by whatever axes, and so is a
  single row, which is added to all slots alike, unless it is called a kernel.
  """

  def one(path: Any, leaf: Any) -> bool:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    row = all(n == 1 for n in leaf.shape[:-1])
    return name == 'kernel' or not (row or name in _FREE)

  return jax.tree_util.tree_map_with_path(one, params)
