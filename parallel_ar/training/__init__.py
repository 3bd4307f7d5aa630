"""Training: a pure step, and the loop that runs it, saves it and resumes it.

configuration  every field of a config, and its checks
state, step    what a step carries, and the step
optimizer      optimizers and schedules of a config
rules, mup     update rules by name; rates and scales by the width
loop           the run of one process
evaluate       the likelihood of a whole split
trained        the parameters of a finished or running run
checkpoint, metrics, pictures, run_directory   the files of a run
results        the record behind a printed number
"""

from typing import TYPE_CHECKING

from parallel_ar import lazily

if TYPE_CHECKING:
  from parallel_ar.training import boards as boards
  from parallel_ar.training import bucket as bucket
  from parallel_ar.training import checkpoint as checkpoint
  from parallel_ar.training import checkpoint_bucket as checkpoint_bucket
  from parallel_ar.training import checkpoint_faults as checkpoint_faults
  from parallel_ar.training import checkpoint_meta as checkpoint_meta
  from parallel_ar.training import checkpoint_store as checkpoint_store
  from parallel_ar.training import checksum as checksum
  from parallel_ar.training import configuration as configuration
  from parallel_ar.training import datasets as datasets
  from parallel_ar.training import disk as disk
  from parallel_ar.training import evaluate as evaluate
  from parallel_ar.training import gradient as gradient
  from parallel_ar.training import identity as identity
  from parallel_ar.training import interrupt as interrupt
  from parallel_ar.training import loop as loop
  from parallel_ar.training import metrics as metrics
  from parallel_ar.training import mup as mup
  from parallel_ar.training import optimizer as optimizer
  from parallel_ar.training import outcome as outcome
  from parallel_ar.training import own_code as own_code
  from parallel_ar.training import owner as owner
  from parallel_ar.training import pace as pace
  from parallel_ar.training import packing as packing
  from parallel_ar.training import params_file as params_file
  from parallel_ar.training import pictures as pictures
  from parallel_ar.training import profile as profile
  from parallel_ar.training import results as results
  from parallel_ar.training import rules as rules
  from parallel_ar.training import run_directory as run_directory
  from parallel_ar.training import selection as selection
  from parallel_ar.training import spikes as spikes
  from parallel_ar.training import start as start
  from parallel_ar.training import state as state
  from parallel_ar.training import step as step
  from parallel_ar.training import trained as trained
  from parallel_ar.training import whole as whole
else:
  __getattr__ = lazily.modules_of(__name__)
