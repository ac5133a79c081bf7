"""Sweeps whose trainer is a command: from the file to the argv of each run; nothing is started."""

import json
from pathlib import Path

import pytest
from builders import run_spec

from model.config import DataConfig
from sweeper.arguments import PLACES, arguments, placeholders
from sweeper.config import load_sweep
from sweeper.errors import ConfigError
from sweeper.grid import expand
from sweeper.laws.transfer import Transfer
from sweeper.spec import RunSpec, Trainer, run_id
from sweeper.typed import build, plain

SHORT = """\
defaults: [{trainer: command}, {cluster: local}, _self_]
lr: 0.1
tokens: 1000
batch_tokens: 100
trainer:
  argv: [python, train.py, --lr, "{lr_peak}", --dropout, "{dropout}", --steps, "{steps}", "{result}"]
  values: {dropout: 0.1, layers: 4, kind_of_norm: rms, tied: true}
"""
MODELLED = SHORT.replace("defaults: [", "defaults: [{model: tiny}, ").replace(
    "batch_tokens: 100\n", "batch_tokens: 1024\n"
)
WHERE = {name: f"/{name}" for name in PLACES}

# ruff: noqa: E501 - a sentence that a user reads stands on one line


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)


def specs(text, *overrides):
    Path("sweeps/mine.yaml").write_text(text)
    return expand(load_sweep("mine", overrides))


def columns(text, *overrides):
    return [dict(spec.axes) for spec in specs(text, *overrides)]


def sentence(text, *overrides):
    with pytest.raises(ConfigError) as error:
        specs(text, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def command(*argv, **settings):
    return Trainer(kind="command", argv=argv, **settings)


class TestFile:
    def test_a_sweep_of_a_command_needs_few_lines(self):
        (spec,) = specs(SHORT)
        assert spec.trainer.kind == "command"
        assert not spec.trainer.models
        assert spec.lr_peak == spec.lr == 0.1  # no transfer rule was chosen
        assert spec.train.steps == 10
        assert spec.train.data.fingerprint == ""  # and no data
        assert dict(spec.trainer.values) == {"dropout": 0.1, "layers": 4, "kind_of_norm": "rms", "tied": True}

    def test_a_run_is_read_back_as_it_was_written(self):
        (spec,) = specs(SHORT)
        assert build(RunSpec, json.loads(json.dumps(plain(spec))), "spec.json") == spec

    def test_the_trainer_of_its_own_is_the_default_and_can_be_said(self):
        (spec,) = specs(
            "defaults: [{model: tiny}, {optimizer: muonh}, {transfer: none}, {schedule: linear}, {data: synthetic}, {evaluation: quick}, {cluster: local}, {trainer: builtin}, _self_]\nlr: 0.1\ntokens: 1e5\nbatch_tokens: 2048\n"
        )
        assert spec.trainer == Trainer()

    def test_values_are_axes_by_their_name_and_columns_of_the_results(self):
        text = SHORT + "axes: {dropout: [0, 0.2], layers: [2, 6]}\n"
        assert columns(text) == [{"dropout": d, "layers": n} for d in (0.0, 0.2) for n in (2, 6)]
        assert [dict(spec.trainer.values)["dropout"] for spec in specs(text)] == [0.0, 0.0, 0.2, 0.2]
        assert len({spec.run_id for spec in specs(text)}) == 4

    def test_values_are_read_and_written_by_expressions(self):
        text = (
            SHORT
            + "axes: {layers: [2, 4, 8]}\nderive: {dropout: 0.4 / layers, tokens: 500 * layers}\nwhere: layers > 2 and kind_of_norm == 'rms'\n"
        )
        assert [(spec.train.tokens, dict(spec.axes)["dropout"]) for spec in specs(text)] == [(2000, 0.1), (4000, 0.05)]

    def test_an_axis_may_start_from_the_declared_value(self):
        assert [row["dropout"] for row in columns(SHORT + "axes: {dropout: 'around(dropout, 2, 3)'}\n")] == [
            0.05,
            0.1,
            0.2,
        ]

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("dropout=0.3", [{"layers": 2, "lr": 0.1}, {"layers": 2, "lr": 0.2}]),
            ("trainer.values.layers=8", [{"lr": 0.1}, {"lr": 0.2}]),
            ("~axes.lr", [{"layers": 2}]),
            ("axes.layers=[1]", [{"layers": 1, "lr": 0.1}, {"layers": 1, "lr": 0.2}]),
            ("axes.trainer.values.layers=[1]", [{"layers": 1, "lr": 0.1}, {"layers": 1, "lr": 0.2}]),
            ("derive.layers=lr*100", [{"lr": 0.1, "layers": 10}, {"lr": 0.2, "layers": 20}]),
        ],
    )
    def test_overrides_know_the_values(self, override, expected):
        assert columns(SHORT + "axes: {layers: [2], lr: [0.1, 0.2]}\n", override) == expected

    def test_an_override_may_declare_a_value(self):
        (spec,) = specs(SHORT, "trainer.values.warmup=1e-2", "trainer.argv=[run, '{warmup}']")
        assert dict(spec.trainer.values)["warmup"] == 0.01
        assert arguments(spec, WHERE) == ("run", "0.01")

    def test_arms_may_have_commands_of_their_own(self):
        arms = 'arms: {a: [], b: ["trainer.argv=[python, other.py]", dropout=0.5]}\n'
        first, second = specs(SHORT + arms)
        assert (first.trainer.argv[1], second.trainer.argv[1]) == ("train.py", "other.py")
        assert (dict(first.trainer.values)["dropout"], dict(second.trainer.values)["dropout"]) == (0.1, 0.5)

    def test_a_question_may_ask_for_a_value_that_varies(self):
        specs(
            SHORT + "axes: {dropout: [0.0, 0.1]}\nquestion: {by: [dropout], laws: [lr_peak ~ dropout], figures: [lr]}\n"
        )

    def test_a_branch_of_a_union_may_vary_a_value(self):
        text = SHORT + "union: [{axes: {dropout: [0.2]}}, {axes: {layers: [2]}}]\n"
        assert columns(text) == [{"dropout": 0.2, "layers": 4}, {"dropout": 0.1, "layers": 2}]


