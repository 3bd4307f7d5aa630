"""Families of conditionals: what the network's output means."""

from parallel_ar.heads.bernoulli import bernoulli
from parallel_ar.heads.categorical import categorical
from parallel_ar.heads.gaussian_mixture import gaussian_mixture

__all__ = ['bernoulli', 'categorical', 'gaussian_mixture']
