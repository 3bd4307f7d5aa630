"""Launchers: what they would do, and what they do with pretended clusters."""

import concurrent.futures
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from unittest import mock

import pytest

from experiments import inside
from parallel_ar.training import checkpoint_bucket
from tests import options_test

ROOT = pathlib.Path(__file__).parents[1]
# Writes its words down, then does what $FAKE/<name>.sh says.
FAKE = """#!/bin/bash
printf '%s\\n' "$(basename "$0") $*" >>"$FAKE/calls"
[[ ! -e $FAKE/$(basename "$0").sh ]] || . "$FAKE/$(basename "$0").sh"
"""
CLOUD = {
  'slurm': ['--nodes=2', '--gpus_per_node=4', '--partition=long'],
  'tpu_pod': [
    *('--name=pod', '--zone=z', '--accelerator_type=v5litepod-16', '--spot'),
    *('--setup=mount it', '--wait=0'),
  ],
  'gke': [
    '--cluster=c',
    '--zone=us-west4-a',
    '--tpu_type=v5litepod-16',
    '--image=i',
  ],
}


class Cluster:
  """Programs that pretend, and a share with the working directory."""

  def __init__(self, path):
    self.path = path
    self.workdir = path / 'share' / 'My run=1 %a'  # as a stranger's
    self.workdir.mkdir(parents=True)
    (path / 'bin').mkdir()
    for name in ('gcloud', 'sbatch', 'srun', 'scontrol', 'xpk'):
      (path / 'bin' / name).write_text(FAKE)
      (path / 'bin' / name).chmod(0o755)
    # The pauses between starts that failed, in tests.
    (path / 'bin' / 'sleep').write_text(
      f'#!/bin/bash\nexec {shutil.which("sleep")} 0.1\n'
    )
    (path / 'bin' / 'sleep').chmod(0o755)

  def script(self, name, text):
    (self.path / f'{name}.sh').write_text(text)

  @property
  def result(self):
    return self.workdir / 'result.json'

  @property
  def training(self):
    place = shlex.quote(f'--workdir={self.workdir}')
    return f'train --config=configs/digits_made.py {place}'

  def calls(self):
    calls = self.path / 'calls'
    return calls.read_text().splitlines() if calls.exists() else []

  def environment(self, **more):
    path = f'{self.path}/bin:{os.environ["PATH"]}'
    return os.environ | {'PATH': path, 'FAKE': str(self.path)} | more

  def words(self, name, *flags, run=None):
    run = self.training if run is None else run
    return [f'--run={run}', *CLOUD[name], *flags]

  def dry_run(self, name, *flags, run=None):
    """What a launcher prints instead of doing it, in this process."""
    with mock.patch.dict(os.environ, self.environment()):
      words = self.words(name, '--dry_run', *flags, run=run)
      return options_test.run(f'launch/{name}', words)

  def launch(self, name, *flags):
    return subprocess.run(
      [
        *(sys.executable, '-m', f'experiments.launch.{name}'),
        *self.words(name, *flags),
      ],
      cwd=ROOT,
      env=self.environment(),
      capture_output=True,
      text=True,
      timeout=120,
    )


@pytest.fixture
def cluster(tmp_path):
  return Cluster(tmp_path)


