"""A process of `exact_laws_test`: computes passes that another one wrote.

  python -m tests.exact_elsewhere DIR HOW

HOW is `as it is`, or what is changed: who carries the products, or where the
arrays are. Prints for every model how many integers differ, as JSON.
"""

import json
import os
import pathlib
import sys

HOW = sys.argv[2]
if HOW == 'one core':  # before XLA asks how many there are
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from parallel_ar.exact import carriers, load, of_program  # noqa: E402
from tests.conformance import cases  # noqa: E402


def main():
  if HOW == 'int32':
    carriers.choose = lambda *_: 'int32'
  if HOW == 'float64':
    assert jax.config.jax_enable_x64
    for kind in ('float32', 'int8', 'int32'):
      highest = carriers._KINDS['float32'][1]
      carriers._KINDS[kind] = jnp.float64, highest, jnp.float64
  directory = pathlib.Path(sys.argv[1])
  print(json.dumps({p.stem: different(p) for p in directory.glob('*.npz')}))


def different(file):
  like = cases.CASES[file.stem]()
  platform = HOW if HOW in ('gpu', 'tpu') else None
  found = of_program(load(file), like, platform)
  with np.load(file.with_suffix('.integers')) as arrays:
    x, want, *leaves = (arrays[name] for name in arrays.files)
  context = jax.tree.unflatten(jax.tree.structure(like.context), leaves)
  args = found.params, jnp.asarray(x), context
  if HOW == 'mesh':
    args = spread(*args)
  of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, 0)))
  return int((np.asarray(of(*args)) != want).sum())


def spread(params, x, context):
  """Events over an axis of four devices, parameters over one of two."""
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=auto)
  place = lambda a, *spec: jax.device_put(
    a, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  )
  cut = lambda a: [n for n, size in enumerate(a.shape) if size % 2 == 0][-1:]
  axes = lambda a: ['tensor' if n in cut(a) else None for n in range(a.ndim)]
  params = jax.tree.map(lambda a: place(a, *axes(a)), params)
  assert any(not a.sharding.is_fully_replicated for a in params.values())
  return (
    params,
    place(x, 'data'),
    jax.tree.map(lambda a: place(a, 'data'), context),
  )


if __name__ == '__main__':
  main()
