"""Training: pure steps, and the loop that runs, saves and resumes them."""

from parallel_ar.training.configuration import default_config
from parallel_ar.training.evaluate import Evaluation, evaluate
from parallel_ar.training.loop import NonFiniteLoss, Summary, train

__all__ = [
  'Evaluation',
  'NonFiniteLoss',
  'Summary',
  'default_config',
  'evaluate',
  'train',
]
