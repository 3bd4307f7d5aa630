"""One walk for all domains: control flow, calls and constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.program import walk


class Numbers(walk.Domain):
  """Numbers themselves: a walk computes what JAX computes."""

  laid_out = 1000
  deepest = 0

  def constant(self, number):
    return jnp.asarray(number)

  def operation(self, eqn, operands):
    self.deepest = max(self.deepest, len(self.calls))
    params = eqn.primitive.get_bind_params(eqn.params)
    out = eqn.primitive.bind(*operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]

  def number(self, v):
    return int(v)

  def item(self, eqn, series, n):
    return series[n]

  def stack(self, eqn, var, items):
    return jnp.stack(items) if items else jnp.zeros(var.aval.shape)


class Steps(walk.Domain):
  """The longest chain of operations; a loop of any length counts one turn."""

  rules = {'sin': lambda eqn, operands: [operands[0] + 1]}

  def constant(self, number):
    return 0

  def unknown(self, eqn, operands):
    return [max(operands, default=0)] * len(eqn.outvars)

  def join(self, eqn, operands, branches):
    assert operands[0] == 0
    return [max(each) for each in zip(*(b() for b in branches), strict=True)]

  def settle(self, loop):
    assert loop.operands == [*loop.fixed, *loop.carry, *loop.series]
    items = loop.series
    limited = lambda v, w: (min(max(v, w), 9), min(max(v, w), 9) == v)
    carry, rest = walk.fixed_point(loop, items, limited)
    return [*carry, *rest] if loop.length is not None else carry


def scans(x):
  step = lambda h, v: (jnp.sin(h) + v, (h, v * 2))
  out = jax.lax.scan(step, x[0], x)
  back = jax.lax.scan(lambda h, v: (h * v + 1, h), x[1], x, reverse=True)
  nothing = jax.lax.scan(lambda h, v: (h, h * v), x[2], x[:0])
  only = jax.lax.scan(lambda h, v: (v, h), x[2], x)
  return out, back, nothing, only


def whiles(x):
  bound = x.sum()
  far = jax.lax.while_loop(lambda c: c[0] < bound, lambda c: c + x[0], x)
  return far, jax.lax.fori_loop(0, 3, lambda n, c: c * x + n, x)


def branches(x):
  which = jnp.int32(x[0] * 100)
  each = [lambda y: y + 1, jnp.cumsum, lambda y: y[::-1]]
  return (
    jax.lax.switch(which, each, x),
    jax.lax.switch(-which, each, x),
    jax.lax.cond(x[1] > x[2], jnp.sin, jnp.cos, x),
  )


def calls(x):
  inner = jax.jit(lambda y: jax.checkpoint(jnp.sin)(y) * jnp.arange(3.0))
  grad = jax.grad(lambda y: jax.nn.relu(inner(y)).sum())(x)
  barrier = jax.lax.optimization_barrier((grad, inner(x)))
  grid = jax.lax.broadcasted_iota(jnp.int32, (2, 3, 4), 1)
  return *barrier, grid, np.eye(3, dtype=np.float32) @ x, jax.nn.softmax(x)


@pytest.mark.parametrize('fn', [scans, whiles, branches, calls])
def test_a_walk_over_numbers_is_the_program(fn):
  x = jnp.asarray([0.7, 1.5, 1.2])
  program, shape = jax.make_jaxpr(fn, return_shape=True)(x)
  domain = Numbers()
  got = jax.tree.unflatten(
    jax.tree.structure(shape), walk.run(program, domain, [x])
  )
  want = fn(x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want
  )
  assert not domain.calls and (domain.deepest == 2) == (fn is calls)


def test_a_domain_says_what_an_open_branch_and_a_loop_are():
  def of(fn):
    return walk.run(jax.make_jaxpr(fn)(0.1), Steps(), [0])

  sin = jnp.sin
  assert of(lambda x: sin(sin(x)) + x) == [2]
  assert of(lambda x: jax.lax.cond(x > 0, lambda: sin(x), lambda: x)) == [1]
  forever = lambda x: jax.lax.while_loop(lambda c: c < 1, sin, x)
  assert of(forever) == [9]  # what a domain bounds comes to rest
  fixed = lambda x: jax.lax.scan(lambda c, _: (c, sin(x)), x, None, 5)
  assert of(fixed) == [0, 1]
  assert of(lambda x: sin(jax.lax.fori_loop(0, 7, lambda n, c: c, x))) == [1]


def test_a_primitive_without_a_rule_is_named():
  class Nothing(walk.Domain):
    pass

  program = jax.make_jaxpr(jnp.sin)(0.1)
  with pytest.raises(NotImplementedError, match='Nothing has no rule for sin'):
    walk.run(program, Nothing(), [0])