class TestDryRun:
  def test_slurm(self, cluster):
    said = cluster.dry_run('slurm')
    for line in (
      '#SBATCH --nodes=2',
      '#SBATCH --ntasks-per-node=4',
      '#SBATCH --gpus-per-node=4',
      '#SBATCH --signal=USR1@120',
      '#SBATCH --requeue',
      '#SBATCH --partition=long',
      f'srun --kill-on-bad-exit=1 ./run.sh {cluster.training} --distributed=on'
      ' --platform=cuda',
    ):
      assert f'{line}\n' in said
    log = f'{cluster.workdir}.slurm.log'.replace('%', '%%')  # no pattern
    assert f'#SBATCH --output="{log}"\n' in said
    assert '#SBATCH --job-name="par-My run=1 %a"\n' in said
    assert '\n+ sbatch ' in said
    assert cluster.calls() == []

  def test_a_sweep_is_an_array(self, cluster):
    run = f"sweep --config=a.py --seeds=2 '--workdir={cluster.workdir}'"
    said = cluster.dry_run('slurm', run=run)
    assert '#SBATCH --array=0-1\n' in said
    head, _, rest = said.partition('case "$SLURM')
    body = f'case "$SLURM{rest.partition("esac")[0]}esac'
    shown = subprocess.run(
      ['bash', '-uc', f'{body}\nprintf "%s\\n" "$workdir" "$@"'],
      env=cluster.environment(SLURM_ARRAY_TASK_ID='1'),
      capture_output=True,
      text=True,
    ).stdout.splitlines()
    where = f'{cluster.workdir}/seed=1'
    assert shown[:3] == [where, 'train', '--config=a.py']
    assert {'--config.seed=1', f'--workdir={where}'} <= set(shown)
    assert './run.sh "$@"\n' in rest

  def test_tpu_pod(self, cluster):
    said = cluster.dry_run('tpu_pod')
    words = ' '.join(shlex.split(said)).split('+ gcloud ')[1:]
    assert [w.split()[3] for w in words] == ['describe', *['ssh'] * 4]
    assert 'mount it' in words[1]
    loop = f'./run.sh {cluster.training} --distributed=on'
    assert any(loop in word for word in shlex.split(words[3]))
    assert '--platform=tpu' in words[3] and '--worker=all' in words[3]
    assert 'gcloud storage' not in said
    assert cluster.calls() == []

  @pytest.mark.parametrize('name', ['tpu_pod', 'gke'])
  def test_a_bucket(self, cluster, name):
    run = 'train --config=a.py --workdir=gs://b/runs/made'
    said = cluster.dry_run(name, run=run)
    assert run in said and 'gs:/b' not in said
    if name == 'tpu_pod':
      for place in ('made.token', 'made.gave_up', 'made/result.json'):
        assert f'gs://b/runs/{place}' in said
      assert 'setsid' in said and '>>made.worker-"$(hostname)".log' in said

  @pytest.mark.parametrize(
    ('name', 'workload'),
    [
      ('UCI_dna.7', 'uci-dna-7'),
      ('7b', 'run-7b'),
      ('é', 'run'),
      ('a' * 50, f'{"a" * 30}-160b4e43'),
    ],
  )
  def test_a_workload_has_a_name_of_kubernetes(self, cluster, name, workload):
    run = f'train --config=a.py --workdir=/share/{name}'
    words = shlex.split(cluster.dry_run('gke', run=run))
    assert f'--workload={workload}' in words
    given = f'--workload={name}'
    words = shlex.split(cluster.dry_run('gke', given))
    assert f'--workload={workload}' in words

  def test_gke(self, cluster):
    said = cluster.dry_run('gke')
    (line,) = said.splitlines()
    words = shlex.split(line)
    assert words[1:4] == ['xpk', 'workload', 'create']
    assert '--workload=my-run-1-a' in words
    assert '--max-restarts=100' in words
    assert cluster.calls() == []


class TestRefusals:
  @pytest.mark.parametrize(
    ('run', 'word'),
    [
      ('', '--run must be a training'),
      ('evaluate --workdir=/a', '--run must be a training'),
      ('train --config=a.py', 'one absolute --workdir'),
      ('train --config=a.py --workdir=runs/a', 'one absolute --workdir'),
      ("train --config=a.py '--workdir=/a\"b'", 'whose lines take no'),
      ('train --config=a.py --workdir=gs://b/a', 'that all nodes share'),
      ('train --config=a.py --workdir=gs://', 'expected gs://BUCKET'),
    ],
  )
  def test_commands_that_cannot_resume(self, cluster, run, word):
    words = cluster.words('slurm', '--dry_run', run=run)
    assert word in options_test.refusal('launch/slurm', words)

  def test_a_program_that_is_not_here(self, cluster):
    (cluster.path / 'bin' / 'gcloud').unlink()
    if shutil.which('gcloud') is not None:
      pytest.skip('gcloud is installed here')
    done = cluster.launch('tpu_pod')
    assert done.returncode == 1
    assert 'gcloud is not installed here' in ' '.join(done.stderr.split())


