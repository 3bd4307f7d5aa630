"""Flags are checked when they are parsed, in one process for all scripts."""

import contextlib
import io
import pathlib
import re
import sys
from unittest import mock

import jax
import pytest
from absl import flags

from experiments import entry, inside, options
from parallel_ar import models
from parallel_ar.data import sources
from parallel_ar.training import configuration

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(
  str(path.relative_to(ROOT / 'experiments').with_suffix(''))
  for path in (ROOT / 'experiments').rglob('*.py')
  if "if __name__ == '__main__'" in path.read_text()
)


def parse(script, words, look=None):
  """What a script says of its flags: '' where it would start."""
  said = io.StringIO()
  try:
    with (
      contextlib.redirect_stderr(said),
      inside.imported(script, words) as module,
    ):
      rest = entry.parse(sys.argv)[1 + hasattr(module, 'TAKES') :]
      assert rest == [], f'no flags: {rest}'
      if look is not None:
        look(flags.FLAGS)
  except SystemExit:
    pass
  return ' '.join(said.getvalue().split())


def refusal(script, words):
  """What a script says that starts, refuses and ends with exit code 1."""

  def start(_):
    main = sys.modules[f'experiments.{script.replace("/", ".")}'].main
    try:
      entry.start(main, sys.argv[:1])
    except SystemExit as left:
      assert left.code == 1
      raise

  return parse(script, words, start)


def run(script, words):
  """What a script prints that works to its end, in this process.

  It costs neither another start of JAX nor what is compiled here already. Here
  are 8 devices, over which a training spreads unless --config.mesh.data=1.
  """
  # What a script sets is of its own process: devices, no compilation cache.
  own = mock.patch.object(type(jax.config), 'update')
  with contextlib.chdir(ROOT), own:
    code, said = inside.run(script, [str(word) for word in words])
  assert code == 0, said
  return said


