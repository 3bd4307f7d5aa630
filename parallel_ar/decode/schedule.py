"""When each entry of each array of the pass can be, and must be, computed.

  ready(e) = 1 + the last step whose value e may read         (forwards)
  due(e)   = min over the entries that read e of their due    (backwards)

where the conditionals of step k are due at k and the value of step k is ready
at k + 1. So due is monotone along every edge by construction, and
ready(e) <= due(e) for every entry that an output needs, if and only if the pass
is causal as far as it can be seen. Entries that are due at step k are computed
at step k, as late as possible.

With blocks (rows of an image) time is counted in half steps: step k is at
2 k + 1, and what a whole row can have computed before its first slot b W is due
at 2 b W. An array is moved there if all its entries that are due in a row are
ready when the row begins.
"""

import dataclasses
from typing import Any

import numpy as np

from parallel_ar.decode import facts as known
from parallel_ar.decode import rules
from parallel_ar.decode.facts import NEVER, UNKNOWN, Facts
from parallel_ar.program import trace
from parallel_ar.program.trace import Array, Op

_UNROLLED = 4_000  # operations of a loop that is laid out


class NotCausal(Exception):
  """An output seems to read what is not known yet."""


class Readiness:
  """The program of a pass with what is ready when.

  Attributes:
    ops: operations, loops laid out where that shows more.
    outputs: arrays of the program.
    once: operations that read no value; they are run once.
    vague: operations without a rule that read values; run in full.
    times: of the values, int32 that broadcasts to the input: 1 + its step.
  """

  def __init__(
    self,
    program: trace.Program,
    x: Array,
    times: np.ndarray,
    recurrences: bool = True,
  ):
    """Runs forwards.

    Args:
      program: the pass.
      x: the input whose entries are ready at `times`.
      times: int32, broadcast to it.
      recurrences: takes a scan over items for a recurrence, in which a turn
        reads its item as a whole; else it is laid out.
    """
    self.x, self.times, self._recurrences = x, times, recurrences
    self.ops: list[Op] = []
    self.once: list[Op] = []
    self.vague: set[Op] = set()
    self._facts: dict[Array, Facts] = {x: Facts(times)}
    self._alias: dict[Array, Array] = {}
    self._makers: dict[Array, Op] | None = None
    for op in program.ops:
      self._run(op)
    self.outputs = [self._real(v) for v in program.outputs]

  def maker(self, v: Array) -> Op | None:
    """The operation that makes an array."""
    if self._makers is None:
      every = (*self.once, *self.ops)
      self._makers = {v: op for op in every for v in op.outputs}
    return self._makers.get(v)

  def facts(self, v: Array) -> Facts:
    """What is known of an array."""
    if v not in self._facts:
      self._facts[v] = (
        Facts() if v.value is None else known.of_constant(v.value)
      )
    return self._facts[v]

  def _real(self, v: Array) -> Array:
    while v in self._alias:
      v = self._alias[v]
    return v

  def _run(self, op: Op) -> None:
    op = dataclasses.replace(op, inputs=tuple(self._real(v) for v in op.inputs))
    ins = [self.facts(v) for v in op.inputs]
    loop = op.name in ('scan', 'while')
    if loop and any(f.ready is not None for f in ins):
      one = self._recurrences and op.name == 'scan'
      if one and rules.loops.is_recurrence(op, ins):
        self._recurrence(rules.loops.with_states(op), ins)
        return
      self._inline(op, trace.unrolled(op, _UNROLLED))
      return
    if op.name == 'cond' and any(f.ready is not None for f in ins):
      self._inline(op, trace.branched(op))
      return
    rule = rules.RULES.get(op.name)
    if all(f.ready is None for f in ins):
      self._once(op, ins, rule)
      return
    try:
      if rule is None:
        raise rules.NoRule
      found = rule.ready(op, ins)
    except rules.NoRule:
      self._unknown(op)
      return
    if any(f.unknown and not any(i.unknown for i in ins) for f in found):
      self.vague.add(op)
    self._facts.update(zip(op.outputs, found, strict=True))
    self.ops.append(op)

  def _once(self, op: Op, ins: list[Facts], rule: Any) -> None:
    """No value is read: what stays known is zeros and masks."""
    found = [Facts() for _ in op.outputs]
    if rule is not None and any(
      f.zero is not None or f.low is not None or f.true is not None for f in ins
    ):
      try:
        found = [
          dataclasses.replace(f, ready=None) for f in rule.ready(op, ins)
        ]
      except Exception:  # fewer facts are known: nothing is lost but speed
        pass
    self._facts.update(zip(op.outputs, found, strict=False))
    self.once.append(op)

  def _inline(self, op: Op, found: tuple[list[Op], list[Array]] | None) -> None:
    """Operations in place of one, where there are any."""
    if found is None:
      self._unknown(op)
      return
    ops, outputs = found
    for inner in ops:
      self._run(inner)
    self._alias.update(zip(op.outputs, outputs, strict=True))

  def _recurrence(self, op: Op, ins: list[Facts]) -> None:
    """A scan over values; what a turn makes of the state alone comes first."""
    found = rules.RULES['scan'].ready(op, ins)
    self._facts.update(zip(op.outputs, found, strict=True))
    self.ops.append(op)
    ops, instead = rules.loops.of_states(op)
    for inner in ops:
      self._run(inner)
    self._alias.update(instead)

  def _unknown(self, op: Op) -> None:
    self.vague.add(op)
    for v in op.outputs:
      ready = np.full([1] * len(v.shape), UNKNOWN, np.int32)
      self._facts[v] = Facts(ready)
    self.ops.append(op)


