"""Trains on TPU slices of a GKE cluster, through xpk.

  ./run.sh launch/gke --cluster=mine --zone=us-west4-a --tpu_type=v5litepod-16 \
      --image=IMAGE_OF_THIS_REPOSITORY --dry_run \
      --run='train --config=configs/digits_made.py --workdir=/share/runs/made'

xpk makes a JobSet: one pod a host, restarted together up to --max_restarts
times, but only where a container ended with code 42 or 127 and above: what a
signal ended, and no error of the command. A pod that Kubernetes evicts gets
SIGTERM, which xpk's script passes on to the command; so that is one `exec`, and
the run itself hears it, saves within --grace seconds and ends with code 42. The
working directory lies in a bucket, gs://..., or on a volume that every pod
mounts, such as Filestore (`xpk storage`).
"""

import hashlib
import re
import secrets
import shlex

from absl import flags

from experiments import entry
from experiments.launch import command

_CLUSTER = flags.DEFINE_string('cluster', None, 'Name of the cluster.')
_ZONE = flags.DEFINE_string('zone', None, 'Its zone.')
_PROJECT = flags.DEFINE_string('project', None, 'Google Cloud project.')
_TPU = flags.DEFINE_string('tpu_type', None, 'Slice, such as v5litepod-16.')
_SLICES = flags.DEFINE_integer('num_slices', 1, 'Slices.', lower_bound=1)
_IMAGE = flags.DEFINE_string('image', None, 'Image with this repository.')
_REPOSITORY = flags.DEFINE_string(
  'repository', '/parallel_ar', 'This repository in the image.'
)
_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 100, 'Starts after the first.', lower_bound=0
)
_GRACE = flags.DEFINE_integer(
  'grace', 300, 'Seconds between SIGTERM and the end of a pod.', lower_bound=1
)
_WORKLOAD = flags.DEFINE_string(
  'workload',
  None,
  'What the name of the workload is made of, in place of that of --workdir.',
)

_LONGEST = 40  # of a workload; its pods' names go on
RESTARTED = 42  # of the codes that xpk's manifest restarts, the one below 127


def main() -> None:
  """Runs the script."""
  for flag in (_CLUSTER, _ZONE, _TPU, _IMAGE):
    entry.require(flag)
  run = command.experiment(
    '--platform=tpu',
    f'--stop_code={RESTARTED}',
    # Images are pulled at different times, and a missing pod is no restart.
    '--wait_seconds=1800',
  )
  token = f'{command.TOKEN}={secrets.token_hex(16)}'
  training = (
    f'cd {shlex.quote(_REPOSITORY.value)} && '
    f'exec env {token} ./run.sh {shlex.join(run)}'
  )
  name = _name(_WORKLOAD.value or command.workdir().name)
  words = ['xpk', 'workload', 'create', f'--workload={name}']
  words += [f'--cluster={_CLUSTER.value}', f'--zone={_ZONE.value}']
  if _PROJECT.value:
    words.append(f'--project={_PROJECT.value}')
  words += [
    f'--tpu-type={_TPU.value}',
    f'--num-slices={_SLICES.value}',
    f'--docker-image={_IMAGE.value}',
    f'--max-restarts={_RESTARTS.value}',
    f'--termination-grace-period-seconds={_GRACE.value}',
    f'--command={training}',
  ]
  command.do(words)


def _name(text: str) -> str:
  """What Kubernetes takes for a name: a-z, 0-9 and -, a letter first."""
  name = re.sub('[^a-z0-9]+', '-', text.lower()).strip('-')
  if not name[:1].isalpha():
    name = f'run-{name}'.rstrip('-')
  if len(name) > _LONGEST:  # the rest tells it from others
    name = f'{name[:30]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'
  return name


if __name__ == '__main__':
  entry.run(main)