class TestModel:
    def test_a_model_that_is_chosen_describes_what_is_trained(self):
        spec, _ = specs(MODELLED + "axes: {width: [32, 64]}\n")
        assert spec.trainer.models
        assert spec.train.model.width == 32

    def test_without_one_its_names_are_free_for_values(self):
        text = SHORT.replace("{dropout: 0.1", "{width: 100, dropout: 0.1") + "axes: {width: [100, 300]}\n"
        assert columns(text) == [{"width": 100}, {"width": 300}]
        assert {spec.train.model.width for spec in specs(text)} == {1024}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("axes: {width: [64, 128]}\n", "sweeps/mine.yaml:8: axes.width: the sweep chooses no model whose width could vary; choose a model, or name a value of the trainer's own (trainer.values.width)"),
            ("derive: {tokens: 20 * params}\n", "sweeps/mine.yaml:8: derive.tokens: params follows from the model, and the sweep chooses none; choose a model, or name a value of the trainer's own"),
        ],
    )  # fmt: skip
    def test_without_one_a_grid_over_it_is_refused(self, text, expected):
        assert sentence(SHORT + text) == expected

    def test_data_that_are_chosen_are_fingerprinted(self):
        (spec,) = specs(SHORT.replace("defaults: [", "defaults: [{data: synthetic}, "))
        assert spec.train.data.source == "synthetic"
        assert spec.train.data.fingerprint


