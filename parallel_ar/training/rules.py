"""Rules of an update, by name: five with fields of their own, and all of optax.

A rule of optax is a function of `optax` or `optax.contrib` that takes a
learning rate (lion, muon, adafactor, lbfgs, schedule_free_adamw, ...) or wraps
another rule, by its name (`schedule_free` and `mechanize`, with
`options.base_optimizer`). It is called with the schedule of the section and
with `optimizer.options`, and tried on the shapes of two small arrays, so that
what cannot be used says so before a run begins.

What is trained and what is evaluated differ under schedule-free rules: the
state of a run then keeps their average, x of Defazio et al. 2024, where other
runs keep a moving average (`average`).
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict
from optax.contrib import ScheduleFreeState

from parallel_ar import resolve
from parallel_ar.types import Array, Params

HOUSE = ('adam', 'adamw', 'adagrad', 'adadelta', 'sgd')
_FREE = ('bias', 'scale', 'start')
_WRAPPED = 'base_optimizer'


@functools.cache
def of_optax() -> dict[str, Callable[..., Any]]:
  """name -> function of optax that makes a rule, but for those in HOUSE."""
  functions = vars(optax.contrib) | vars(optax)
  return {
    name: function
    for name, function in sorted(functions.items())
    if isinstance(function, FunctionType | functools.partial)
    and not name.startswith(('_', 'scale_by_'))
    and name not in HOUSE
    and {'learning_rate', _WRAPPED} & resolve.parameters(function).keys()
  }


def options(name: str) -> dict[str, Any]:
  """What `optimizer.options` may hold for a rule: names, of type Any."""
  if name in HOUSE:
    return {}
  taken = resolve.parameters(_found(name))
  rate = 'learning_rate' if not resolve.is_own(name) else next(iter(taken), '')
  return dict.fromkeys((o for o in taken if o != rate), Any)


def make(
  config: ConfigDict, rate: optax.Schedule, whole: bool = True
) -> optax.GradientTransformation:
  """The rule of a section, without clipping and coupled weight decay.

  Args:
    config: section `optimizer`, or that of a group.
    rate: its schedule.
    whole: whether it updates all parameters, and not those of a group; some
      rules evaluate the loss, which takes all.

  Returns:
    An optax transformation.

  Raises:
    ValueError: no such rule or option, or a rule that cannot be used here.
  """
  if config.name in HOUSE:
    return _house(config, rate)
  name, given = config.name, plain(config.options)
  if config.weight_decay:
    raise ValueError(
      f'config.optimizer.weight_decay = {config.weight_decay} is not read by '
      f'{name}: set config.optimizer.options.weight_decay, where it takes one.'
    )
  function = _found(name)
  if resolve.is_own(name):
    made = resolve.call(name, 'optimizer', function, rate, **given)
    how = 'optax.chain(...)'
    return resolve.returned(
      name, 'optimizer', made, optax.GradientTransformation, how
    )
  check_options(f'optax.{name}', function, given, 'options', {'learning_rate'})
  return _tried(config, function, rate, given, whole)


def check_options(
  name: str, function: Any, given: Any, field: str, filled: Any
) -> None:
  """Refuses options that a function of optax lacks, and says what it needs.

  Args:
    name: of the function.
    function: of optax.
    given: options by name.
    field: of the section, that they are given in.
    filled: names of arguments that the library gives.

  Raises:
    ValueError: names the option and the nearest argument.
  """
  taken = resolve.parameters(function)
  known = [argument for argument in taken if argument not in filled]
  where = f'config.optimizer.{field}'
  for option in given:
    if option not in taken:
      raise ValueError(
        f'{where}.{option}: {name} has no such argument.'
        f'{resolve.near(option, known)} It has {", ".join(known)}.'
      )
  for argument in known:
    if taken[argument].default is inspect.Parameter.empty:
      if argument not in given:
        raise ValueError(
          f'{name} needs {where}.{argument}, which has no default. It takes '
          f'{", ".join(known)}.'
        )


def refusal(name: str, error: Exception) -> ValueError:
  """What a function of optax raised, as one sentence."""
  return ValueError(
    f'{name} cannot be used so: {type(error).__name__}: {error}'
  )


def plain(value: Any) -> Any:
  """Options as optax takes them; a key of digits is a number of updates."""
  if isinstance(value, dict | ConfigDict):
    return {
      int(key) if str(key).isdigit() else key: plain(inner)
      for key, inner in value.items()
    }
  return [*map(plain, value)] if isinstance(value, list | tuple) else value


def adam_by_width(
  config: ConfigDict, rate: optax.Schedule, by_width: Mapping[str, float]
) -> optax.GradientTransformation:
  """Adam or AdamW whose rate is multiplied parameter by parameter.

  Weight decay keeps the rate of the schedule, as in the authors' package.

  Args:
    config: section `optimizer`, or that of a group.
    rate: its schedule.
    by_width: a parameter's path -> factor, see `mup.rates`.

  Raises:
    ValueError: another rule, whose factors would be others.
  """
  if config.name not in ('adam', 'adamw'):
    raise ValueError(
      f'config.optimizer.mup_base has rules for adam and adamw, and '
      f'config.optimizer.name = {config.name!r} needs others. Take one of the '
      'two, or leave mup_base empty.'
    )

  def scaled(updates: Params, params: Params | None = None) -> Params:
    del params
    return jax.tree_util.tree_map_with_path(
      lambda path, u: u * by_width[path_name(path)], updates
    )

  eps = {} if config.eps is None else {'eps': config.eps}
  parts = [optax.scale_by_adam(config.b1, config.b2, **eps)]
  parts.append(optax.stateless(scaled))
  if config.name == 'adamw':
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=decayed))
  return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def path_name(path: Any) -> str:
  """The path of a leaf, as 'block_0/att/qkv/kernel'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def update(
  rule: optax.GradientTransformation,
  grads: Params,
  opt_state: Any,
  params: Params,
  value: Array,
  loss: Callable[[Params], Array] | None,
) -> tuple[Params, Any]:
  """`rule.update`, with what some rules read beside the gradient.

  Args:
    rule: of the run.
    grads: gradient of the batch, leaves as those of the parameters.
    opt_state: of the rule.
    params: before the update.
    value: float[], nats, the loss of the batch.
    loss: params -> float[], the loss of the batch anew (line searches,
      curvature), or None where it cannot be had.

  Returns:
    (what is added to the parameters, the next state).
  """
  more = {}
  if loss is not None:
    # A line search hands on what it does not know, and asks who takes it.
    anew = lambda params, obj_fn=None: loss(params)
    more = {'value_fn': anew, 'obj_fn': loss}
  return optax.with_extra_args_support(rule).update(
    grads, opt_state, params, value=value, grad=grads, **more
  )


