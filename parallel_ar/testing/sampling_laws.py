"""Law 5: same key, same integers, whatever the sampler, batch or device."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from parallel_ar import samplers
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.samplers import Sample, Sampler, forecasters
from parallel_ar.testing import case as cases
from parallel_ar.testing import likelihood_laws, oracles
from parallel_ar.testing.case import Case, LawBroken
from parallel_ar.types import ArrayLike

SamplerFactory = Callable[..., Sampler]  # (model, forecaster) -> Sampler


def same_integers(
  case: Case, sampler: SamplerFactory = samplers.fixed_point
) -> str:
  """Law 5. Same key, same integers.

  The sampler is started from several forecasts, the right answer and one that
  is wrong everywhere among them. It returns the integers of `ancestral` (bit
  for bit: one program), in at most R passes (one from the right answer), with
  the exact log p(x), and says of every position when it became final. The
  oracle's host loop finds the same integers.

  Args:
    case: the case.
    sampler: called as `samplers.fixed_point`.

  Returns:
    What was measured.
  """
  model, law = case.model, 'Law 5, same integers'
  want = samplers.ancestral(model)(case.params, case.keys, case.context)
  passes = {}
  for name, start in _forecasts(case, want.x).items():
    guess = forecasters.guess(lambda *_, start=start: start)
    got = sampler(model, guess)(case.params, case.keys, case.context)
    what = f'{getattr(sampler, "__name__", "sampler")} from {name}'
    if not np.array_equal(got.x, want.x):
      raise LawBroken(
        f'{law}. {case.name}: {cases.difference(what, got.x, want.x)}'
      )
    check_cost(case, law, what, got)
    passes[name] = np.asarray(got.info.passes)
    nats = np.asarray(
      likelihood_laws.log_prob(model, case.params, got.x, case.context)
    )
    scale = np.abs(nats).max() + model.num_positions
    if not np.abs(nats - got.log_prob).max() <= case.tolerance * scale:
      raise LawBroken(
        f'{law}. {case.name}: {what} says log p(x) = {got.log_prob}, but the '
        f'model gives {nats}.'
      )
  if not (passes['the right answer'] == 1).all():
    raise LawBroken(
      f'{law}. {case.name}: the right answer is proved by one pass, but it '
      f'took {passes["the right answer"]}.'
    )
  drawn = oracles.sample(model, case.params, case.keys, case.context)
  ties = cases.agree(case, law, 'the host-loop oracle', want.x, drawn)
  most = {name: int(p.max()) for name, p in passes.items()}
  return f'equal in at most {most} of {model.depth} passes{cases.count(ties)}'


def alone(case: Case, sampler: SamplerFactory = samplers.fixed_point) -> str:
  """Law 5 for a batch of 1: an example is what its key gives, at its own cost.

  Args:
    case: the case.
    sampler: called as `samplers.fixed_point`.

  Returns:
    What was measured.
  """
  model, law, ties = case.model, 'Law 5, alone', 0
  whole = sampler(model)(case.params, case.keys, case.context)
  want, passes = np.asarray(whole.x), np.asarray(whole.info.passes)
  for b in range(len(case.keys)):
    one = slice(b, b + 1)
    context = jax.tree.map(lambda c, one=one: c[one], case.context)
    got = sampler(model)(case.params, case.keys[one], context)
    ties += cases.agree(case, law, 'batch 1', want[one], got.x, b)
    if np.array_equal(got.x[0], want[b]) and got.info.passes[0] != passes[b]:
      raise LawBroken(
        f'{law}. {case.name}: example {b} took {got.info.passes[0]} passes '
        f'alone, but {passes[b]} in a batch: others delayed it.'
      )
  return f'{len(want)} examples are those of their keys{cases.count(ties)}'


def completion(
  case: Case, sampler: SamplerFactory = samplers.fixed_point
) -> str:
  """Law 5 where positions are given.

  A prefix of the sample itself is completed to the same sample; with positions
  given at random (in-painting) the sampler equals `ancestral` and the host
  loop, and keeps what is given; with everything given the event is returned
  with its likelihood.
  """
  model, law = case.model, 'Law 5, completion'
  ancestral, other = samplers.ancestral(model), sampler(model)
  args = case.params, case.keys, case.context
  own = np.asarray(ancestral(*args).x)
  shape = (len(case.keys), *model.rank.shape)
  prefix = np.broadcast_to(model.rank < model.depth // 2, shape)
  holes = np.random.default_rng(1).random(shape) < 0.5
  values = {'a prefix': (own, prefix), 'random positions': (case.x, holes)}
  ties = 0
  for name, (x, known) in values.items():
    want = np.asarray(ancestral(*args, x=x, known=known).x)
    got = other(*args, x=x, known=known)
    if not np.array_equal(got.x, want):
      what = cases.difference(f'given {name}, the sampler', got.x, want)
      raise LawBroken(f'{law}. {case.name}: {what}')
    if (want != x)[known].any():
      raise LawBroken(
        f'{law}. {case.name}: given {name}, values that were given changed.'
      )
    drawn = oracles.sample(model, *args, x=x, known=known)
    ties += cases.agree(case, law, f'the oracle, given {name},', want, drawn)
    if x is own and not np.array_equal(want, own):
      what = cases.difference('completion of its own prefix', want, own)
      raise LawBroken(f'{law}. {case.name}: {what}')
  _everything_given(case, law, other)
  return f'prefix, in-painting and everything given{cases.count(ties)}'


def _everything_given(case: Case, law: str, sampler: Sampler) -> None:
  known = np.ones((len(case.keys), *case.model.rank.shape), bool)
  args = case.params, case.keys, case.context
  got = sampler(*args, x=case.x, known=known)
  nats = likelihood_laws.log_prob(case.model, case.params, case.x, case.context)
  scale = np.abs(nats).max() + case.model.num_positions
  error = np.abs(got.log_prob - nats).max()
  if (got.x != case.x).any() or not error <= case.tolerance * scale:
    raise LawBroken(
      f'{law}. {case.name}: with every position given, the event or its '
      f'likelihood changed (log p(x) is {got.log_prob}, should be {nats}).'
    )


def eight_devices(
  case: Case, sampler: SamplerFactory = samplers.fixed_point
) -> str:
  """Law 5 on several devices: the batch spread over 8 of them.

  16 keys are spread over the axes `data` and `fsdp` of a mesh, and the
  parameters over `fsdp`; each sample is that of its key alone on one device.

  Raises:
    ValueError: fewer than 8 devices.
  """
  model, law = case.model, 'Law 5, eight devices'
  if jax.device_count() < 8:
    raise ValueError(
      f'This law needs 8 devices; there are {jax.device_count()}. Virtual ones '
      'will do: XLA_FLAGS=--xla_force_host_platform_device_count=8, set before '
      'jax is imported.'
    )
  num = 16
  index = np.arange(num) % len(case.keys)
  context = jax.tree.map(lambda c: np.asarray(c)[index], case.context)
  wide = dataclasses.replace(
    case,
    keys=jax.random.split(case.keys[0], num),
    context=context,
    x=case.x[index],
  )
  with jax.set_mesh(mesh_lib.make({'data': 2, 'fsdp': 4})):
    mesh = jax.sharding.get_mesh()
    places = sharding.param_shardings(case.params, model.name, mesh)
    params = jax.device_put(case.params, places)
    keys, context = mesh_lib.place((wide.keys, wide.context))
    got = np.asarray(sampler(model)(params, keys, context).x)
  ties = 0
  for b in range(num):
    one = slice(b, b + 1)
    alone = sampler(model)(
      case.params,
      wide.keys[one],
      jax.tree.map(lambda c, one=one: c[one], wide.context),
    )
    ties += cases.agree(wide, law, '8 devices', alone.x, got[one], b)
  return f'{num} samples on 8 devices are those of one{cases.count(ties)}'


def _forecasts(case: Case, answer: ArrayLike) -> dict[str, np.ndarray]:
  """First guesses: array[B, *event] each."""
  answer = np.asarray(answer)
  num_values = case.model.head.num_values
  if num_values is None:
    wrong = answer + np.asarray(1e3, answer.dtype)
  else:
    wrong = (answer + 1) % num_values
  return {
    'zeros': np.zeros_like(answer),
    'random events': case.x,
    'the right answer': answer,
    'a guess that is wrong everywhere': wrong,
  }


def check_cost(case: Case, law: str, what: str, got: Sample) -> None:
  """Passes within the bound, and every position accepted once."""
  depth, size = case.model.depth, case.model.num_positions
  passes, accepted = np.asarray(got.info.passes), np.asarray(got.info.accepted)
  if passes.min() < 1 or passes.max() > depth:
    raise LawBroken(
      f'{law}. {case.name}: {what} took {passes} passes; the bound is the '
      f'depth, {depth}.'
    )
  if int(got.info.evaluations) != passes.max():
    raise LawBroken(
      f'{law}. {case.name}: {what} reports {got.info.evaluations} evaluations '
      f'for {passes} passes; expected their maximum.'
    )
  after = np.arange(depth)[None] >= passes[:, None]
  if (accepted.sum(1) != size).any() or accepted[after].any():
    raise LawBroken(
      f'{law}. {case.name}: {what} accepted {accepted.tolist()} positions in '
      f'{passes} passes; expected {size} for each example, all of them before '
      'it was final.'
    )