class TestSlurm:
  def _script(self, cluster):
    """The script that sbatch was given."""
    cluster.script('sbatch', 'cp "$1" "$FAKE/job"')
    shutil.rmtree(cluster.workdir.parent)
    done = cluster.launch('slurm', '--max_restarts=2')
    assert done.returncode == 0, done.stderr
    cluster.workdir.mkdir()  # Slurm needs the folder of the log, above it
    return cluster.path / 'job'

  def test_queues_again_until_there_is_a_result(self, cluster):
    job = self._script(cluster)

    def start(srun, count):
      cluster.script('srun', srun)
      (cluster.path / 'calls').unlink(missing_ok=True)
      done = subprocess.run(
        ['bash', job],
        env=cluster.environment(
          SLURM_JOB_ID='17', SLURM_RESTART_COUNT=str(count)
        ),
        capture_output=True,
      )
      return done.returncode, cluster.calls()[1:]

    again = 0, ['scontrol requeue 17']
    assert start('exit 0', 0) == again
    assert start('exit 137', 1) == again  # kill -9
    assert start('exit 0', 2) == (1, [])
    assert start(f'touch {shlex.quote(str(cluster.result))}', 1) == (0, [])

  def test_starts_that_fail_and_save_nothing_end_the_job(self, cluster):
    job = self._script(cluster)

    def start(srun):
      cluster.script('srun', srun)
      done = subprocess.run(
        ['bash', job],
        env=cluster.environment(SLURM_JOB_ID='17'),
        capture_output=True,
        text=True,
      )
      return done.returncode, done.stderr

    def save(step):
      return f'mkdir -p "{cluster.workdir}/checkpoints/{step}"; exit 134'

    for step in (9, 10):  # in the order of numbers, not of text
      assert start('exit 1')[0] == start('exit 1')[0] == 0
      assert start(save(step))[0] == 0  # it went on
    assert start('exit 1')[0] == start('exit 0')[0] == 0  # stopped and saved
    assert start('exit 1')[0] == start(save(10))[0] == 0
    code, said = start('exit 3')
    assert code == 3 and '3 starts in a row failed and saved nothing' in said
    assert start('exit 3')[0] == 0  # of a new job

  def test_the_processes_of_a_start_have_a_token(self, cluster):
    job = self._script(cluster)
    cluster.script('srun', 'echo "$PARALLEL_AR_JOB_TOKEN" >>"$FAKE/tokens"')
    for _ in range(2):
      environment = cluster.environment(SLURM_JOB_ID='17')
      subprocess.run(['bash', job], env=environment, capture_output=True)
    one, two = (cluster.path / 'tokens').read_text().split()
    assert one != two and len(one) == 32


# Keeps two states and a bucket, and does what ssh is told, on one "worker".
# What is said, and by which exit code, is that of gcloud 528.
CLOUD_SCRIPT = """
if [[ $1 == storage ]]; then
  if [[ -e $FAKE/down ]]; then echo 'HTTPError 403: no rights' >&2; exit 1; fi
  for word in "$@"; do place="$FAKE/bucket/${word#gs://}"; done
  case $2 in
    ls) compgen -G "$place" || {
      echo 'ERROR: One or more URLs matched no objects.' >&2; exit 1; } ;;
    cat) cat "$place" ;;
    cp) mkdir -p "${place%/*}"; set -C; cat >"$place" ;;
    rm) rm "$place" ;;
  esac
  exit
fi
case "$3 $4" in
  'queued-resources describe')
    [[ -e $FAKE/queue ]] || { echo NOT_FOUND >&2; exit 1; }
    cat "$FAKE/queue" ;;
  'tpu-vm describe')
    [[ -e $FAKE/state ]] || { echo "${SAYS:-NOT_FOUND}" >&2; exit 1; }
    cat "$FAKE/state" ;;
  *delete) rm -f "$FAKE/state" "$FAKE/queue" ;;
  *create) echo READY >"$FAKE/state"; echo ACTIVE >"$FAKE/queue" ;;
  *ssh)
    export HOME="$FAKE/home"
    mkdir -p "$HOME"
    for word in "$@"; do text="${word#--command=}"; done
    cd "$HOME" && bash -c "$text" ;;
esac
"""