def average(opt_state: Any, params: Params) -> Params | None:
  """The parameters to evaluate, where the rule keeps others than it trains.

  x = (y - (1 - b1) z) / b1 of schedule-free rules, where y is trained.

  Args:
    opt_state: of the rule, which may hold one such state for each group.
    params: y, as they are trained.

  Returns:
    x, of the shapes and dtypes of `params`; None for other rules.
  """
  hidden = lambda node: isinstance(node, optax.MaskedNode)
  free = lambda node: isinstance(node, ScheduleFreeState)
  states = [s for s in jax.tree.leaves(opt_state, is_leaf=free) if free(s)]
  found = params
  for s in states:
    mine = jax.tree.map(
      lambda z, y: z if hidden(z) else y, s.z, params, is_leaf=hidden
    )
    mine = optax.contrib.schedule_free_eval_params(s, mine)
    found = jax.tree.map(
      lambda x, y: y if hidden(x) else x.astype(y.dtype),
      mine,
      found,
      is_leaf=hidden,
    )
  return found if states else None


def decayed(params: Params) -> Any:
  """Whether weight decay touches a leaf: a tree of bool.

  What is called bias, scale or start is free, by whatever axes, and so is a
  single row, which is added to all slots alike, unless it is called a kernel.
  """

  def one(path: Any, leaf: Any) -> bool:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    row = all(n == 1 for n in leaf.shape[:-1])
    return name == 'kernel' or not (row or name in _FREE)

  return jax.tree_util.tree_map_with_path(one, params)


def _found(name: str) -> Callable[..., Any]:
  known = of_optax() | dict.fromkeys(HOUSE)
  found: Callable[..., Any] = resolve.find(name, known, 'optimizer')
  return found


def _tried(
  config: ConfigDict,
  function: Callable[..., Any],
  rate: optax.Schedule,
  given: dict[str, Any],
  whole: bool,
) -> optax.GradientTransformation:
  """A rule of optax that was seen to update; some take a number as rate."""
  name, taken = f'optax.{config.name}', resolve.parameters(function)
  if 'key' in taken:
    given = {'key': 0} | given  # of noise: as every run has it
  constant = config.schedule == 'constant' and not config.warmup_steps

  def with_rate(rate: Any) -> optax.GradientTransformation:
    options = dict(given)
    if 'learning_rate' in taken:
      options['learning_rate'] = rate
    if isinstance(base := options.get(_WRAPPED), str):
      known = of_optax() | {n: getattr(optax, n) for n in HOUSE}
      base = resolve.find(base, known, _WRAPPED)
      options[_WRAPPED] = base(learning_rate=rate)
    rule: optax.GradientTransformation = function(**options)
    jax.eval_shape(functools.partial(_try, rule, whole))
    return rule

  try:
    return with_rate(rate)
  except Exception as error:
    first = error
  try:
    rule = with_rate(config.learning_rate)
  except Exception:
    raise refusal(name, first) from first
  if not constant:
    raise ValueError(
      f'{name} takes a number for its learning rate, and no schedule: set '
      "config.optimizer.schedule = 'constant' and warmup_steps = 0."
    )
  return rule


def _try(rule: optax.GradientTransformation, whole: bool) -> Any:
  """An update of two small arrays."""
  params = {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)}
  loss = lambda p: optax.tree.norm(p, squared=True)
  value, grads = jax.value_and_grad(loss)(params)
  anew = loss if whole else None
  added, _ = update(rule, grads, rule.init(params), params, value, anew)
  return optax.apply_updates(params, added)


def _house(
  config: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
  """The rules whose arguments are fields of the section."""
  if options := dict(config.options):
    raise ValueError(
      f'config.optimizer.options = {options} are arguments of the other rules; '
      f'{config.name} has fields of its own: set config.optimizer.b1 and so on.'
    )
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
  return optax.sgd(
    rate, momentum=config.momentum or None, nesterov=config.nesterov
  )
