"""What the tables of measured programs share: lengths, memory, files."""

import time
from collections.abc import Callable
from typing import Any

import jax

from parallel_ar.analysis import timing
from parallel_ar.training import results

Numbers = dict[str, tuple[float | int, str]]


def compile_program(
  function: Callable, *args: Any
) -> tuple[Callable[[], Any], int]:
  """The function on the arguments as one program, and its temporary bytes."""
  compiled = jax.jit(function).lower(*args).compile()
  memory = compiled.memory_analysis()
  run = lambda: jax.block_until_ready(compiled(*args))
  return run, int(memory.temp_size_in_bytes) if memory else 0


def save(
  path: str | None,
  numbers: Numbers,
  config: dict[str, Any],
  started: float,
  rounds: timing.Rounds | None = None,
  *,
  seed: int = 0,
  **details: Any,
) -> None:
  """Writes a table's numbers to `path`, if there is one."""
  if not path:
    return
  if rounds is not None:
    seconds = {name: t.tolist() for name, t in rounds.seconds.items()}
    details['seconds'] = seconds
  results.save(
    path,
    results.result_json(
      numbers,
      config=config,
      seed=seed,
      wall_seconds=time.monotonic() - started,
      details=details,
    ),
  )
