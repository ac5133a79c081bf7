import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sweeper.config import load_sweep, shipped, sweep_names
from sweeper.errors import ConfigError, DataError
from sweeper.grid import expand

HEAD = """\
defaults:
  - model: tiny
  - optimizer: muonh
  - transfer: measure
  - schedule: linear
  - data: synthetic
  - evaluation: quick
  - cluster: local
  - _self_
lr: 0.1
tokens: 1e5
batch_tokens: 2048
"""
CHOSEN = {
    "model": "tiny",
    "optimizer": "muonh",
    "transfer": "none",
    "schedule": "linear",
    "data": "synthetic",
    "evaluation": "quick",
    "cluster": "local",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A user's working directory with a `sweeps` folder of their own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text, name="mine"):
    Path("sweeps", f"{name}.yaml").write_text(HEAD + text)
    return name


def loaded(text, *overrides):
    return load_sweep(written(text), overrides)


def each(*overrides):
    """One arm per override, so that a sweep is composed once for all of them."""
    return loaded(f"arms: {json.dumps({str(i): [override] for i, override in enumerate(overrides)})}").arms


def sentence(name, *overrides):
    with pytest.raises(ConfigError) as error:
        expand(load_sweep(name, overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


def axes(sweep):
    return dict(sweep.arms[0].grid.axes)


# ruff: noqa: E501 - a sentence that a user reads stands on one line


class TestFinding:
    def test_the_quickstart_ships_with_the_package(self):
        sweep = load_sweep("quickstart", ["data=synthetic"])
        specs = expand(sweep)
        budgets = {spec.train.tokens for spec in specs}
        assert budgets == {131_072 * k for k in (1, 2, 4, 8)}
        assert all(sum(spec.train.tokens == tokens for spec in specs) >= 5 for tokens in budgets)
        # The sweep measures the law, so no factor may hide it: what is trained with is what is asked for.
        assert all(spec.lr_peak == pytest.approx(spec.lr) for spec in specs)

    def test_a_users_sweep_comes_before_the_one_that_ships(self):
        written("title: my own\n", "quickstart")
        assert load_sweep("quickstart").title == "my own"

    def test_a_sweep_may_lie_in_a_folder_or_be_named_by_its_path(self, folder):
        Path("sweeps/group").mkdir()
        written("", "group/a")
        assert load_sweep("group/a").name == "group/a"
        assert load_sweep(str(folder / "sweeps/group/a.yaml")).name == "group/a"
        assert "group/a" in sweep_names()

    def test_an_unknown_sweep_suggests_the_nearest(self):
        assert sentence("quikstart") == (
            "no sweep 'quikstart' in ./sweeps or among those that ship; did you mean 'quickstart'?"
        )

    def test_a_missing_file_is_said_to_be_missing(self):
        assert "no sweep file 'nope.yaml'" in sentence("nope.yaml")

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"\xff\xfe", "sweeps/a.yaml: not UTF-8 text (byte 0); save it as UTF-8"),
            (b"\0" * 9, "sweeps/a.yaml: not text (it holds NUL bytes); restore the sweep file"),
            (b"\n", "sweeps/a.yaml: the file is empty; write a sweep into it"),
            (b"just words\n", "sweeps/a.yaml: "),
            (b"- a\n- b\n", "sweeps/a.yaml: "),
            (b"\x01", "sweeps/a.yaml: "),
        ],
    )
    def test_a_file_that_is_no_sweep_is_said_to_be_none(self, content, expected):
        Path("sweeps/a.yaml").write_bytes(content)
        assert sentence("a").startswith(expected)
        assert sentence("sweeps/a.yaml").startswith(expected)

    def test_a_group_that_is_not_text_is_one_sentence(self):
        Path("conf/cluster").mkdir(parents=True)
        Path("conf/cluster/mine.yaml").write_bytes(b"name: \xff\xfe")
        assert "not UTF-8 text" in sentence(written(""), "cluster=mine")

    def test_what_cannot_be_a_sweep_file_is_told_what_one_is(self):
        Path("sweeps/x.yaml").mkdir()
        Path("sweeps/b15.yml").write_text("lr: 1")
        Path("README.md").write_text("# read me")
        assert (
            sentence("x")
            == sentence("sweeps/x.yaml")
            == ("sweeps/x.yaml: a folder, not a sweep file; remove it, or name a file")
        )
        assert (
            sentence("b15") == sentence("sweeps/b15.yml") == ("sweeps/b15.yml: a sweep file ends in .yaml; rename it")
        )
        assert sentence("README.md") == "README.md: a sweep file ends in .yaml; name one that does"
        assert sentence("sweeps") == "sweeps: a folder, not a sweep; name one of the files in it"

    def test_a_users_group_comes_before_the_one_that_ships(self):
        Path("conf/model").mkdir(parents=True)
        Path("conf/model/tiny.yaml").write_text("{width: 64, head_size: 16, kv_heads: 2, context: 128}")
        assert loaded("").arms[0].base.model.width == 64

    def test_a_folder_with_a_quote_and_spaces_is_found(self, folder, monkeypatch):
        odd = folder / "it's a, folder=1"
        (odd / "sweeps").mkdir(parents=True)
        (odd / "conf/cluster").mkdir(parents=True)
        (odd / "conf/cluster/mine.yaml").write_text("parallel: 7")
        monkeypatch.chdir(odd)
        assert loaded("", "cluster=mine").cluster.parallel == 7

    @pytest.mark.parametrize(
        "group",
        sorted(p.relative_to(shipped("conf")).with_suffix("").as_posix() for p in shipped("conf").rglob("*.yaml")),
    )
    def test_every_configuration_that_ships_is_valid(self, group):
        kind, option = group.split("/")
        groups = CHOSEN | {kind: option}
        sweep = {"defaults": [*({k: v} for k, v in groups.items()), "_self_"], "lr": 0.1, "tokens": 1e5}
        Path("sweeps/a.yaml").write_text(json.dumps({**sweep, "batch_tokens": 4096}))
        overrides = ["data.path=missing", "vocab=256"] if option in ("text", "shards", "hf") else []
        if option in ("text", "shards", "hf"):
            with pytest.raises(DataError, match="missing"):
                load_sweep("a", overrides)
        else:
            assert expand(load_sweep("a"))


