"""Families of conditionals: what the network's output means."""

from parallel_ar.heads.bernoulli import bernoulli
from parallel_ar.heads.categorical import categorical

__all__ = ['bernoulli', 'categorical']
