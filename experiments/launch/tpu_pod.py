"""Trains on all workers of a TPU VM pod, and starts again until it is done.

  ./run.sh launch/tpu_pod --name=pod --zone=us-west4-a --dry_run \
      --accelerator_type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot \
      --run='train --config=configs/digits_made.py --workdir=/share/runs/made'

The training lives on the workers, not in a shell of yours: each runs a loop,
cut loose from the connection, that starts the command again whenever it ends
without a result.json, until three starts in a row failed and saved nothing new.
One that dies ends the others, and all come to the next roll call. The loop
writes WORKDIR.worker-HOST.log. So your machine may sleep or go: the same
command attaches to what runs there, and starts nothing twice.

The working directory is one that all workers mount, or gs://BUCKET/...: then
the loop asks the bucket by `gcloud storage`, waits while that does not answer,
and writes its log in the home of each worker, ~/NAME.worker-HOST.log.

Your machine looks every --wait seconds whether the pod is READY, else deletes
what is left and asks for it again (a queued resource, by which spot and v6e
capacity comes too). --setup runs once on each new worker. The working directory
stays the same, so each start goes on where the last one saved.
"""

import shlex
import subprocess
import time

from absl import flags

from experiments import entry
from experiments.launch import command
from parallel_ar.training import bucket

_NAME = flags.DEFINE_string('name', None, 'Name of the TPU VM.')
_ZONE = flags.DEFINE_string('zone', None, 'Its zone.')
_PROJECT = flags.DEFINE_string('project', None, 'Google Cloud project.')
_TYPE = flags.DEFINE_string(
  'accelerator_type',
  None,
  'To create it, such as v5litepod-16; without it the pod must exist.',
)
_VERSION = flags.DEFINE_string(
  'version', 'v2-alpha-tpuv5-lite', 'Its runtime version.'
)
_SPOT = flags.DEFINE_bool('spot', False, 'Create it as a spot VM.')
_SETUP = flags.DEFINE_string(
  'setup',
  'true',
  'Run once on every new worker: mount the share, clone this repository, '
  'install a Python (the images have 3.10; "uv python install 3.13").',
)
_REPOSITORY = flags.DEFINE_string(
  'repository', 'parallel_ar', 'This repository on the workers.'
)
_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 100, 'Pods after the first.', lower_bound=0
)
_WAIT = flags.DEFINE_integer(
  'wait', 60, 'Seconds between two looks.', lower_bound=0
)