class TestTpuPod:
  @pytest.fixture
  def pod(self, cluster):
    cluster.script('gcloud', CLOUD_SCRIPT)
    cluster.flags = [f'--repository={cluster.path}', '--setup=true']

    def launch(run, *flags, start=cluster.launch):
      script = cluster.path / 'run.sh'
      script.write_text(f'#!/bin/bash\necho x >>"$FAKE/starts"\n{run}\n')
      script.chmod(0o755)
      return start('tpu_pod', *cluster.flags, '--wait=1', *flags)

    cluster.start = launch
    return cluster

  @pytest.fixture
  def far(self, pod):
    """The pod, and a working directory in the bucket."""
    (pod.path / 'state').write_text('READY\n')
    pod.workdir = pod.path / 'bucket' / 'b' / 'runs' / 'made'
    pod.workdir.mkdir(parents=True)
    run = 'train --config=a.py --workdir=gs://b/runs/made/'

    def launch(name, *flags):  # in this process, which costs less
      words = pod.words(name, *flags, run=run)
      with mock.patch.dict(os.environ, pod.environment()):
        return inside.run(f'launch/{name}', words)

    start = pod.start
    pod.start = lambda run: start(run, start=launch)
    return pod

  def _verbs(self, cluster):
    begin = 'gcloud compute tpus '  # and not a further line of a command
    calls = [call for call in cluster.calls() if call.startswith(begin)]
    words = [call.split() for call in calls]
    return [f'{w[3]} {w[4]}' for w in words if w[4] != 'ssh']

  def _starts(self, cluster):
    return len((cluster.path / 'starts').read_text().split())

  def test_asks_for_the_pod_and_trains_until_there_is_a_result(self, pod):
    done = pod.start(
      f"""
case $(wc -l <"$FAKE/starts") in
  1) mkdir -p "{pod.workdir}/checkpoints/1"; exit 137 ;;
  2) exit 0 ;;
  3) [[ ${{#PARALLEL_AR_JOB_TOKEN}} == 32 ]] && touch "{pod.result}" ;;
esac"""
    )
    assert done.returncode == 0, done.stderr
    assert f'the run is done: {pod.result}' in done.stdout
    vm, queue = 'tpu-vm', 'queued-resources'
    first = [f'{vm} describe', f'{queue} describe']
    first += [f'{queue} delete', f'{queue} create', f'{vm} describe']
    assert self._verbs(pod)[:5] == first
    assert not set(self._verbs(pod)[5:]) - {f'{vm} describe'}
    assert self._starts(pod) == 3
    (log,) = pod.workdir.parent.glob('My run=1 %a.worker-*.log')
    assert 'ended with exit code 137; failures in a row: 0' in log.read_text()

  def test_outlives_the_launcher_and_is_started_once(self, pod):
    (pod.path / 'state').write_text('READY\n')
    run = 'while [[ ! -e $FAKE/go ]]; do sleep 0.1; done; touch "$FAKE/went"'
    launcher = subprocess.Popen(
      [
        *(sys.executable, '-m', 'experiments.launch.tpu_pod'),
        *(f'--run={pod.training}', *CLOUD['tpu_pod'], *pod.flags),
      ],
      cwd=ROOT,
      env=pod.environment(),
      stdout=subprocess.DEVNULL,
    )
    (pod.path / 'run.sh').write_text(
      f'#!/bin/bash\necho x >>"$FAKE/starts"\n{run}\ntouch "{pod.result}"\n'
    )
    (pod.path / 'run.sh').chmod(0o755)
    _wait_for(pod.path / 'starts')
    launcher.kill()
    launcher.wait()
    assert self._starts(pod) == 1 and not pod.result.exists()
    again = subprocess.Popen(
      launcher.args, cwd=ROOT, env=pod.environment(), stdout=subprocess.PIPE
    )
    time.sleep(3)  # it looks, and starts nothing
    (pod.path / 'go').touch()
    said, _ = again.communicate(timeout=60)
    assert b'the run is done' in said and self._starts(pod) == 1

  def test_a_wrong_command_does_not_start_for_ever(self, pod):
    (pod.path / 'state').write_text('READY\n')
    done = pod.start('exit 1')
    assert done.returncode == 1 and self._starts(pod) == 3
    assert '3 starts in a row failed' in ' '.join(done.stderr.split())

  def test_a_run_in_a_bucket(self, far):
    """Restarts, counts what is new, and takes no silence for a no."""
    marker = f'{far.workdir}/checkpoints/$n/{checkpoint_bucket.MARKER}'
    code, said = far.start(
      f"""
n=$(wc -l <"$FAKE/starts")
if (( n == 5 )); then
  [[ ${{#PARALLEL_AR_JOB_TOKEN}} == 32 ]] && touch "{far.result}"
elif (( n == 3 )); then
  mkdir -p "$(dirname "{marker}")"; touch "{marker}"
elif (( n == 4 )); then
  mkdir -p "{far.workdir}/checkpoints/4"
  touch "$FAKE/down"; {{ /bin/sleep 1; rm "$FAKE/down"; }} &
fi
exit 137"""
    )
    assert code == 0, said
    assert 'the run is done: gs://b/runs/made/result.json' in said
    assert self._starts(far) == 5
    (log,) = (far.path / 'home').glob('made.worker-*.log')
    said = log.read_text()
    assert 'HTTPError 403: no rights' in said
    counts = [line[-1] for line in said.splitlines() if 'in a row' in line]
    assert counts == ['1', '2', '0', '1', '2']

  def test_a_bucket_that_does_not_answer_starts_nothing(self, far):
    (far.path / 'down').touch()
    run = f'touch "{far.result}"'
    pool = concurrent.futures.ThreadPoolExecutor(1)
    launcher = pool.submit(far.start, run)
    end = time.monotonic() + 60
    while sum('storage ls' in call for call in far.calls()) < 4:
      assert time.monotonic() < end
      time.sleep(0.1)
    assert not (far.path / 'starts').exists()
    (far.path / 'down').unlink()
    assert launcher.result()[0] == 0 and self._starts(far) == 1

  def test_a_run_in_a_bucket_that_gives_up(self, far):
    for total in (3, 6):  # the mark of the first is no end of the second
      with pytest.raises(RuntimeError, match='3 starts in a row') as told:
        far.start('exit 1')
      assert '~/made.worker-HOST.log' in str(told.value)
      assert self._starts(far) == total
    assert len((far.workdir.parent / 'made.token').read_text()) == 32

  def test_a_pod_is_not_deleted_while_nobody_knows(self, pod):
    launcher = subprocess.Popen(
      [
        *(sys.executable, '-m', 'experiments.launch.tpu_pod'),
        *(f'--run={pod.training}', *CLOUD['tpu_pod']),
      ],
      cwd=ROOT,
      env=pod.environment(SAYS='no network'),
      stdout=subprocess.DEVNULL,
    )
    (pod.path / 'queue').write_text('PROVISIONING\n')
    end = time.monotonic() + 30
    while len(pod.calls()) < 4 and time.monotonic() < end:
      time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    verbs = set(self._verbs(pod))
    assert verbs == {'tpu-vm describe', 'queued-resources describe'}

  def test_creates_nothing_without_a_type(self, cluster):
    done = cluster.launch('tpu_pod', '--accelerator_type=')
    assert done.returncode == 1
    assert [c.split()[4] for c in cluster.calls()] == ['describe']


