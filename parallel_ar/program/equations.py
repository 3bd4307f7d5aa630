"""How the equation of a call, a loop or a branch is read, whatever JAX made it.

Its parameters have had other names and other places; this is the one module
that knows them.
"""

from typing import Any, NamedTuple

import jax

_BODY = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
# What is run as it stands. The others with a body (a kernel, a sharded program)
# see their operands in parts.
_CALLS = frozenset(
  'checkpoint closed_call core_call custom_jvp_call custom_vjp_call '
  'custom_vjp_call_jaxpr jit pjit remat remat2'.split()
)


class Scan(NamedTuple):
  """A loop with a known number of steps.

  Attributes:
    body: program of one step, with its constants:
      (fixed, carry, items) -> (carry, results).
    length: steps.
    fixed: how many operands are the same at every step; they come first.
    carried: how many operands, and results, are handed on; they come next.
    reverse: whether the last item comes first.
  """

  body: Any
  length: int
  fixed: int
  carried: int
  reverse: bool


class While(NamedTuple):
  """A loop that ends when its test says so.

  Attributes:
    test: program of the test, (of_test, state) -> bool.
    body: program of one turn, (of_body, state) -> state.
    of_test: how many operands only the test reads; they come first.
    of_body: how many operands only the body reads; they come next.
  """

  test: Any
  body: Any
  of_test: int
  of_body: int


def scan(eqn: Any) -> Scan:
  """Reads a `scan`; since JAX 0.12 its operands are told apart by a tree."""
  p = eqn.params
  if 'num_consts' in p:
    fixed, carried = p['num_consts'], p['num_carry']
  else:
    parts = p['ft_in'].update(list(range(len(eqn.invars)))).unpack()
    fixed, carried, _ = (len(list(part)) for part in parts)
  return Scan(p['jaxpr'], p['length'], fixed, carried, p['reverse'])


def loop(eqn: Any) -> While:
  """Reads a `while`."""
  p = eqn.params
  return While(
    p['cond_jaxpr'], p['body_jaxpr'], p['cond_nconsts'], p['body_nconsts']
  )


def branches(eqn: Any) -> tuple[Any, ...]:
  """The programs that a `cond` or `switch` chooses from."""
  return tuple(eqn.params['branches'])


def body(eqn: Any) -> Any:
  """The program that an equation holds; None of one that holds none."""
  return next((eqn.params[p] for p in _BODY if p in eqn.params), None)


def called(eqn: Any) -> Any:
  """The program that a call runs as it stands; None of what is no call."""
  if eqn.primitive.name == 'call_hi_primitive':
    return _expanded(eqn)
  return body(eqn) if eqn.primitive.name in _CALLS else None


def _expanded(eqn: Any) -> Any:
  """What JAX 0.12 compiles of an operation that it keeps whole in a trace.

  So are searchsorted, ldexp, frexp, nonzero and the names of checkpoints.
  """
  specs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
  run = lambda *a: eqn.primitive.to_lojax(*a, **eqn.params)
  return jax.make_jaxpr(run)(*specs)


def opened(jaxpr: Any) -> Any:
  """The program without its constants; as it is where it has none."""
  return getattr(jaxpr, 'jaxpr', jaxpr)