class Schedule:
  """Due times.

  Attributes:
    block: slots of a block, or 0.
    full: operations that every step runs on whole arrays.
    items: due times of the iterations of recurrences.
  """

  def __init__(self, ready: Readiness, due: list[np.ndarray], block: int = 0):
    """Runs backwards.

    Args:
      ready: the program.
      due: int32 of each output, broadcast to it: the step it is due at.
      block: slots of a block; 0 for none.

    Raises:
      NotCausal: a value is due before it is known.
    """
    self.ready, self.block = ready, block
    self._at = (lambda k: 2 * k + 1) if block else (lambda k: k)
    self.full: set[Op] = set()
    self.items: dict[Op, np.ndarray] = {}
    self._due: dict[Array, np.ndarray] = {}
    self._whole: set[Array] = set()
    for v, d in zip(ready.outputs, due, strict=True):
      self._need(v, self._at(d).astype(np.int32))
    for op in reversed(ready.ops):
      self._back(op)
    at = self.of(ready.x)
    if at is not None and (at <= self._at(ready.times - 1)).any():
      raise NotCausal

  def of(self, v: Array) -> Any:
    """Due times of an array; None where nothing needs it."""
    return self._due.get(v)

  def _need(self, v: Array, due: np.ndarray) -> None:
    if v.value is not None or self.ready.facts(v).ready is None:
      return
    old = self._due.get(v)
    if old is None:
      self._due[v] = due
    elif old is not due:
      if self.ready.facts(v).unknown and (old != due).any():
        self._whole.add(v)
      self._due[v] = np.minimum(old, due)

  def _back(self, op: Op) -> None:
    dues = [self.of(v) for v in op.outputs]
    if all(d is None or d.min(initial=NEVER) >= NEVER for d in dues):
      return
    if op in self.ready.vague or any(v in self._whole for v in op.outputs):
      self._in_full(op)
      return
    if self.block:
      dues = [self._moved(v) for v in op.outputs]
    rule = rules.RULES[op.name]
    ins = [self.ready.facts(v) for v in op.inputs]
    outs = [self.ready.facts(v) for v in op.outputs]
    try:
      found = rule.due(op, ins, outs, dues)
    except rules.NoRule:
      self._in_full(op)
      return
    if op.name == 'scan':
      self.items[op] = rules.loops.items_due(op, dues)
      for v, due in rules.loops.state_due(op, self.items[op]):
        self._due[v] = due
    if rules.sums.goes_on(op):  # so all entries before one that is due are due
      self._due[op.outputs[0]] = found[0]
    for n, (v, due) in enumerate(zip(op.inputs, found, strict=True)):
      if due is not None:
        if self.ready.facts(v).unknown:
          last = rule.due(op, ins, outs, [_turned(d) for d in dues])[n]
          # What is not known to stay must not be read at a later step.
          if (_turned(last) != due).any():
            self._whole.add(v)
        self._need(v, due)

  def _in_full(self, op: Op) -> None:
    """Every step runs it, so its operands are due as soon as they are ready."""
    self.full.add(op)
    for v in op.inputs:
      f = self.ready.facts(v)
      if f.ready is None:
        continue
      if f.unknown:
        self._whole.add(v)
        self._need(v, np.zeros([1] * len(v.shape), np.int32))
      else:
        self._need(v, self._at(f.ready).astype(np.int32))

  def _moved(self, v: Array) -> Any:
    """Due when its block begins, where all of it is ready by then."""
    due = self.of(v)
    if due is None:
      return None
    ready = self.ready.facts(v).ready
    if ready is None:
      ready = np.zeros((), np.int32)
    begins = due // (2 * self.block) * self.block
    needed = due < NEVER
    if (~needed | (ready <= begins)).all():
      due = np.where(needed, 2 * begins, NEVER).astype(np.int32)
      self._due[v] = due
    return due


def _turned(due: Any) -> Any:
  """Due times in reverse: their minimum is the maximum of those before."""
  return due if due is None else np.where(due < NEVER, NEVER - 1 - due, NEVER)
