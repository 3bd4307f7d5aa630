"""Ctrl-C and closed pipes: at once, one line, nothing half-written."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import leaving, options
from parallel_ar.training import run_directory

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = f'{sys.executable} -m experiments'


def _start(script):
  """A shell that runs `script` in a group of its own, as a terminal's job.

  Python and not bash resets SIGINT, which a background job inherits ignored.
  """
  reset = 'import os, signal, sys; signal.signal(2, signal.SIG_DFL); '
  reset += 'os.execvp(sys.argv[1], sys.argv[1:])'
  return subprocess.Popen(
    [sys.executable, '-c', reset, 'bash', '-c', script],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


@pytest.mark.parametrize('seconds', [0.3, 1.5, 4])  # imports, imports, at work
def test_ctrl_c_ends_a_script_and_the_loop_around_it(seconds, tmp_path):
  command = f'{PYTHON}.complexity --out={tmp_path}/a.json'
  process = _start(f'for i in 1 2; do echo turn; {command} >/dev/null; done')
  assert process.stdout.readline() == 'turn\n'
  time.sleep(seconds)
  os.killpg(process.pid, signal.SIGINT)
  out, err = process.communicate(timeout=20)
  assert err == 'complexity: stopped by Ctrl-C.\n'
  assert not out, 'the loop went on'
  assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
  assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_the_processes_of_a_script(tmp_path):
  """One that only the parent hears, as from `kill -INT`."""
  command = f'{PYTHON}.tables.kills --workdir={tmp_path}/runs --steps=100000'
  process = _start(f'{command} & echo $!; wait $!; echo $?')
  parent = int(process.stdout.readline())
  children = pathlib.Path(f'/proc/{parent}/task/{parent}/children')
  if not children.exists():
    pytest.skip('this kernel does not tell the children of a process')
  end = time.monotonic() + 60
  while not (child := children.read_text().split()):
    assert time.monotonic() < end
    time.sleep(0.05)
  os.kill(parent, signal.SIGINT)
  out, err = process.communicate(timeout=30)
  assert out == '130\n'
  assert err == 'kills: stopped by Ctrl-C.\n'
  assert not leaving._lives(int(child[0]))


def test_a_reader_that_goes_away_is_no_error():
  process = _start(
    f'set -o pipefail; {PYTHON}.tables.paper --tables=uci_dna '
    '| head -n 1 >/dev/null; echo ${PIPESTATUS[0]}'
  )
  out, err = process.communicate(timeout=60)
  assert not err
  assert out in ('141\n', '0\n')


class TestWhole:
  def test_a_block_that_raises_leaves_the_old_file(self, tmp_path):
    path = tmp_path / 'a' / 'out.bin'
    run_directory.replace(path, b'old')
    with pytest.raises(KeyError), run_directory.whole(path) as file:
      file.write(b'new')
      assert list(run_directory.DRAFTS) == [pathlib.Path(file.name)]
      raise KeyError
    assert [p.name for p in path.parent.iterdir()] == ['out.bin']
    assert path.read_bytes() == b'old'
    assert not run_directory.DRAFTS

  def test_a_full_disk_is_told_with_the_file(self, tmp_path):
    with (
      pytest.raises(OSError, match=r'No space left.*out\.bin'),
      run_directory.whole(tmp_path / 'out.bin'),
    ):
      raise OSError(28, 'No space left on device')
    assert not list(tmp_path.iterdir())

  def test_a_device_or_a_pipe_is_written_into_and_stays(self, tmp_path):
    """As --out=/dev/null or --out=>(gzip); a rename would take its place."""
    pipe, null = tmp_path / 'pipe', tmp_path / 'null'
    os.mkfifo(pipe)
    null.symlink_to('/dev/null')
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, null):
      options.check_writable(path)
      run_directory.replace(path, b'all of it')
    assert os.read(reader, 99) == b'all of it'
    os.close(reader)
    assert pipe.is_fifo() and null.is_char_device()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['null', 'pipe']