def _wait_for(path):
  end = time.monotonic() + 60
  while not path.exists() and time.monotonic() < end:
    time.sleep(0.05)
  assert path.exists()


# What xpk 1.16 makes of a command, in the manifest that `--dry-run` prints.
XPK = """
_sigterm() (kill -SIGTERM $! 2>/dev/null;);
trap _sigterm SIGTERM;
(COMMAND) & PID=$!;
while kill -0 $PID 2>/dev/null;
    do sleep 0.1;
done;
wait $PID;
EXIT_CODE=$?;
exit $EXIT_CODE
"""
RESTARTED = 42
# A run.sh that hears SIGTERM as a training does.
HEARS = """#!/bin/bash
exec python3 -c '
import os, signal, sys, time
code = [word for word in sys.argv if word.startswith("--stop_code=")]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(code[0][12:])))
open(os.environ["FAKE"] + "/ready", "w").write(
  os.environ["PARALLEL_AR_JOB_TOKEN"])
time.sleep(60)
' "$@"
"""


class TestGke:
  def _command(self, cluster):
    done = cluster.launch('gke', f'--repository={cluster.path}')
    assert done.returncode == 0, done.stderr
    (call,) = cluster.calls()
    assert '--termination-grace-period-seconds=300' in call
    return call.partition('--command=')[2]

  def test_the_run_hears_sigterm_and_its_code_is_restarted(self, cluster):
    script = XPK.replace('COMMAND', self._command(cluster))
    run = cluster.path / 'run.sh'
    run.write_text(HEARS)
    run.chmod(0o755)
    pod = subprocess.Popen(['bash', '-c', script], env=cluster.environment())
    ready = cluster.path / 'ready'
    _wait_for(ready)
    pod.terminate()
    assert pod.wait(30) == RESTARTED
    assert len(ready.read_text()) == 32

  @pytest.mark.parametrize('code', [0, 1, 137])
  def test_other_ends_keep_their_code(self, cluster, code):
    script = XPK.replace('COMMAND', self._command(cluster))
    run = cluster.path / 'run.sh'
    run.write_text(f'#!/bin/bash\nexit {code}\n')
    run.chmod(0o755)
    assert subprocess.run(['bash', '-c', script]).returncode == code

  def test_the_manifest_of_xpk_itself(self, cluster):
    """Where xpk is installed: what is written above is what it makes."""
    xpk = shutil.which('xpk')
    if xpk is None:
      pytest.skip('xpk is not installed (pip install xpk)')
    text = cluster.dry_run('gke', '--project=p')
    words = shlex.split(text)[2:]
    manifest = cluster.path / 'jobset.yaml'
    more = ['--dry-run', '--skip-validation']
    more.append(f'--output-manifest-file={manifest}')
    done = subprocess.run(
      [xpk, *words, *more],
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    made = ' '.join(manifest.read_text().split())
    command = words[-1].partition('--command=')[2]
    for line in XPK.replace('COMMAND', command).splitlines():
      line = line.replace('sleep 0.1', 'sleep 5')
      assert ' '.join(line.split()) in made
    assert 'terminationGracePeriodSeconds: 300' in made
    # The codes that are no failure of the whole job.
    codes = made.partition('operator: NotIn values: [')[2].partition(']')[0]
    assert {str(RESTARTED), '137', '143'} <= set(codes.split(','))
    assert not {'0', '1'} & set(codes.split(','))


def test_the_commands_of_the_docs(cluster):
  text = (ROOT / 'docs' / 'launch.md').read_text().replace('\\\n', ' ')
  commands = [
    shlex.split(line)
    for line in text.splitlines()
    if line.startswith('./run.sh launch/')
  ]
  assert len(commands) == len(CLOUD)
  for _, script, *flags in commands:
    assert '--dry_run' in flags
    with mock.patch.dict(os.environ, cluster.environment()):
      said = options_test.run(script, flags)
    assert '--workdir=/share/runs/made' in said
  assert cluster.calls() == []