_TPUS = ('gcloud', 'compute', 'tpus')
_COMING = ('ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
_GAVE_UP = 3  # exit code of a look at the worker

# What the workers ask of the place of the run. `there` and `steps` end with 0:
# yes, 1: no, and above: no answer (no network, no rights), which is no "no".
# `make` leaves what is there.
_ON_DISK = """
there() { test -e "$1"; }
steps() { ls -- "$1" 2>/dev/null | grep -x '[0-9]*'; }
get() { cat -- "$1"; }
make() { test -s "$1" || (umask 077; cat >"$1"); }
drop() { rm -f -- "$1"; }
"""
_IN_BUCKET = """
there() {
  local said
  if said="$(gcloud storage ls "$1" 2>&1)"; then echo "$said"; return 0; fi
  [[ "$said" != *"matched no objects"* ]] || return 1
  echo "$1: $said" >&2
  return 2
}
steps() {
  local said
  said="$(there "$1/*/commit_success.txt")" || return
  sed -n 's|.*/\\([0-9]\\{1,\\}\\)/[^/]*$|\\1|p' <<<"$said"
}
get() { gcloud storage cat "$1"; }
make() {
  there "$1" || {
    (( $? == 1 )) && gcloud storage cp --if-generation-match=0 - "$1"
  }
}
drop() {
  there "$1" || return $(( $? - 1 ))
  gcloud storage rm "$1"
}
"""

# On each worker. The loop and its training hold the lock while they live.
_LOOP = """
exec 9>>"$HOME/.parallel_ar.lock"
flock -n 9 || exit 0
{place}
known() {{
  local code
  while "$@"; code=$?; (( code > 1 )); do sleep 5; done
  return "$code"
}}
newest() {{ known steps {checkpoints} | sort -n | tail -n 1; }}
# It may have ended since the last look.
if known there {gave_up}; then exit 0; fi
cd -- {repository} || exit 1
until token="$(get {token_file})"; do sleep 5; done
export {token}="$token" PARALLEL_AR_EXTRAS=tpu
failed=0
until known there {result}; do
  if (( failed == {tries} )); then
    until make {gave_up} </dev/null; do sleep 5; done
    exit 0
  fi
  before="$(newest)"
  ./run.sh {experiment}
  code=$?
  failed=$(( failed + 1 ))
  if (( code == 0 )) || [[ "$(newest)" != "$before" ]]; then failed=0; fi
  echo "ended with exit code $code; failures in a row: $failed"
  sleep 5
done
"""


def main() -> None:
  """Runs the script."""
  for flag in (_NAME, _ZONE):
    entry.require(flag)
  asked, prepared = 0, False
  while True:
    if _state('tpu-vm', 'state') == 'READY' or command.DRY_RUN.value:
      ready = _on('all', _setup()) == 0
      prepared = prepared or (ready and _on('0', _prepare()) == 0)
      if ready and prepared:
        _on('all', _start())
      code = _on('0', _look())
      if command.DRY_RUN.value:
        return
      if code == 0:
        print(f'the run is done: {command.result()}')
        return
      if prepared and code == _GAVE_UP:
        raise RuntimeError(
          f'No {command.result()}: {command.TRIES} starts in a row failed and '
          f'saved nothing new. Look at {_logs("~/")}HOST.log of each worker.'
        )
    elif _ask():
      asked += 1
      if asked > _RESTARTS.value:
        raise RuntimeError(
          f'No {command.result()} after {_RESTARTS.value} pods.'
        )
    logs = f'{_logs("~/")}HOST.log of each worker'
    print(f'looking again in {_WAIT.value} s; log: {logs}', flush=True)
    time.sleep(_WAIT.value)


def _beside(name: str) -> str:
  """A file beside the working directory, on the share or in the bucket."""
  return f'{command.workdir()}.{name}'


def _logs(home: str = '') -> str:
  """What the loops' logs begin with; a bucket takes no lines, but homes do."""
  if not bucket.is_address(command.workdir()):
    return _beside('worker-')
  return f'{home}{command.workdir().name}.worker-'


def _place() -> str:
  """The functions by which workers ask the place of the run."""
  away = bucket.is_address(command.workdir())
  return _IN_BUCKET if away else _ON_DISK


def _setup() -> str:
  """--setup, once on every machine."""
  mark = '"$HOME/.parallel_ar.setup"'
  return f'test -e {mark} || {{ {_SETUP.value}; }} && touch {mark}'


def _prepare() -> str:
  """A token for the roll calls of this run, and no mark of an earlier end."""
  token, mark = (shlex.quote(_beside(n)) for n in ('token', 'gave_up'))
  return (
    f'{_place()}drop {mark} && '
    f"od -An -N16 -tx1 /dev/urandom | tr -d ' \\n' | make {token}"
  )


def _start() -> str:
  """Starts the loop of a worker where none runs, cut loose from this shell."""
  run = command.experiment('--platform=tpu', '--wait_seconds=1800')
  text = _LOOP.format(
    place=_place(),
    repository=shlex.quote(_REPOSITORY.value),
    token=command.TOKEN,
    token_file=shlex.quote(_beside('token')),
    checkpoints=shlex.quote(f'{command.workdir()}/checkpoints'),
    experiment=shlex.join(run),
    result=shlex.quote(command.result()),
    tries=command.TRIES,
    gave_up=shlex.quote(_beside('gave_up')),
  )
  log = shlex.quote(_logs()) + '"$(hostname)".log'
  loop = f'setsid nohup bash -c {shlex.quote(text)}'
  return f'{loop} >>{log} 2>&1 </dev/null &'


def _look() -> str:
  """Exit code 0: done; `_GAVE_UP`: no more is tried; else it goes on."""
  result, mark = command.result(), _beside('gave_up')
  return (
    f'{_place()}there {shlex.quote(result)} && exit 0; '
    f'(( $? > 1 )) || ! there {shlex.quote(mark)} || exit {_GAVE_UP}; exit 1'
  )


def _state(kind: str, field: str) -> str:
  """A state that gcloud tells; '' where there is no such thing.

  Raises:
    FileNotFoundError: gcloud is not here.
  """
  words = [*_TPUS, kind, 'describe', _name(), *_where()]
  words.append(f'--format=value({field})')
  if command.DRY_RUN.value:
    command.do(words)
    return ''
  print('+', shlex.join(words), flush=True)
  try:
    done = subprocess.run(words, capture_output=True, text=True)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      'gcloud is not installed here. Install the Google Cloud SDK, or look at '
      'what would be done with --dry_run.'
    ) from error
  if done.returncode and 'NOT_FOUND' not in done.stderr:
    print(done.stderr, end='', flush=True)
    return 'UNKNOWN'  # no network, say: nothing is deleted for that
  return done.stdout.strip()


def _ask() -> bool:
  """Asks for the pod, unless it is on its way; whether it asked."""
  if not _TYPE.value:
    raise ValueError(
      f'The TPU VM {_name()} is not READY in {_ZONE.value}, and without '
      '--accelerator_type nothing is created. Create it, or say of which type.'
    )
  state = _state('queued-resources', 'state.state')
  if state in (*_COMING, 'UNKNOWN'):
    print(f'the queued resource {_name()} is {state}', flush=True)
    return False
  queue = [*_TPUS, 'queued-resources']
  gone = [*queue, 'delete', _name(), *_where(), '--force', '--quiet']
  command.do(gone, check=False)
  create = [*queue, 'create', _name(), f'--node-id={_name()}', *_where()]
  create += [f'--accelerator-type={_TYPE.value}']
  create += [f'--runtime-version={_VERSION.value}']
  command.do(create + (['--spot'] if _SPOT.value else []), check=False)
  return True


def _on(worker: str, text: str) -> int:
  """Runs a shell command on workers; returns its exit code."""
  words = [*_TPUS, 'tpu-vm', 'ssh', _name(), *_where(), f'--worker={worker}']
  return command.do([*words, f'--command={text}'], check=False)


def _name() -> str:
  return entry.require(_NAME)


def _where() -> list[str]:
  project = [f'--project={_PROJECT.value}'] if _PROJECT.value else []
  return [f'--zone={_ZONE.value}', *project]


if __name__ == '__main__':
  entry.run(main)
