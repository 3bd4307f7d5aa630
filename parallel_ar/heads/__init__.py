"""Families of conditionals: what the network's output means."""

from parallel_ar.head import Logits
from parallel_ar.heads.bernoulli import bernoulli
from parallel_ar.heads.categorical import categorical
from parallel_ar.heads.discretized_logistic import (
  Logistics,
  discretized_logistic,
)
from parallel_ar.heads.gaussian_mixture import Mixture, gaussian_mixture

__all__ = [
  'Logistics',
  'Logits',
  'Mixture',
  'bernoulli',
  'categorical',
  'discretized_logistic',
  'gaussian_mixture',
]
