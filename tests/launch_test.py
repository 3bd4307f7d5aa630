"""Launchers: what they would do, and what they do with pretended clusters."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

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
  'gke': ['--cluster=c', '--zone=z', '--tpu_type=v5litepod-16', '--image=i'],
}


class Cluster:
  """Programs that pretend, and a share with the working directory."""

  def __init__(self, path):
    self.path = path
    self.workdir = path / 'share' / 'my_run'
    self.workdir.mkdir(parents=True)
    (path / 'bin').mkdir()
    for name in ('gcloud', 'sbatch', 'srun', 'scontrol', 'xpk'):
      (path / 'bin' / name).write_text(FAKE)
      (path / 'bin' / name).chmod(0o755)

  def script(self, name, text):
    (self.path / f'{name}.sh').write_text(text)

  @property
  def result(self):
    return self.workdir / 'result.json'

  @property
  def training(self):
    return f'train --config=configs/digits_made.py --workdir={self.workdir}'

  def calls(self):
    calls = self.path / 'calls'
    return calls.read_text().splitlines() if calls.exists() else []

  def environment(self, **more):
    path = f'{self.path}/bin:{os.environ["PATH"]}'
    return os.environ | {'PATH': path, 'FAKE': str(self.path)} | more

  def launch(self, name, *flags, run=None):
    run = self.training if run is None else run
    words = [f'--run={run}', *CLOUD[name], *flags]
    return subprocess.run(
      [sys.executable, '-m', f'experiments.launch.{name}', *words],
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
    done = cluster.launch('slurm', '--dry_run')
    assert done.returncode == 0, done.stderr
    for line in (
      '#SBATCH --nodes=2',
      '#SBATCH --ntasks-per-node=4',
      '#SBATCH --gpus-per-node=4',
      '#SBATCH --signal=USR1@120',
      '#SBATCH --requeue',
      '#SBATCH --partition=long',
      f'srun --kill-on-bad-exit=1 ./run.sh {cluster.training} --distributed=on',
    ):
      assert f'{line}\n' in done.stdout
    assert '\n+ sbatch ' in done.stdout
    assert cluster.calls() == []

  def test_tpu_pod(self, cluster):
    done = cluster.launch('tpu_pod', '--dry_run')
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line[0] == '+']
    verbs = [shlex.split(line)[5] for line in lines]
    assert verbs == ['describe', 'delete', 'create', *['ssh'] * 4]
    assert '--accelerator-type=v5litepod-16' in lines[2]
    assert lines[2].endswith('--spot')
    assert 'mount it' in lines[3]
    assert f'./run.sh {cluster.training} --distributed=on' in lines[5]
    assert '--worker=all' in lines[5]
    assert cluster.calls() == []

  def test_gke(self, cluster):
    done = cluster.launch('gke', '--dry_run')
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    words = shlex.split(line)
    assert words[1:4] == ['xpk', 'workload', 'create']
    assert '--workload=my-run' in words
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
    ],
  )
  def test_commands_that_cannot_resume(self, cluster, run, word):
    done = cluster.launch('slurm', '--dry_run', run=run)
    assert done.returncode == 1
    assert word in ' '.join(done.stderr.split())

  def test_a_program_that_is_not_here(self, cluster):
    (cluster.path / 'bin' / 'xpk').unlink()
    done = cluster.launch('gke')
    assert done.returncode == 1
    assert 'xpk is not installed here' in ' '.join(done.stderr.split())


class TestSlurm:
  def _script(self, cluster):
    """The script that sbatch was given."""
    cluster.script('sbatch', 'cp "$1" "$FAKE/job"')
    done = cluster.launch('slurm', '--max_restarts=2')
    assert done.returncode == 0, done.stderr
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

    assert start('exit 0', 0) == (0, ['scontrol requeue 17'])
    assert start('exit 3', 1) == (3, [])
    assert start('exit 0', 2) == (1, [])
    assert start(f'touch {cluster.result}', 1) == (0, [])


class TestTpuPod:
  def _calls(self, cluster):
    return [
      'train' if './run.sh train' in call else call.split()[4]
      for call in cluster.calls()
      if 'pkill' not in call
    ]

  def test_makes_the_pod_again_until_there_is_a_result(self, cluster):
    cluster.script(
      'gcloud',
      f"""
case "$*" in
  *describe*) cat "$FAKE/state" 2>/dev/null ;;
  *create*) echo READY >"$FAKE/state" ;;
  *'test -e'*) [[ -e {cluster.result} ]] ;;
  *'run.sh train'*)
    echo x >>"$FAKE/starts"
    case $(wc -l <"$FAKE/starts") in
      1) echo PREEMPTED >"$FAKE/state"; exit 255 ;;
      2) exit 0 ;;
      3) touch {cluster.result} ;;
    esac ;;
esac
""",
    )
    done = cluster.launch('tpu_pod')
    assert done.returncode == 0, done.stderr
    new = ['describe', 'delete', 'create', 'ssh', 'train', 'ssh']
    assert self._calls(cluster) == [*new, *new, 'describe', 'train', 'ssh']
    assert f'the run is done: {cluster.result}' in done.stdout

  def test_a_wrong_command_does_not_start_for_ever(self, cluster):
    cluster.script(
      'gcloud',
      'case "$*" in *describe*) echo READY ;; *ssh*) exit 1 ;; esac',
    )
    done = cluster.launch('tpu_pod')
    assert done.returncode == 1
    assert 'after 3 starts' in ' '.join(done.stderr.split())

  def test_creates_nothing_without_a_type(self, cluster):
    done = cluster.launch('tpu_pod', '--accelerator_type=')
    assert done.returncode == 1
    assert [c.split()[4] for c in cluster.calls()] == ['describe']


class TestGke:
  def test_no_result_is_no_end(self, cluster):
    done = cluster.launch('gke', f'--repository={cluster.path}')
    assert done.returncode == 0, done.stderr
    (call,) = cluster.calls()
    text = call.partition('--command=')[2]
    run = cluster.path / 'run.sh'
    for script, code in [
      ('exit 0', 75),
      ('exit 9', 9),
      (f'touch {cluster.result}', 0),
    ]:
      run.write_text(f'#!/bin/bash\n{script}\n')
      run.chmod(0o755)
      assert subprocess.run(['bash', '-c', text]).returncode == code


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
    done = subprocess.run(
      [sys.executable, '-m', f'experiments.{script.replace("/", ".")}', *flags],
      cwd=ROOT,
      env=cluster.environment(),
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '/share/runs/made/result.json' in done.stdout
  assert cluster.calls() == []
