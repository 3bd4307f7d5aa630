"""./run.sh runs: what the files of runs say."""

import json

import pytest

from experiments import listing
from parallel_ar.training import configuration, owner
from tests import options_test


def write(path, rate=0.1, name='made', valid=(), test=None, **files):
  config = configuration.default_config()
  config.model.name, config.optimizer.learning_rate = name, rate
  config.train.log_every = 3 if name == 'made' else 4  # changes nothing
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(configuration.to_json(config)))
  lines = [{'step': 9, 'kind': 'train', 'loss_nats': 3.0}]
  lines += [{'step': 10, 'kind': 'valid', 'nats': nats} for nats in valid]
  text = '\n'.join(map(json.dumps, lines)) + '\n{"step": 11, "ki'
  (path / 'metrics.jsonl').write_text(text)
  if test is not None:
    result = {'numbers': {'nats': {'value': test, 'unit': 'nats'}}}
    (path / 'result.json').write_text(json.dumps(result))
  for file, content in files.items():
    (path / file).write_text(content)


@pytest.fixture
def folder(tmp_path):
  write(tmp_path / 'a', valid=(4.0, 2.5, 'NaN'), test=2.25)
  write(tmp_path / 'sweep' / 'b', rate=0.2, valid=(2.0,))
  write(tmp_path / 'c', name='os:system')  # a name, and nothing is imported
  (tmp_path / 'd').mkdir()
  (tmp_path / 'd' / 'config.json').write_text('{"no": 1')
  return tmp_path


def states(folder):
  found = [listing.read(path, folder) for path in listing.found(folder)]
  return {run.name: run for run in found}


def test_what_the_files_say(folder):
  found = states(folder)
  assert {name: run.state for name, run in found.items()} == {
    'a': 'done',
    'c': 'stopped',
    'd': 'unreadable',
    'sweep/b': 'stopped',
  }
  assert found['a'][2:5] == (10, 2.5, 2.25)
  assert found['sweep/b'].valid == 2.0
  fields = listing.differences(list(found.values()))
  assert fields == ['model.name', 'optimizer.learning_rate']
  head, a, *_ = listing.table(list(found.values()), fields)
  assert head.split() == 'run state step valid test what differs'.split()
  assert (
    a.split()
    == (
      'a done 10/1000 2.5000 2.2500 model.name=made optimizer.learning_rate=0.1'
    ).split()
  )


def test_who_trains(folder):
  path = folder / 'sweep' / 'b'
  with owner.take(path):
    assert states(folder)['sweep/b'].state == 'training'
    line = (path / owner.NAME).read_text()
  assert states(folder)['sweep/b'].state == 'stopped'
  record = json.loads(line.partition('\n')[0])
  (path / owner.NAME).write_text(json.dumps(record | {'process': 'pid 0'}))
  elsewhere = owner.state(path)  # of another namespace, and fresh
  assert elsewhere == 'training'
  space = record['process'].split()[0]
  (path / owner.NAME).write_text(
    json.dumps(record | {'process': f'{space} 12'})
  )
  assert owner.state(path) == 'died'


def test_the_script(folder, capsys):
  def look(values):
    from experiments import runs as script

    script.main()

  flags = [f'--under={folder}', '--sort=test', f'--out={folder}/x.csv']
  assert options_test.parse('runs', flags, look) == ''
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[1:5]] == ['a', 'c', 'd', 'sweep/b']
  rows = (folder / 'x.csv').read_text().splitlines()
  assert rows[0] == (
    'run,state,step,valid,test,model.name,optimizer.learning_rate'
  )
  assert rows[1] == 'a,done,10,2.5,2.25,made,0.1'


def test_there_is_no_run(tmp_path):
  def look(values):
    from experiments import runs as script

    script.main()

  for flag, says in (
    (f'--under={tmp_path}', 'No run lies below'),
    (f'--under={tmp_path}/no', 'there is no such directory'),
  ):
    with pytest.raises(ValueError, match=says):
      options_test.parse('runs', [flag], look)
