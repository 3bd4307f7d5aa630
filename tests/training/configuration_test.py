"""Configs: what is accepted, what is refused, and how it is said."""

import json

import pytest
from ml_collections import ConfigDict

from parallel_ar.training import configuration, run_directory, trained


def _config(**train):
  config = configuration.default_config()
  config.model.name = 'made'
  config.train.update(train)
  return config


class TestDefault:
  def test_needs_only_a_model(self):
    configuration.validate(_config())
    with pytest.raises(ValueError, match=r'config\.model\.name'):
      configuration.validate(configuration.default_config())

  def test_typo_in_a_config_file_names_the_field(self):
    config = configuration.default_config()
    with pytest.raises(AttributeError, match=r'Did you mean.*patience'):
      config.train.patiense = 3
    with pytest.raises(KeyError, match='learning_rate'):
      config.optimizer.update(learning_rat=0.1)

  def test_model_and_data_take_their_own_fields(self):
    config = _config()
    config.model.hidden = (8000,)
    config.data.length = 64
    configuration.validate(config)


class TestValidate:
  @pytest.mark.parametrize(
    ('section', 'field', 'value'),
    [
      ('train', 'steps', 0),
      ('train', 'steps', -3),
      ('train', 'batch_size', 0),
      ('train', 'ema_decay', 1.0),
      ('train', 'patience', -1),
      ('optimizer', 'learning_rate', 0.0),
      ('optimizer', 'learning_rate', float('nan')),
      ('optimizer', 'name', 'adagard'),
      ('optimizer', 'schedule', 'steps'),
      ('optimizer', 'clip_norm', -1.0),
      ('optimizer', 'eps', -1e-8),
      ('evaluate', 'params', 'best'),
    ],
  )
  def test_names_the_field_and_its_value(self, section, field, value):
    config = _config()
    config[section][field] = value
    with pytest.raises(ValueError) as error:
      configuration.validate(config)
    assert f'config.{section}.{field} = {value!r}' in str(error.value)
    assert 'expected' in str(error.value)

  def test_wrong_types(self):
    plain = _config().to_dict()
    for value in ('100', 1.5, True, None):
      plain['train']['steps'] = value
      with pytest.raises(ValueError, match='expected int'):
        configuration.validate(ConfigDict(plain))

  def test_whole_numbers_do_for_floats(self):
    config = _config()
    config.optimizer.learning_rate = 1
    configuration.validate(config)

  def test_unknown_and_missing_fields_of_a_handmade_config(self):
    plain = configuration.to_json(_config())
    plain['train']['stepps'] = 7
    with pytest.raises(ValueError, match="Did you mean 'steps'"):
      configuration.validate(ConfigDict(plain))
    del plain['train']['stepps'], plain['train']['steps']
    with pytest.raises(ValueError, match=r'config\.train\.steps is missing'):
      configuration.validate(ConfigDict(plain))

  def test_batch_must_divide(self):
    with pytest.raises(ValueError, match='does not divide'):
      configuration.validate(_config(batch_size=10, accumulate=3))

  @pytest.mark.parametrize('fields', [{'patience': 3}, {'keep_best': True}])
  def test_selection_needs_validation(self, fields):
    config = _config(**fields)
    configuration.validate(config)
    config.data.valid_split = ''
    with pytest.raises(ValueError, match='validation split'):
      configuration.validate(config)

  def test_fields_must_be_recordable(self):
    config = _config()
    config.model.activation = print
    with pytest.raises(ValueError, match='builtin_function'):
      configuration.validate(config)


class TestJson:
  def test_round_trip(self):
    config = _config()
    config.model.hidden = (8, (4, 2))
    data = configuration.to_json(config)
    assert data == json.loads(json.dumps(data))
    assert configuration.from_json(data).model.hidden == (8, (4, 2))
    configuration.validate(configuration.from_json(data))

  def test_an_older_record_gets_the_defaults(self):
    """A field that is added in future does not break the runs of today."""
    data = configuration.to_json(_config())
    want = configuration.from_json(data).to_dict()
    for section in ('mesh', 'optimizer', 'train', 'evaluate'):
      for field in list(data[section]):
        less = data | {section: dict(data[section])}
        del less[section][field]
        got = configuration.from_json(less)
        assert got[section].to_dict().keys() == want[section].keys()
      without = {k: v for k, v in data.items() if k != section}
      assert configuration.from_json(without)[section]
    data['train']['of_another_version'] = 3
    assert configuration.from_json(data).train.of_another_version == 3

  @pytest.mark.parametrize(
    'change, match',
    [
      ({'train': 3}, r'config\.train = 3: expected a section'),
      ({'train': {'steps': 'x'}}, r'config\.train\.steps = .x. is of type str'),
      ({'evaluate': {'params': '../x'}}, r'one of auto, raw, ema'),
      ({'model': {}}, r'config\.model\.name is missing'),
      ({'data': [1]}, r'config\.data = \(1,\): expected a section'),
      ({'seed': 'x'}, r'config\.seed'),
    ],
  )
  def test_what_records_no_run_is_named(self, tmp_path, change, match):
    data = configuration.to_json(_config()) | change
    (tmp_path / 'config.json').write_text(json.dumps(data))
    with pytest.raises(ValueError, match=match) as caught:
      trained.load(tmp_path)
    assert str(tmp_path / 'config.json') in str(caught.value)

  @pytest.mark.parametrize(
    'content', [b'{"a":', b'', b'\xff\xfe', b'[' * 100_000, b' ' * 2**23]
  )
  def test_a_damaged_record_is_named(self, tmp_path, content):
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'config\.json is no config of a run'):
      trained.load(tmp_path)

  def test_differences_name_paths(self):
    old = {'a': {'b': 1, 'c': [1]}, 'd': 2}
    new = {'a': {'b': 2, 'c': [1]}, 'e': 'x'}
    assert configuration.differences(old, new) == [
      'a.b: 1 -> 2',
      'd: 2 -> absent',
      'e: absent -> "x"',
    ]
    assert configuration.differences(old, old) == []

  def test_an_empty_section_is_an_absent_one(self):
    """A record that is older than a section is no other config."""
    old, new = {'a': 1}, {'a': 1, 'options': {}}
    assert configuration.differences(old, new) == []
    assert configuration.differences(new, old) == []
    (line,) = configuration.differences(old, {'a': 1, 'options': {'b': 2}})
    assert line == 'options: absent -> {"b": 2}'


class TestRunDirectory:
  def test_replace_leaves_no_draft(self, tmp_path):
    run_directory.replace(tmp_path / 'a' / 'b.txt', 'one')
    run_directory.replace(tmp_path / 'a' / 'b.txt', 'two')
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['b.txt']
    assert (tmp_path / 'a' / 'b.txt').read_text() == 'two'