class TestRefusals:
    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            ('["{droput}"]', "sweeps/mine.yaml:6: trainer.argv[0]: unknown placeholder {droput}; did you mean 'dropout'?"),
            ('["{lr*2}"]', "sweeps/mine.yaml:6: trainer.argv[0]: '{lr*2}' has more than a name between braces; double literal braces, and compute values by derive"),
            ('["{lr:.2e}"]', "sweeps/mine.yaml:6: trainer.argv[0]: '{lr:.2e}' has more than a name between braces; double literal braces, and compute values by derive"),
            ('["{lr"]', "sweeps/mine.yaml:6: trainer.argv[0]: '{lr' has a single brace; double it ('{{') if it is meant"),
            ("[--lr, {lr}]", "sweeps/mine.yaml:6: trainer.argv[1]: {lr} is read as a mapping; quote it: \"{lr}\""),
            ('["{params}"]', "sweeps/mine.yaml:6: trainer.argv[0]: {params} follows from the model, and the sweep chooses none; choose a model"),
            ('["{width}"]', "sweeps/mine.yaml:6: trainer.argv[0]: {width} is a setting of the group model, which the sweep leaves out; choose one, or give trainer.values.width a value"),
            ('["{momentum}"]', "sweeps/mine.yaml:6: trainer.argv[0]: {momentum} is a setting of the group optimizer, which the sweep leaves out; choose one, or give trainer.values.momentum a value"),
            ("[]", "sweeps/mine.yaml:5: trainer: argv is empty: list the program and its arguments, such as [python, train.py]"),
        ],
    )  # fmt: skip
    def test_a_template_is_checked_before_anything_runs(self, argv, expected):
        lines = SHORT.splitlines()
        lines[5] = f"  argv: {argv}"
        assert sentence("\n".join(lines)) == expected

    def test_a_setting_that_the_sweep_gives_itself_may_be_read(self):
        text = SHORT.replace('"{result}"', '"{momentum}", "{model.width}"')
        (spec,) = specs(
            text.replace("{dropout: 0.1", "{width: 7, dropout: 0.1"),
            "momentum=0.9",
            "trainer.argv=['{momentum}', '{width}']",
        )
        assert arguments(spec, WHERE) == ("0.9", "7")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ("{lr: 1}", "trainer.values.lr: 'lr' means something else in every sweep; choose another name"),
            ("{threads: 1}", "trainer.values.threads: 'threads' means something else in every sweep; choose another name"),
            ("{loss: 1}", "trainer.values.loss: 'loss' means something else in every sweep; choose another name"),
            ("{run: 1}", "trainer.values.run: 'run' means something else in every sweep; choose another name"),
            ("{a-b: 1}", "trainer.values.a-b: 'a-b' cannot be read as a name; use letters, digits and _"),
        ],
    )  # fmt: skip
    def test_a_value_has_a_name_of_its_own(self, values, expected):
        assert (
            sentence(SHORT.replace("{dropout: 0.1,", values[:-1] + ", dropout: 0.1,"))
            == f"sweeps/mine.yaml:7: {expected}"
        )

    def test_a_name_of_a_chosen_model_is_taken(self):
        assert "'width' means something else" in sentence(MODELLED.replace("{dropout: 0.1", "{width: 1, dropout: 0.1"))

    def test_a_value_must_be_declared_before_it_varies(self):
        assert sentence(SHORT + "axes: {trainer.values.beta: [1]}\n").endswith(
            "the trainer has no value 'beta'; give trainer.values.beta its usual value"
        )
        assert sentence(SHORT + "axes: {droput: [1]}\n").endswith("no setting 'droput'; did you mean 'dropout'?")

    def test_a_value_keeps_the_type_of_its_declaration(self):
        assert (
            sentence(SHORT + "axes: {layers: [2.5]}\n")
            == "sweeps/mine.yaml:8: axes.layers: trainer.values.layers is declared as a whole number, got 2.5; declare it as 0.0, say"
        )
        assert sentence(SHORT + "axes: {tied: [1]}\n") == "sweeps/mine.yaml:8: axes.tied: expected true or false, got 1"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("trainer: command", "trainer: expected settings of Trainer, got 'command'"),
            ("trainer: {kind: command, argv: python train.py}", "trainer.argv: expected a list, got 'python train.py'"),
            ("trainer: {kind: command, argv: 7}", "trainer.argv: expected a list, got 7"),
            ("trainer: {kind: command, argv: [a, 7]}", "trainer.argv[1]: expected text, got 7"),
            ("trainer: {kind: command, argv: [a], values: {1: 2}}", "trainer.values.1: expected text, got 1"),
            ("trainer: {kind: command, argv: [a], values: {x: [1]}}", "trainer.values.x: expected int or float or str or bool, got [1]"),
        ],
    )  # fmt: skip
    def test_a_trainer_of_another_form_is_one_sentence(self, text, expected):
        given = "defaults: [{cluster: local}, {model: tiny}, {optimizer: muonh}, {transfer: none}, {schedule: linear}, {data: synthetic}, {evaluation: quick}, _self_]\nlr: 0.1\ntokens: 1e5\nbatch_tokens: 2048\n"
        assert sentence(given + text).endswith(expected)

    def test_a_command_is_said_to_be_one(self):
        assert sentence(SHORT.replace("{trainer: command}, ", "")).endswith(
            "trainer.argv is of a command; add trainer.kind: command"
        )


