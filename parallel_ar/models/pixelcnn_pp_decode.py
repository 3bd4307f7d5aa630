"""Decoding a PixelCNN++ row by row, pixel by pixel, at several resolutions.

The stream u of a row knows the rows above, and is computed when the row begins.
A pixel costs one window of two pixels in every convolution of the stream w; a
level that is 2^l times coarser is at work in every 2^l-th row only, and there
in every 2^l-th column. In between its last output stands.

References:
  Ramachandran et al.: Fast generation for convolutional autoregressive models.
  ICLR workshop 2017 (caches of a PixelCNN++).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.decode import Blocks, Decode, from_blocks
from parallel_ar.layers.gated import Shifted
from parallel_ar.models import pixels
from parallel_ar.models.lines import Line, at_column, left_of
from parallel_ar.types import Array, Context, Dist, Params


class _Level(NamedTuple):
  """A level at a row of its own.

  Attributes:
    above: what the convolutions of u read in the row above, down and up.
    kept: u on the way down.
    us: u on the way up.
    links: to the convolutions of w, down and up.
    out: w of the newest row that is whole.
  """

  above: tuple
  kept: tuple
  us: tuple
  links: tuple
  out: Array


class _Rows(NamedTuple):
  """The whole network at a row.

  Attributes:
    last: the two rows of the image above, float[2, W, N].
    link: to the first layer of w.
    levels: from fine to coarse.
  """

  last: Array
  link: Array
  levels: tuple[_Level, ...]


class _Down:
  """Runs the convolutions of u on one row, after what they read above."""

  def __init__(self, above: tuple):
    self.inputs: list[Array] = []
    self._above = iter(above)

  def __call__(self, convolution: Shifted, y: Array) -> Array:
    self.inputs.append(y)
    return convolution.over(jnp.concatenate([next(self._above), y]))


def decode(module: Any) -> Decode:
  """The decode path of a `PixelCNNPP`; slot k is pixel k.

  Args:
    module: the network.

  Returns:
    The path.
  """
  height, width, channels = module.event
  padded = width + -width % 2 ** (module.resolutions - 1)
  net = _Network(module)

  def encode(x: Array) -> Array:
    return pixels.encode(x.reshape(1, -1, channels), module.num_values)

  def row_of(x: Array) -> Array:
    return jnp.pad(encode(x), ((0, 0), (0, padded - width), (0, 0)))

  def in_slots(params: Params, w: Array) -> Dist:
    dist = net.call(lambda m: m.dist(w), params)
    return jax.tree.map(lambda d: d[0], dist)

  def init(params: Params, context: Context) -> Any:
    rows = net.no_rows(padded)
    zeros = jnp.zeros((1, padded, module.features), module.dtype)
    # Above the first row stands nothing: links are those of zeros.
    _, levels = net.finish(params, 0, rows.levels, zeros, 0, context, False)
    return rows._replace(levels=levels), context

  def begin(params: Params, cache: Any, b: Any, previous: Any) -> Any:
    rows, context = cache
    last = jnp.where(b > 0, row_of(previous), 0)

    def finish(rows: _Rows) -> tuple:
      w = net.first(params, rows.link, left_of(last))
      return net.finish(params, 0, rows.levels, w, b - 1, context)[1]

    levels = jax.lax.cond(b > 0, finish, lambda rows: rows.levels, rows)
    both = jnp.concatenate([rows.last[1:], last])
    u, link = net.call(_first_row, params, both)
    levels = net.advance(params, 0, levels, u, b, context)
    return (_Rows(both, link, levels), context), (levels, link, b, context)

  def conditionals(params: Params, given: Any, x: Any) -> Dist:
    levels, link, b, context = given
    w = net.first(params, link, left_of(row_of(x)))
    out, _ = net.finish(params, 0, levels, w, b, context)
    return in_slots(params, out[:, :width])

  def start(params: Params, given: Any) -> Any:
    return net.no_pixels()

  def extend(
    params: Params, given: Any, inner: Any, j: Any, previous: Any
  ) -> Any:
    levels, link, b, context = given
    before = jnp.where(j > 0, encode(previous), 0)
    w = net.first(params, at_column(link, j), before)
    at = b, jnp.asarray(j)
    w, inner = net.pixel(params, 0, levels, inner, w, at, context)
    return jax.tree.map(lambda d: d[0], in_slots(params, w)), inner

  blocks = Blocks(width, init, begin, conditionals, start, extend)
  value = pixels.value(module.event, module.num_mixtures)
  return from_blocks(blocks, value, height * width)


class _Network:
  """The levels of a network, on rows and pixels."""

  def __init__(self, module: Any):
    self.module = module

  def call(self, function: Any, params: Params, *args: Any) -> Any:
    return self.module.apply({'params': params}, *args, method=function)

  def first(self, params: Params, link: Array, before: Array) -> Array:
    """w of the first layer, of the image one pixel to the left."""
    return link + self.call(lambda m: m.first_left.at(before), params)

  def coarsest(self, l: int) -> bool:
    return l == self.module.resolutions - 1

  def widths(self, l: int) -> tuple[list[int], list[int]]:
    """Features that the convolutions of a stream read, down and up."""
    n, layers = self.module.features, self.module.layers
    if self.coarsest(l):
      return [2 * n] * (2 * layers), [2 * n] * (2 * layers)
    return [2 * n] * (2 * layers) + [n], [n] + [2 * n] * (2 * layers + 2)

  def no_rows(self, width: int) -> _Rows:
    """Shapes and zeros."""
    n, dtype, levels = self.module.features, self.module.dtype, []
    for l in range(self.module.resolutions):
      row = lambda f, l=l: jnp.zeros((1, width >> l, f), dtype)
      down, up = self.widths(l)
      gates = lambda count: [n, 2 * n] * count
      links = gates(len(down) // 2), gates(len(up) // 2)
      if not self.coarsest(l):
        links = [*links[0], n], [n, *links[1]]
      levels.append(
        _Level(
          above=tuple(tuple(row(f) for f in each) for each in (down, up)),
          kept=(row(n),) * (self.module.layers + 1),
          us=(row(n),) * (len(up) // 2),
          links=tuple(tuple(row(f) for f in each) for each in links),
          out=row(n),
        )
      )
    image = jnp.zeros((2, width, self.module.event[2] + 1))
    return _Rows(image, jnp.zeros((1, width, n), dtype), tuple(levels))

  def no_pixels(self) -> tuple:
    """Of each level: what stands to the left, down and up, and its last w."""
    pixel = lambda f: jnp.zeros((1, 1, f), self.module.dtype)
    each = [self.widths(l) for l in range(self.module.resolutions)]
    last = pixel(self.module.features)
    return tuple(
      (*(tuple(pixel(f) for f in part) for part in both), last) for both in each
    )

  def finish(
    self,
    params: Params,
    l: int,
    levels: tuple,
    w: Array,
    row: Any,
    context: Context,
    exists: Any = True,
  ) -> tuple[Array, tuple]:
    """w of a whole row of level l, and the levels with links to the next."""
    own = levels[0]

    def down(module: Any) -> Any:
      line = Line(own.links[0])
      kept, small = module.levels[l].w_down(w, own.kept, context, line)
      return kept, small, line.below(exists)

    kept, small, first = self.call(down, params)
    inner, rest = None, levels[1:]
    if not self.coarsest(l):
      go_on = lambda: self.finish(
        params, l + 1, rest, small[:, ::2], row // 2, context, exists
      )
      stay = lambda: (rest[0].out, rest)
      inner, rest = jax.lax.cond(row % 2 == 0, go_on, stay)
      inner = jnp.repeat(inner, 2, 1)

    def up(module: Any) -> Any:
      line = Line(own.links[1])
      w = module.levels[l].w_up(kept, inner, own.us, context, line)
      return w, line.below(exists)

    w, second = self.call(up, params)
    return w, (own._replace(links=(first, second), out=w), *rest)

  def advance(
    self,
    params: Params,
    l: int,
    levels: tuple,
    u: Array,
    row: Any,
    context: Context,
  ) -> tuple:
    """The levels from l on with u of a new row."""
    own, rest = levels[0], levels[1:]

    def down(module: Any) -> Any:
      run = _Down(own.above[0])
      kept, small = module.levels[l].u_down(u, context, run)
      return kept, small, tuple(run.inputs)

    kept, small, first = self.call(down, params)
    inner = None
    if not self.coarsest(l):
      go_on = lambda: self.advance(
        params, l + 1, rest, small[:, ::2], row // 2, context
      )
      rest = jax.lax.cond(row % 2 == 0, go_on, lambda: rest)
      inner = jnp.repeat(rest[0].us[-1], 2, 1)

    def up(module: Any) -> Any:
      run = _Down(own.above[1])
      us = module.levels[l].u_up(kept, inner, context, run)
      return us, tuple(run.inputs)

    us, second = self.call(up, params)
    return (own._replace(above=(first, second), kept=kept, us=us), *rest)

  def pixel(
    self,
    params: Params,
    l: int,
    levels: tuple,
    inner: tuple,
    w: Array,
    at: tuple[Any, Any],
    context: Context,
  ) -> tuple[Array, tuple]:
    """w of one pixel of level l, and what stands to the left of the next."""
    (row, column), (left_down, left_up, _) = at, inner[0]
    kept_u, us, links = at_column(
      (levels[0].kept, levels[0].us, levels[0].links), column
    )

    def down(module: Any) -> Any:
      line = Line(links[0], left_down)
      kept, small = module.levels[l].w_down(w, kept_u, context, line)
      return kept, small, line.pushed(left_down)

    kept, small, left_down = self.call(down, params)
    coarse, rest = None, inner[1:]
    if not self.coarsest(l):
      half = row // 2, column // 2

      def stay() -> tuple[Array, tuple]:
        above = at_column(levels[1].out, half[1])
        return jnp.where(row % 2 == 0, rest[0][-1], above), rest

      go_on = lambda: self.pixel(
        params, l + 1, levels[1:], rest, small, half, context
      )
      both = (row % 2 == 0) & (column % 2 == 0)
      coarse, rest = jax.lax.cond(both, go_on, stay)

    def up(module: Any) -> Any:
      line = Line(links[1], left_up)
      w = module.levels[l].w_up(kept, coarse, us, context, line)
      return w, line.pushed(left_up)

    w, left_up = self.call(up, params)
    return w, ((left_down, left_up, w), *rest)


def _first_row(module: Any, last: Array) -> tuple[Array, Array]:
  """u and the link to w of the first layers, of the two rows above."""
  u = module.first_u.over(last)
  return u, module.first_w.over(last[1:]) + module.first_left.above(last[1:])