class TestIsolation:
    def test_nothing_is_left_behind(self, folder):
        before = GlobalHydra.instance().is_initialized()
        written("")
        load_sweep("mine")
        assert GlobalHydra.instance().is_initialized() is before is False
        assert [path.name for path in folder.iterdir()] == ["sweeps"]

    def test_a_users_own_hydra_application_is_undisturbed(self, folder):
        from hydra import compose, initialize_config_dir

        written("")
        (folder / "app.yaml").write_text("answer: 42")
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            load_sweep("mine")
            assert compose("app").answer == 42

    def test_planning_imports_no_torch(self):
        code = (
            "import sys; from sweeper.config import load_sweep; from sweeper.grid import expand; "
            "expand(load_sweep('quickstart', ['data=synthetic'])); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestOverrides:
    def test_a_setting_is_named_by_its_path_or_in_short(self):
        arms = each("model.depth=4", "depth=4", "++model.depth=4", "depth=2*2", "depth=4.0")
        assert [arm.base.model.depth for arm in arms] == [4] * 5

    def test_every_way_to_write_a_number_is_a_number(self):
        arms = each("lr=1e-3", "lr=1e-03", "lr=0.001", "lr=2**-3/125")
        assert [arm.base.lr for arm in arms] == pytest.approx([1e-3] * 4)

    def test_text_needs_no_quotes(self):
        assert loaded("", "title=a, b = c's (1)").title == "a, b = c's (1)"

    def test_seed_sets_both_seeds(self):
        seeds = loaded("", "seed=7").arms[0].base.seed
        assert (seeds.init, seeds.data) == (7, 7)
        seeds = loaded("seed: 5\n").arms[0].base.seed
        assert (seeds.init, seeds.data) == (5, 5)

    def test_a_group_that_the_sweep_does_not_name_is_added(self):
        assert loaded("", "cluster=h100").cluster.gpu.name == "h100"

    def test_settings_outside_the_grid_resolve_too(self):
        sweep = loaded("", "threads=2", "cluster.gpu.mfu=0.5", "question.by=[tokens, width]")
        assert (sweep.execution.threads, sweep.cluster.gpu.mfu, sweep.question.by) == (2, 0.5, ("tokens", "width"))

    def test_triton_on_a_cpu_is_one_sentence(self):
        with pytest.raises(ConfigError, match=r"triton needs a GPU, and execution\.device is cpu"):
            loaded("", "execution.triton=true", "execution.device=cpu")

    @pytest.mark.parametrize(
        ("file", "override", "fuse"),
        [
            ("", "launch.fuse=8", 8),
            ("", "fuse=auto", "auto"),
            ("", "launch.fuse=off", "off"),
            ("launch: {fuse: 4}\n", "lr=0.1", 4),
            ("launch: {fuse: off}\n", "lr=0.1", "off"),  # which YAML takes for false
            ("", "lr=0.1", "auto"),
        ],
    )
    def test_fuse_is_a_word_or_a_number(self, file, override, fuse):
        assert loaded(file, override).launch.fuse == fuse

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("launch.fuse=fast", "expected int or auto or off, got 'fast'"),
            ("launch.fuse=2.5", "expected int or auto or off, got 2.5"),
            ("launch.fuse=0", "launch.fuse is auto, off or a number of runs from 1, got 0"),
        ],
    )
    def test_another_fuse_is_one_sentence(self, override, expected):
        with pytest.raises(ConfigError, match=expected):
            loaded("", override)

    @pytest.mark.parametrize(
        ("file", "override", "compiles"),
        [
            ("execution: {compile: on}\n", "lr=0.1", "on"),  # which YAML takes for true
            ("execution: {compile: off}\n", "lr=0.1", "off"),
            ("", "execution.compile=on", "on"),
            ("", "compile=auto", "auto"),
        ],
    )
    def test_on_and_off_are_words(self, file, override, compiles):
        assert loaded(file, override).execution.compile == compiles

    def test_an_axis_takes_lists_and_expressions(self):
        values = {
            "axes.lr=geom(5e-3,0.16,6)": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
            "axes.lr=[1e-3, 2e-3]": (0.001, 0.002),
            "axes.lr=0.3": (0.3,),
            "axes.lr=around(lr, 2, 3)": (0.05, 0.1, 0.2),
            "axes={lr: geom(0.1, 0.4, 3)}": (0.1, 0.2, 0.4),
        }
        assert [arm.grid.axes for arm in each(*values)] == [(("lr", points),) for points in values.values()]

    def test_an_axis_on_the_command_line_takes_the_place_of_the_files(self):
        assert axes(loaded("axes: {lr: [9]}\n", "axes.lr=[0.1, 0.2]")) == {"lr": (0.1, 0.2)}

    def test_axes_take_precedence_however_they_are_spelled(self):
        assert axes(loaded("axes: {model.width: [32, 64]}\n", "axes.width=range(32,129,32)")) == {
            "width": (32, 64, 96, 128)
        }

    def test_a_setting_pins_an_axis_and_says_so(self):
        sweep = loaded("axes: {width: [32, 64], lr: [0.1, 0.2]}\n", "model.width=48")
        assert axes(sweep) == {"lr": (0.1, 0.2)}
        assert sweep.arms[0].base.model.width == 48
        assert sweep.notes == ("override 'model.width=48' pins width; the sweep's [32, 64] is left out",)

    def test_the_resolved_configuration_is_a_sweep_of_the_same_runs(self):
        text = "derive: {lr: 2 * predicted_lr}\naxes: {width: [32, 64], depth: [2, 4]}\n"
        sweep = loaded(text, "depth=4", "axes.lr=geom(0.1,0.2,3)", "where=width<64 or lr<0.2")
        Path("sweeps/again.yaml").write_text(sweep.resolved)
        assert [s.run_id for s in expand(load_sweep("again"))] == [s.run_id for s in expand(sweep)]

    def test_the_later_of_a_pin_and_an_axis_wins(self):
        assert axes(loaded("axes: {lr: [9]}\n", "lr=0.3", "axes.lr=[0.1]")) == {"lr": (0.1,)}
        assert axes(loaded("axes: {lr: [9]}\n", "axes.lr=[0.1]", "lr=0.3")) == {}

    def test_a_pinned_key_leaves_its_zip(self):
        sweep = loaded("zip: {width: [32, 64], depth: [2, 4]}\n", "width=32")
        assert sweep.arms[0].grid.zip == ((("depth", (2, 4)),),)

    def test_a_derived_rate_moves_with_its_centre(self):
        sweep = loaded("derive: {lr: 'around(predicted_lr, 2, 3)', tokens: 50 * params}\n", "lr=0.2", "tokens=1e6")
        assert dict(sweep.arms[0].grid.derive) == {"lr": "around(predicted_lr, 2, 3)"}
        assert sweep.arms[0].base.lr == 0.2
        assert sweep.notes == ("override 'tokens=1e6' pins tokens; the sweep's 50 * params is left out",)

    def test_an_axis_takes_the_place_of_a_derived_value_and_says_so(self):
        sweep = loaded("derive: {lr: 2 * predicted_lr}\n", "axes.lr=[0.1]")
        assert sweep.arms[0].grid.derive == ()
        assert sweep.notes == ("override 'axes.lr=[0.1]' takes the place of derive.lr = 2 * predicted_lr",)

    def test_every_part_of_the_grid_can_be_given(self):
        sweep = loaded(
            "",
            "zip={width: [32, 64], depth: [2, 4]}",
            "union=[{axes: {lr: geom(0.1, 0.2, 2)}}, {axes: {lr: [0.4]}, where: width < 64}]",
            "derive.tokens=50*params",
            "where=[depth < 5, 'width > 0']",
            "repeat=2",
        )
        assert sweep.arms[0].grid.where == ("depth < 5", "width > 0")
        assert len(expand(sweep)) == 2 * (2 * 2 + 1)

    def test_an_axis_can_be_removed(self):
        assert axes(loaded("axes: {lr: [1, 2], width: [32]}\n", "~axes.lr")) == {"width": (32,)}

    def test_a_part_can_be_removed_and_given_anew(self):
        text = "axes: {depth: [2, 4], width: [32, 64]}\nwhere: depth < 3\n"
        assert axes(loaded(text, "~axes", "axes.lr=[0.1]", "axes.model.width=[48]")) == {"lr": (0.1,), "width": (48,)}
        assert axes(loaded(text, "axes.lr=[0.1]", "~axes")) == {}
        assert axes(loaded(text, "~axes", "axes={lr: [0.2]}")) == {"lr": (0.2,)}
        assert loaded(text, "~where", "where=width < 64").arms[0].grid.where == ("width < 64",)

    def test_a_path_of_the_file_rests_while_an_override_chooses_other_data(self):
        assert loaded("data: {path: t.txt}\n", "data=synthetic").arms[0].base.data.source == "synthetic"
        assert "synthetic reads no path, got 't.txt'" in sentence(written("data: {path: t.txt}\n"))

    def test_data_bring_their_vocabulary(self):
        assert load_sweep("quickstart", ["data=synthetic", "model=hyperp_d8"]).arms[0].base.model.vocab == 256
        assert load_sweep("quickstart", ["data=synthetic", "model.vocab=64"]).arms[0].base.model.vocab == 64