class TestArguments:
    def test_placeholders_become_the_values_of_the_run_and_braces_are_doubled(self):
        (spec,) = specs(
            SHORT, 'trainer.argv=[a, "{lr}", "{tokens}", "{seed}", "x={layers}/{tied}", "{{}}", "{run}", "{run_id}"]'
        )
        assert arguments(spec, WHERE) == ("a", "0.1", "1000", "3407", "x=4/true", "{}", "/run", spec.run_id)

    def test_settings_are_named_as_everywhere(self):
        (spec,) = specs(
            MODELLED, 'trainer.argv=["{width}", "{model.width}", "{seed.init}", "{params}", "{trainer.values.layers}"]'
        )
        assert arguments(spec, WHERE)[:3] == ("32", "32", "3407")
        assert int(arguments(spec, WHERE)[3]) > 0
        assert arguments(spec, WHERE)[4] == "4"

    def test_no_shell_reads_an_argument(self):
        (spec,) = specs(SHORT, "kind_of_norm=; rm -rf $HOME", 'trainer.argv=["{kind_of_norm} *"]')
        assert arguments(spec, WHERE) == ("; rm -rf $HOME *",)

    def test_names_are_found_between_braces(self):
        assert placeholders("a{b}c{{d}}{e.f}", "argv") == ("b", "e.f")


class TestIdentity:
    def identity(self, trainer=None):
        spec = run_spec()
        return run_id(spec.lr, spec.train, *([] if trainer is None else [trainer]))

    def test_the_trainer_of_this_package_adds_nothing(self):
        assert self.identity(Trainer()) == self.identity()

    def test_template_and_values_are_part_of_it(self):
        commands = [command("a"), command("b"), command("a", values=(("x", 1),)), command("a", values=(("x", 2),))]
        assert len({self.identity(trainer) for trainer in [None, *commands]}) == 5

    def test_the_order_of_values_and_the_spelling_of_numbers_are_not(self):
        first, second = (("a", 1.0), ("b", 2)), (("b", 2.0), ("a", 1))
        assert self.identity(command("x", values=first)) == self.identity(command("x", values=second))

    def test_how_a_command_is_started_and_stopped_is_not(self):
        other = command("x", per="job", signal="SIGUSR1", grace_s=5.0, directory="/elsewhere", models=False)
        assert self.identity(other) == self.identity(command("x"))

    def test_a_version_stands_for_the_template(self):
        assert self.identity(command("x", version="1")) == self.identity(command("/new/x", "--log", version="1"))
        assert len({self.identity(command("x", version=v)) for v in ("", "1", "2")}) == 3


def test_data_and_rules_that_nobody_chose_say_so():
    (spec,) = specs(SHORT)
    assert spec.transfer == Transfer(rule="none")
    assert spec.train.data == DataConfig()
