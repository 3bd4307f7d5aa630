"""Several processes and devices: who is there, and what lies where."""

from typing import TYPE_CHECKING

from parallel_ar import lazily

if TYPE_CHECKING:
  from parallel_ar.distributed import hardware as hardware
  from parallel_ar.distributed import mesh as mesh
  from parallel_ar.distributed import multihost as multihost
  from parallel_ar.distributed import places as places
  from parallel_ar.distributed import roll_call as roll_call
  from parallel_ar.distributed import sharding as sharding
  from parallel_ar.distributed import topology as topology
else:
  __getattr__ = lazily.modules_of(__name__)