class TestScalesAndArms:
    FILE = """\
axes: {lr: [0.1, 0.2]}
scales:
  tiny: [tokens=5e4, "axes.lr=[0.3]"]
arms:
  plain:
  muon: [optimizer=muon, transfer=muon_mupp, lr=0.02, tokens=6e4]
"""

    def test_each_arm_is_composed_once(self):
        plain, muon = loaded(self.FILE).arms
        assert (plain.name, plain.base.optimizer.name, plain.base.transfer.rule) == ("plain", "muonh", "hyperp")
        assert (muon.name, muon.base.optimizer.name, muon.base.transfer.rule) == ("muon", "muon", "muon_mupp")
        assert muon.grid.axes == ()

    def test_some_arms_can_be_kept(self):
        assert [arm.name for arm in loaded(self.FILE, "arm=muon").arms] == ["muon"]
        assert [arm.name for arm in loaded(self.FILE, "arm=muon, plain", "lr=0.3").arms] == ["plain", "muon"]
        assert sentence(written(self.FILE), "arm=moun") == (
            "override 'arm=moun': sweep mine has no arm 'moun'; did you mean 'muon'?"
        )
        assert sentence(written(""), "arm=muon") == "override 'arm=muon': sweep mine has no arms; leave it out"
        assert sentence(written(self.FILE), "arms={a: []}") == (
            "override 'arms={a: []}': arms are written in the sweep file, sweeps/mine.yaml; "
            "use arm=NAME, or copy the file"
        )

    def test_the_runs_of_an_arm_are_the_same_alone(self):
        runs = {spec.run_id for spec in expand(loaded(self.FILE)) if spec.arm == "plain"}
        assert {spec.run_id for spec in expand(loaded(self.FILE, "arm=plain"))} == runs

    def test_a_baseline_that_is_not_kept_is_not_asked_for(self):
        text = self.FILE + "question: {baseline: plain}\n"
        assert loaded(text).question.baseline == "plain"
        assert loaded(text, "arm=muon").question.baseline == ""

    def test_what_only_another_arm_varies_is_no_column_of_the_arms_that_are_kept(self):
        text = """\
axes: {lr: [0.1, 0.2]}
arms:
  plain:
  wide: ["axes.head_size=[8, 16]"]
question: {by: [head_size], per: [arm]}
"""
        assert loaded(text).question.by == ("head_size",)
        assert loaded(text, "arm=plain").question.by == ()
        assert loaded(text, "arm=wide").question.by == ("head_size",)

    def test_an_arm_that_cannot_be_is_named(self):
        text = "arms: {plain: [], bare: [vectors=noscale]}\n"
        assert sentence(written(text), "vectors.hetero=true").startswith("arm bare: ")

    def test_the_command_line_wins_over_arms_and_arms_over_scales(self):
        assert [arm.base.tokens for arm in loaded(self.FILE, "scale=tiny").arms] == [50_000, 60_000]
        assert [arm.base.tokens for arm in loaded(self.FILE, "scale=tiny", "tokens=7e4").arms] == [70_000] * 2

    def test_a_scale_gives_an_arm_other_overrides(self):
        text = self.FILE.replace('"axes.lr=[0.3]"]', '"arms.muon=[optimizer=muon, derive.lr=lr / 2]"]')
        muon = loaded(text, "scale=tiny").arms[1]
        assert (muon.base.transfer.rule, muon.base.tokens, len(muon.grid.derive)) == ("hyperp", 50_000, 1)
        assert loaded(text).arms[1].base.transfer.rule == "muon_mupp"

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("arms.moun=[]", "override 'arms.moun=[]' of scale tiny: no arm 'moun'; did you mean 'muon'?"),
            ("arms.muon=[lr", "expected a list of overrides, such as arms.muon=[transfer=none]"),
            ("arms.muon=3", "override 'arms.muon=3' of scale tiny: expected"),
        ],
    )
    def test_a_wrong_arm_of_a_scale_is_named(self, override, words):
        text = self.FILE.replace('"axes.lr=[0.3]"', f'"{override}"')
        assert words in sentence(written(text), "scale=tiny")

    def test_notes_name_the_arm(self):
        assert loaded(self.FILE).notes == (
            "arm muon: override 'lr=0.02' of arm muon pins lr; the sweep's [0.1, 0.2] is left out",
        )

    def test_an_unknown_scale_suggests_the_nearest(self):
        assert sentence(written(self.FILE), "scale=tny") == "sweep mine has no scale 'tny'; did you mean 'tiny'?"