class TestConfig:
  CONFIG = '--config=configs/digits_transformer.py'

  def read(self, *words, config=CONFIG):
    found = []
    said = parse(
      'train', [config, *words], lambda v: found.append(v['config'].value)
    )
    assert said == ''
    return found[0]

  def test_fields_are_those_of_the_file_that_is_taken(self):
    found = []
    keep = lambda v: found.append(v['config'].value.model)
    own = ['--config=configs/digits_made.py', '--config.model.hidden=(8,)']
    assert parse('tables/loop_speed', own, keep) == ''
    assert parse('tables/loop_speed', [], keep) == ''
    assert [m.name for m in found] == ['made', 'transformer']
    assert found[0].hidden == (8,)
    said = parse('tables/loop_speed', ['--config.model.hidden=(8,)'], keep)
    assert "config.model has no field 'hidden'" in said

  def test_any_argument_of_a_factory_is_a_flag(self):
    config = self.read(
      '--config.model.remat=full',
      '--config.model.dtype=bfloat16',
      '--config.model.pattern=("local","strided")',
      '--config.model.tied',
      '--config.model.order_seed=3',
    )
    model = config.model.to_dict()
    assert (model['remat'], model['tied']) == ('full', True)
    assert model['dtype'] == 'bfloat16'
    assert model['pattern'] == ('local', 'strided')
    assert model['order_seed'] == 3
    assert 'window' not in model, 'what nobody set is not recorded'

  def test_any_argument_of_a_source_is_a_flag(self):
    config = self.read(
      '--config.data.verify=False',
      '--config.data.labels=True',
      '--config.data.stride=2',
      config='--config=configs/mnist_gated_pixelcnn.py',
    )
    data = config.data.to_dict()
    assert data['verify'] is False
    assert (data['labels'], data['stride']) == (True, 2)

  def test_the_arguments_are_those_of_the_family_that_a_flag_names(self):
    words = ['--config.model.name=recurrent', '--config.model.damping=0.5']
    assert self.read(*words).model.damping == 0.5

  def test_options_of_rules_and_schedules_and_a_base_are_flags(self):
    section = self.read(
      '--config.optimizer.name=schedule_free',
      '--config.optimizer.options.base_optimizer=rmsprop',
      '--config.optimizer.options.b1=0.95',
      '--config.optimizer.schedule=sgdr_schedule',
      "--config.optimizer.schedule_options.cosine_kwargs=[{'decay_steps': 3}]",
      '--config.optimizer.mup_base.features=8',
    ).optimizer.to_dict()
    assert section['options'] == {'base_optimizer': 'rmsprop', 'b1': 0.95}
    assert section['schedule_options'] == {
      'cosine_kwargs': [{'decay_steps': 3}]
    }
    assert section['mup_base'] == {'features': 8}

  @pytest.mark.parametrize('name', models.FAMILIES)
  def test_nothing_is_left_behind(self, name):
    before = configuration.to_json(self.read())
    assert configuration.to_json(self.read()) == before
    assert 'name' not in models.fields(name)
    assert 'rank' not in models.fields(name)

  def test_every_source_has_its_options(self):
    assert sources.fields('jsb') == {
      'history': int,
      'skip': int,
      'verify': bool,
    }

  @pytest.mark.parametrize(
    ('word', 'says'),
    [
      ('--config.model.remt=full', "'remt'. Did you mean 'remat'?"),
      ('--config.data.strid=2', "Did you mean 'stride'?"),
      ('--config.trian.steps=2', "Did you mean 'train'?"),
      ('--config.train.steps.x=2', "config.train.steps has no field 'x'"),
      ('--config.model.tied=maybe', 'maybe'),
      ('--config.optimizer.name=lionn', "Did you mean 'lion'?"),
      ('--config.optimizer.options.b1=1', "options has no field 'b1'"),
      ('--config.optimizer.mup_base.feature=1', "Did you mean 'features'?"),
      ('--config.model.layers=two', "expected a whole number, not 'two'"),
      ('--config.optimizer.learning_rate=nan', 'finite'),
    ],
  )
  def test_a_field_that_there_is_not(self, word, says):
    assert says in parse('train', [self.CONFIG, word])

  def test_a_tuple_is_given_once(self):
    said = parse('train', [self.CONFIG, *2 * ['--config.model.event=(9,)']])
    assert 'given 2 times' in said

  @pytest.mark.parametrize(
    ('text', 'says'),
    [
      ('def get_config(:\n', 'line 1 is no Python'),
      ('x = 1\n', 'no function get_config()'),
      ('def get_config():\n  return {}\n', 'returned dict'),
      ('\ndef get_config():\n  return 1 / 0\n', 'line 3: ZeroDivisionError'),
      ('import nosuchmodule\n', 'line 1: ModuleNotFoundError: No module named'),
    ],
  )
  def test_a_file_that_is_no_config(self, tmp_path, text, says):
    path = tmp_path / 'a.py'
    path.write_text(text)
    assert says in parse('train', [f'--config={path}'])

  def test_a_record_is_no_config(self, tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    said = parse('train', [f'--config={tmp_path}/config.json'])
    assert '--workdir' in said

  def test_a_cell_of_a_table_has_the_nearest_name(self):
    said = parse('train', ['--config=configs/paper.py:uci_dna/mad'])
    assert "Did you mean 'uci_dna/made'?" in said


@pytest.mark.parametrize(
  ('field', 'value', 'says'),
  [
    ('features', 0, 'at least 1'),
    ('features', -1, 'at least 1'),
    ('features', 8.0, 'whole number'),
    ('layers', True, 'whole number'),
    ('event', (8, 0), 'tuple'),
    ('event', 8, 'tuple'),
    ('tied', 1, 'bool'),
    ('positions', 'rotatory', 'rotary'),
    ('context_size', -1, 'at least 0'),
    ('dtype', 'bfloat', 'bfloat16'),
    ('dtype', 'int32', 'bfloat16'),
  ],
)
def test_a_model_refuses_values_of_another_type(field, value, says):
  config = {'name': 'transformer', 'event': (4,), 'num_values': 3}
  with pytest.raises(ValueError, match=rf'config\.model\.{field} = .*{says}'):
    models.build(config | {field: value})


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_number_has_a_bound_and_every_output_is_tried(script, tmp_path):
  module = f'experiments.{script.replace("/", ".")}'

  def look(values):
    for flag in values.flags_by_module_dict()[module]:
      if isinstance(flag.parser, flags.IntegerParser | flags.FloatParser):
        assert flag.parser.lower_bound is not None, flag.name
      if flag.name in ('out', 'result', 'png', 'dump', 'csv'):
        (ending, *_) = [*flag.parser.suffixes, '.json']
        for path, says in (
          (str(tmp_path), 'directory'),
          (f'/proc/none/a{ending}', 'no file can be written in /proc'),
        ):
          with pytest.raises(flags.IllegalFlagValueError, match=says):
            flag.parse(path)

  assert parse(script, [], look) == ''


def test_every_script_has_one_way_to_be_many_processes():
  """Each computes its part, or process 0 does it all, see `hosts`."""
  parts = []
  for script in SCRIPTS:
    text = (ROOT / 'experiments' / f'{script}.py').read_text()
    body, _, last = text.partition("\nif __name__ == '__main__':\n")
    connects = 'connects=True' in last
    assert re.fullmatch(r'  entry\.run\(main(, [a-z]+=\w+)*\)\n', last), script
    assert ('hosts.connect(' in body) == connects, script
    assert connects or 'multihost' not in body, script
    parts += [script] * connects
  # Those that `distributed/two_processes_test.py` compares with one process.
  assert parts == ['evaluate', 'export_params', 'sample', 'train']


def test_a_file_that_is_missing_or_a_folder_is_told_plainly(tmp_path):
  said = refusal('decompress', ['--file=none.par', '--workdir=a', '--out=b'])
  assert 'none.par: there is no such file' in said and 'Errno' not in said
  said = refusal('decompress', [f'--file={tmp_path}', '--workdir=a', '--out=b'])
  assert 'this is a directory, where a file is expected' in said


def test_an_output_behind_a_link_is_looked_at(tmp_path):
  (tmp_path / 'link').symlink_to('/proc/none/out.json')
  with pytest.raises(ValueError, match='no file can be written in /proc'):
    options.check_writable(tmp_path / 'link')
