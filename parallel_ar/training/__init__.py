"""Training: a pure step, and the loop that runs it, saves it and resumes it.

configuration  every field of a config, and its checks
state, step    what a step carries, and the step
optimizer      optimizers and schedules of a config
loop           the run of one process
evaluate       the likelihood of a whole split
trained        the parameters of a finished or running run
checkpoint, metrics, pictures, run_directory   the files of a run
results        the record behind a printed number
"""

from typing import TYPE_CHECKING

from parallel_ar import lazily

if not TYPE_CHECKING:
  __getattr__ = lazily.modules_of(__name__)