class TestErrors:
    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("model.widht=3", "override 'model.widht=3': no setting 'model.widht'; did you mean 'model.width'?"),
            (
                "model.vectors=hg",
                "override 'model.vectors=hg': 'model.vectors' is a group of settings; choose one of its presets by "
                "vectors=… (decay_all, dnp, dnp_or, dp, er, hg, hg_dnp_or, iwd, noscale, noscale_but_final, or, standard, "
                "unified) or set them one by one",
            ),
            ("grid.lr=0.1,0.2", "override 'grid.lr=0.1,0.2': no setting 'grid.lr'; an axis of the grid is axes.lr=…"),
            ("modle=tiny", "override 'modle=tiny': no setting 'modle'; did you mean 'model'?"),
            ("model=tinny", "override 'model=tinny': no model 'tinny'; did you mean 'tiny'?"),
            ("cluster.gpu.mfx=1", "override 'cluster.gpu.mfx=1': no setting 'cluster.gpu.mfx'; did you mean 'cluster.gpu.mfu'?"),
            ("width=-3", "model with override 'width=-3': the model's width must be positive, got -3"),
            (
                "head_size=48",
                "model with override 'head_size=48': head_size 48 does not divide the attention width 64 "
                "(attention_ratio 2 × width 32); choose a head_size that does",
            ),
            ("depth=four", "override 'depth=four': expected a whole number, got 'four'"),
            ("depth=2.5", "override 'depth=2.5': expected a whole number, got 2.5"),
            ("qk_norm=3", "override 'qk_norm=3': expected true or false, got 3"),
            ("precision=fp8", "override 'precision=fp8': got 'fp8'; choose one of bfloat16, float32, float64"),
            ("lr=0", "override 'lr=0': lr must be positive, got 0.0"),
            ("lr=1e400", "override 'lr=1e400': expected a finite number, got inf"),
            ("axes.tokens=[1e6,-5]", "override 'axes.tokens=[1e6,-5]': tokens must be positive, got -5"),
            ("axes.tokens=[0]", "override 'axes.tokens=[0]': tokens must be positive, got 0"),
            ("axes.lr=[0.1, 1e999]", "override 'axes.lr=[0.1, 1e999]': expected a finite number, got inf"),
            ("axes.lr=[-0.1]", "override 'axes.lr=[-0.1]': lr must be positive, got -0.1"),
            ("axes.depth=[2, -2]", "override 'axes.depth=[2, -2]': depth must be positive, got -2"),
            ("axes.batch_tokens=[0]", "override 'axes.batch_tokens=[0]': batch_tokens must be positive, got 0"),
            ("derive.tokens=params - 1e9", "sweep mine: derive.tokens: tokens must be positive, got -999946752"),
            ("derive.lr=lr - lr", "sweep mine: derive.lr: lr must be positive, got 0.0"),
            ("derive.lr=1e308*10", "sweep mine: derive.lr: expected a finite number, got inf"),
            ("axes.lr=[(-8)**(1/3)]", "override 'axes.lr=[(-8)**(1/3)]': a negative number, -8, has no power 0.3333333333333333 in '[(-8)**(1/3)]'"),
            ("tokens=1e30", "override 'tokens=1e30': tokens must be at most 1e+16, got 1e+30; mend its exponent"),
            ("lr=0.1,0.2", "override 'lr=0.1,0.2': one value is expected; several are an axis, 'axes.lr=0.1,0.2'"),
            ("tokens=50*params", "override 'tokens=50*params': a setting reads no other values; write derive.tokens=50*params"),
            ("lr=lr_peak/2", "override 'lr=lr_peak/2': a setting reads no other values; write derive.lr=lr_peak/2"),
            ("lr=", "override 'lr=': the value is empty; give one"),
            ("lr", "override 'lr': expected key=value, such as lr=0.02 or 'axes.lr=geom(5e-3,0.16,6)'"),
            ("axes.lr=[]", "override 'axes.lr=[]': the axis is empty; give it at least one value, or remove it"),
            ("axes.lr=geom(1)", "override 'axes.lr=geom(1)': geom(low, high, count) takes 3 numbers, got 1 in 'geom(1)'"),
            ("repeat=0", "override 'repeat=0': repeat must be at least 1, got 0"),
            ("repeat=x", "override 'repeat=x': expected a whole number, got 'x'"),
            ("~axes.lr", "override '~axes.lr': the sweep has no axes.lr; leave it out"),
            ("~lr", "override '~lr': only the grid's axes, zip, union, derive, where, repeat can be removed; set a value instead"),
            ("scale=tiny", "sweep mine has no scales, got scale=tiny; leave it out"),
            ("data=text", "override 'data=text': data.path is empty: name the file, folder or glob that data=text reads"),
            (
                "data.path=x",
                "override 'data.path=x': synthetic reads no path, got 'x'; choose data=text, data=shards or data=hf, "
                "or leave the path out",
            ),
            ("repeat=1e9", "sweep mine: the grid has 1,000.0M cells, more than 1,000,000; split the sweep or shorten an axis"),
            ("zip=3", "override 'zip=3': expected a list of mappings, got '3'"),
        ],
    )  # fmt: skip
    def test_a_bad_override_is_one_sentence_that_names_it(self, override, expected):
        assert sentence(written(""), override) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("modle: 3\n", "sweeps/mine.yaml:13: modle: a sweep has no key 'modle'; did you mean 'model'?"),
            (
                "model:\n  depth: 2\n  widht: 3\n",
                "sweeps/mine.yaml:15: model.widht: ModelConfig has no setting 'widht'; did you mean 'width'?",
            ),
            ("cluster: {gpu: {mfx: 3}}\n", "sweeps/mine.yaml:13: cluster.gpu.mfx: Gpu has no setting 'mfx'; did you mean 'mfu'?"),
            ("model: {width: big}\n", "sweeps/mine.yaml:13: model.width: expected a whole number, got 'big'"),
            ("axes:\n  lr: []\n", "sweeps/mine.yaml:14: axes.lr: the axis is empty; give it at least one value, or remove it"),
            ("axes:\n  lr:\n", "sweeps/mine.yaml:14: axes.lr: the axis is empty; give it at least one value, or remove it"),
            ("axes: {width: [1], model.width: [2]}\n", "sweeps/mine.yaml:13: axes.model.width: 'width' is given twice; keep one"),
            ("axes: {lr: [1]}\nderive: {lr: 2}\n", "sweeps/mine.yaml:13: axes: lr stands in axes and in derive; keep one of them"),
            (
                "zip:\n  - {width: [32, 64], depth: [2]}\n",
                "sweeps/mine.yaml:13: zip: zipped values must be equally many, but width has 2, depth has 1; "
                "lengthen the shorter",
            ),
            ("where: width >\n", "sweeps/mine.yaml:13: where: invalid syntax ('width >')"),
            ("derive: {tokens: 2 * parms}\n", "sweeps/mine.yaml:13: derive.tokens: unknown name 'parms'; did you mean 'params'?"),
            ("union: [3]\n", "sweeps/mine.yaml:13: union[0]: expected a mapping of names to values, got 3"),
            ("union: [{axis: {}}]\n", "sweeps/mine.yaml:13: union.axis: a grid has no key 'axis'; did you mean 'axes'?"),
            ("model: {width: [3\n", "sweeps/mine.yaml:14: not valid YAML: expected ',' or ']', but got '<stream end>'; mend the line"),
            ("lr: 2\n", "sweeps/mine.yaml:13: not valid YAML: found duplicate key lr; mend the line"),
            (
                "data: {path: '${oc.env:HOME}/x'}\n",
                "sweeps/mine.yaml:13: data.path: ${oc.env:HOME}/x reads the environment; write the value, or give it on the "
                "command line",
            ),
            ("title: ${nope}\n", "sweeps/mine.yaml: interpolation key 'nope' not found; mend the file or the override"),
            ("arms: {a: [scale=b]}\n", "override 'scale=b' of arm a: an arm chooses no scale; leave it out"),
            ("arms:\n  a: [lr2=3]\n", "override 'lr2=3' of arm a: no setting 'lr2'; did you mean 'lr'?"),
        ],
    )  # fmt: skip
    def test_a_bad_file_is_one_sentence_with_its_line(self, text, expected):
        assert sentence(written(text)) == expected

    @pytest.mark.parametrize(
        ("question", "expected"),
        [
            ("by: [widht]", "question.by[0]: the results have no column 'widht'; did you mean 'width'?"),
            ("by: [model.width]", "question.by[0]: the results have no column 'model.width'; write width"),
            ("by: [clip]", "question.by[0]: the results have no column 'clip'; vary it (axes.clip), or leave it out of the question"),
            ("per: [arms]", "question.per[0]: the results have no column 'arms'; did you mean 'arm'?"),
            ("figures: [lr, flop]", "question.figures[1]: no figure 'flop'; did you mean 'flops'?"),
            ("curves: [loss flops]", "question.curves[0]: cannot read the law 'loss flops'; write two columns, such as 'lr_peak ~ tokens'"),
            ("surfaces: [loss ~ params]", "question.surfaces[0]: cannot read the surface 'loss ~ params'; write three columns, such as 'loss ~ params + tokens'"),
            ("joint: [token]", "question.joint[0]: the results have no column 'token'; did you mean 'tokens'?"),
            ("laws: [lr_peak ~ token]", "question.laws[0]: the results have no column 'token'; did you mean 'tokens'?"),
            ("baseline: plan", "question.baseline: no arm 'plan'; did you mean 'plain'?"),
            ("reference: hyper", "question.reference: got 'hyper'; did you mean 'hyperp'?"),
        ],
    )  # fmt: skip
    def test_a_question_that_the_results_cannot_answer_is_refused_before_training(self, question, expected):
        name = written(f"arms: {{plain: [], muon: [optimizer=muon]}}\nquestion: {{{question}}}\n")
        assert sentence(name) == f"sweeps/mine.yaml:14: {expected}"

    def test_a_baseline_needs_arms(self):
        assert sentence(written("question: {baseline: a}\n")) == (
            "sweeps/mine.yaml:13: question.baseline: no arm 'a'; the sweep has no arms; leave the baseline out"
        )

    def test_a_question_may_be_about_whatever_the_grid_varies(self):
        text = "axes: {momentum: [0.9, 0.95]}\nquestion: {by: [momentum], laws: [lr_peak ~ momentum]}\n"
        assert loaded(text).question.by == loaded(text, "momentum=0.9").question.by == ("momentum",)

    def test_a_group_on_the_command_line_is_not_blamed_for_the_file(self):
        assert sentence(written("model: {widht: 3}\n"), "model=hyperp_d8").startswith(
            "sweeps/mine.yaml:13: model.widht"
        )

    def test_groups_are_found_beside_the_sweeps_of_a_file_that_is_given_from_elsewhere(self, folder, monkeypatch):
        Path("conf/cluster").mkdir(parents=True)
        Path("conf/cluster/mine.yaml").write_text("name: mine")
        Path("sweeps/a.yaml").write_text(HEAD.replace("cluster: local", "cluster: mine") + "axes: {lr: [0.1]}\n")
        (folder / "elsewhere").mkdir()
        monkeypatch.chdir(folder / "elsewhere")
        sweep = load_sweep("../sweeps/a.yaml")
        assert (sweep.name, sweep.cluster.name) == ("a", "mine")

    def test_a_missing_group_or_option_of_the_defaults_is_named(self):
        Path("sweeps/a.yaml").write_text("defaults: [{model: tinny}]\n")
        assert sentence("a") == (
            f"sweeps/a.yaml: its defaults name model: tinny, which is not in {shipped('conf')}; did you mean 'tiny'?"
        )
        Path("sweeps/a.yaml").write_text("defaults: [{modle: tiny}]\n")
        assert sentence("a") == (
            f"sweeps/a.yaml: its defaults name modle: tiny, which is not in {shipped('conf')}; did you mean 'model'?"
        )

    def test_a_group_that_the_defaults_leave_out_is_named_with_its_options(self):
        Path("sweeps/a.yaml").write_text("defaults: [{model: tiny}, {optimizer: muonh}, {evaluation: quick}]\n")
        assert sentence("a", "data=synthetic", "cluster=local") == (
            "sweeps/a.yaml: its defaults choose no transfer (hyperp, measure, muon_mupp, none) "
            "and no schedule (constant, cosine, linear, wsd); add an option of each, such as '- transfer: …'"
        )

    def test_a_sweep_may_set_a_group_itself(self):
        groups = [{k: v} for k, v in CHOSEN.items() if k != "schedule"]
        sweep = {"defaults": [*groups, "_self_"], "schedule": {"name": "wsd"}, "lr": 0.1, "tokens": 1e5}
        Path("sweeps/a.yaml").write_text(json.dumps(sweep | {"batch_tokens": 2048}))
        assert load_sweep("a").arms[0].base.schedule.name == "wsd"

    def test_tokens_of_a_tokenizer_need_its_vocabulary(self):
        hint = "set model.vocab to the tokenizer's size"
        shards = ("data=shards", "data.path=missing")
        assert sentence(written(""), *shards).endswith(f"data=shards needs its vocabulary; {hint} (256 for bytes)")
        assert sentence(written(""), "data=text", "data.path=a.txt", "data.tokenizer=tok.json").endswith(
            f"data.tokenizer=tok.json needs its vocabulary; {hint}"
        )
        for said in ("vocab=300", "axes.vocab=[300, 400]", "model=hyperp_d8"):
            with pytest.raises(DataError, match="missing"):
                loaded("", *shards, said)

    def test_a_key_that_nothing_sets_is_named(self):
        Path("sweeps/a.yaml").write_text(
            json.dumps({"defaults": [*({k: v} for k, v in CHOSEN.items()), "_self_"], "lr": 0.1})
        )
        assert sentence("a") == "sweeps/a.yaml: tokens: the sweep sets no tokens; add a value or an axis"

    def test_values_that_only_the_grid_gives_are_enough(self):
        Path("sweeps/a.yaml").write_text(
            f"defaults: {json.dumps([*({k: v} for k, v in CHOSEN.items()), '_self_'])}\n"
            "axes: {lr: [0.1, 0.2], batch_tokens: [2048]}\nderive: {tokens: 50 * params}\n"
        )
        assert len(expand(load_sweep("a"))) == 2

    def test_unreadable_data_are_a_data_error(self):
        with pytest.raises(DataError, match=r"^override 'data=text': .*missing\.txt"):
            loaded("", "data=text", "data.path=missing.txt")


@pytest.mark.parametrize(
    "word", ["cluster.slurm.environment={NCCL_DEBUG: INFO}", "cluster.slurm.environment.NCCL_DEBUG=INFO"]
)
def test_a_setting_of_many_names_is_given_whole_or_name_by_name(word):
    assert load_sweep("quickstart", [word]).cluster.slurm.environment == {"NCCL_DEBUG": "INFO"}


def test_an_option_of_sbatch_keeps_its_type():
    words = ["cluster.slurm.extra_sbatch.mail-type=FAIL", "cluster.slurm.extra_sbatch.nice=3"]
    assert load_sweep("quickstart", words).cluster.slurm.extra_sbatch == {"mail-type": "FAIL", "nice": 3}
