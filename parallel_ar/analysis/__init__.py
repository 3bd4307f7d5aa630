"""Measurements of models: causality, cost and time."""

from typing import TYPE_CHECKING

from parallel_ar import lazily

if TYPE_CHECKING:
  from parallel_ar.analysis import budget as budget
  from parallel_ar.analysis import causality as causality
  from parallel_ar.analysis import collectives as collectives
  from parallel_ar.analysis import complexity as complexity
  from parallel_ar.analysis import coordinates as coordinates
  from parallel_ar.analysis import coupling as coupling
  from parallel_ar.analysis import explain as explain
  from parallel_ar.analysis import gradient_noise as gradient_noise
  from parallel_ar.analysis import infill as infill
  from parallel_ar.analysis import influence as influence
  from parallel_ar.analysis import optimum as optimum
  from parallel_ar.analysis import perturb as perturb
  from parallel_ar.analysis import plan as plan
  from parallel_ar.analysis import programs as programs
  from parallel_ar.analysis import receptive as receptive
  from parallel_ar.analysis import static as static
  from parallel_ar.analysis import timing as timing
else:
  __getattr__ = lazily.modules_of(__name__)
