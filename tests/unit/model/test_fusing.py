import dataclasses
import math
import time
from dataclasses import replace

import pytest
import torch

import model.saving
import model.train
from kernels import chunked
from model.checkpoint import delete_checkpoints
from model.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
    VectorsConfig,
)
from model.fusing import stack_key, stackable
from model.train import TAKEN_OVER, Member, train
from model.trial import Trial, time_steps, try_out

MODEL = ModelConfig(width=16, depth=2, head_size=8, kv_heads=1, attention_ratio=1, vocab=8, context=16)
ALWAYS = CheckpointConfig(every_s=1e-9, background=False)
NEVER = 10**9


def rates(lr, weight_decay=0.0):
    """Roles at rates of their own, so that no member's are another's times a number."""
    return Rates(
        hidden=lr,
        head=1.3 * lr,
        embedding=0.01 + lr / 3,
        vector=lr**1.5,
        residual_multiplier=0.7,
        logit_multiplier=0.9,
        weight_decay=weight_decay,
    )


def config(lr=0.05, steps=12, seed=(1, 1), weight_decay=0.0, **changes):
    made = TrainConfig(
        model=MODEL,
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=DataConfig(source="synthetic"),
        evaluation=EvaluationConfig(sequences=11),
        seed=Seeds(init=seed[0], data=seed[1]),
        rates=rates(lr, weight_decay),
        tokens=steps * 128,
        batch_tokens=128,
    )
    return replace(made, **changes)


def exactly(optimizer="muonh", **changes):
    return {"precision": "float64", "optimizer": OptimizerConfig(name=optimizer, ns_dtype="float64", **changes)}


class Recorder:
    """Keeps the rows of each member, and asks to stop once it was asked so often."""

    def __init__(self, stop_after=NEVER):
        self.rows, self.notes, self.ended, self.asked, self.stop_after = {}, [], [], 0, stop_after

    def metrics(self, member, row):
        self.rows.setdefault(member, {})[row["step"]] = {k: v for k, v in row.items() if k != "tokens_per_s"}

    def progress(self, member, step, steps, tokens_per_s):
        pass

    def note(self, member, text):
        self.notes.append((member, text))

    def should_stop(self):
        self.asked += 1
        return self.asked >= self.stop_after


def run(root, configs, *, stop_after=NEVER, may_write=lambda _member: True, tried=None, names=None, **execution):
    """Outcomes and rows of the members by number; each has a folder of its own under `root`."""
    recorder = Recorder(stop_after)
    members = [Member(config=c, checkpoints=root / str(n)) for c, n in zip(configs, names or range(99), strict=False)]
    settings = Execution(**{"device": "cpu", "log_every": 1, "stability_every": 5, **execution})
    outcomes = train(
        members,
        settings,
        recorder,
        recorder.should_stop,
        may_write=may_write,
        ended=lambda member, outcome: recorder.ended.append((member, outcome)),
        tried=tried,
    )
    return outcomes, recorder


def by_themselves(root, configs, **execution):
    """What each would be without the others."""
    found = [run(root / f"alone-{i}", [one], **execution) for i, one in enumerate(configs)]
    return [outcome for (outcome,), _ in found], [recorder.rows[0] for _, recorder in found]


def worst(rows, expected):
    """The largest relative difference of any metric of any row."""
    assert rows.keys() == expected.keys()
    differences = [0.0]
    for step, row in rows.items():
        assert row.keys() == expected[step].keys()
        differences += [abs(value - expected[step][k]) / max(1e-6, abs(expected[step][k])) for k, value in row.items()]
    return max(differences)


# ── the same runs ──────────────────────────────────────────────────────────────────────────────────────────────────


VARIANTS = {
    "muonh": exactly(),
    "muonh, plain momentum": exactly(nesterov=False),
    "clipped": exactly(clip=0.05),
    "muon": exactly("muon", weight_decay=0.1),
    "adamw": exactly("adamw", weight_decay=0.1),
    "sandwich": exactly() | {"model": replace(MODEL, sandwich_norm=True)},
    "no QK-norm, no gate": exactly() | {"model": replace(MODEL, qk_norm=False, headwise_gate=False)},
    "oriented vectors": exactly() | {"model": replace(MODEL, vectors=VectorsConfig(reparam="or"))},
    "exponential vectors": exactly() | {"model": replace(MODEL, vectors=VectorsConfig(reparam="er"))},
    "decaying vectors": exactly("muon", weight_decay=0.1)
    | {"model": replace(MODEL, vectors=VectorsConfig(wd_input=1.0))},
    "no vectors": exactly() | {"model": replace(MODEL, vectors=VectorsConfig(enabled=False))},
    "last vector only": exactly() | {"model": replace(MODEL, vectors=VectorsConfig(enabled=False, keep_final=True))},
    "validated on the way": exactly() | {"evaluation": EvaluationConfig(sequences=11, every=4)},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_runs_that_are_trained_together_are_the_same_as_by_themselves(tmp_path, changes, micro_batch):
    decays = (0.02, 0.0, 0.1) if changes["optimizer"].weight_decay else (0.0,) * 3
    configs = [config(lr, weight_decay=wd, **changes) for lr, wd in zip((0.02, 0.05, 0.1), decays, strict=True)]
    together, recorder = run(tmp_path, configs, micro_batch=micro_batch)
    alone, rows = by_themselves(tmp_path, configs, micro_batch=micro_batch)
    for member, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert one.loss == pytest.approx(other.loss, rel=1e-8)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-8)
        assert one.stability == pytest.approx(other.stability, rel=1e-6)
        assert (one.state, one.steps, one.tokens, one.stack) == ("done", other.steps, other.tokens, 3)
        assert worst(recorder.rows[member], rows[member]) < 1e-6
    assert len({outcome.loss for outcome in together}) == 3


@pytest.mark.parametrize("seeds", [((1, 1), (2, 1), (3, 1)), ((1, 1), (1, 2), (2, 3))], ids=["weights", "order too"])
def test_seeds_may_differ(tmp_path, seeds):
    configs = [config(seed=seed, **exactly()) for seed in seeds]
    together, _ = run(tmp_path, configs)
    alone, _ = by_themselves(tmp_path, configs)
    assert [o.loss for o in together] == pytest.approx([o.loss for o in alone], rel=1e-8)
    assert len({outcome.loss for outcome in together}) == 3


@pytest.mark.parametrize("optimizer", ["muonh", "muon", "adamw"])
def test_the_first_steps_agree_in_float32(tmp_path, optimizer):
    configs = [config(lr, steps=20, optimizer=OptimizerConfig(name=optimizer)) for lr in (0.005, 0.01, 0.02)]
    _, recorder = run(tmp_path, configs)
    _, rows = by_themselves(tmp_path, configs)
    for member, expected in enumerate(rows):
        found = recorder.rows[member]
        assert [row["loss"] for row in found.values()] == pytest.approx(
            [row["loss"] for row in expected.values()], rel=1e-5
        )


def test_a_member_does_not_depend_on_the_others(tmp_path):
    configs = [config(lr, steps=30) for lr in (0.02, 0.05, 0.1, 0.3, 0.5)]
    whole, _ = run(tmp_path / "whole", configs)
    some, _ = run(tmp_path / "some", configs[2:0:-1])
    assert [o.loss for o in some] == [whole[2].loss, whole[1].loss]


# ── ends ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_that_diverges_leaves_the_others_alone(tmp_path):
    configs = [config(lr, steps=300, optimizer=OptimizerConfig(name="adamw")) for lr in (0.001, 1e4, 0.004)]
    together, recorder = run(tmp_path / "three", configs)
    calm, _ = run(tmp_path / "two", configs[::2])
    assert [o.state for o in together] == ["done", "diverged", "done"]
    assert together[1].steps < 300
    assert [together[0].loss, together[2].loss] == [o.loss for o in calm]
    assert recorder.ended[0] == (1, together[1])
    assert max(recorder.rows[1]) == together[1].steps
    assert len(recorder.rows[0]) == len(recorder.rows[2]) == 300


def test_all_may_diverge(tmp_path):
    configs = [config(lr, steps=300, optimizer=OptimizerConfig(name="adamw")) for lr in (1e4, 1e5)]
    together, _ = run(tmp_path, configs)
    alone, _ = by_themselves(tmp_path, configs)
    assert [(o.state, o.steps) for o in together] == [(o.state, o.steps) for o in alone]
    assert {o.state for o in together} == {"diverged"}


def test_one_that_was_taken_over_stops_by_itself(tmp_path):
    configs = [config(lr) for lr in (0.02, 0.05, 0.1)]
    together, _ = run(tmp_path, configs, checkpoint=ALWAYS, may_write=lambda member: member != 1)
    calm, _ = run(tmp_path / "calm", configs)
    assert [o.state for o in together] == ["done", "stopped", "done"]
    assert together[1].reason == TAKEN_OVER
    assert not list((tmp_path / "1").glob("*"))
    assert [together[0].loss, together[2].loss] == [calm[0].loss, calm[2].loss]


def test_final_weights_are_those_of_each(tmp_path):
    configs = [config(lr, **exactly()) for lr in (0.02, 0.05)]
    run(tmp_path, configs, checkpoint=CheckpointConfig(keep_final=True))
    by_themselves(tmp_path, configs, checkpoint=CheckpointConfig(keep_final=True))
    for member in range(2):
        found, expected = (
            torch.load(next(folder.glob("final-*.pt")), weights_only=True)["model"]
            for folder in (tmp_path / str(member), tmp_path / f"alone-{member}" / "0")
        )
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-7, atol=1e-9)


# ── resuming ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stack_resumes_bit_for_bit(tmp_path):
    configs = [config(lr, seed=(1, data)) for lr, data in ((0.02, 1), (0.05, 1), (0.1, 2))]
    whole, expected = run(tmp_path / "whole", configs)
    stopped, before = run(tmp_path / "resumed", configs, stop_after=5)
    assert [(o.state, o.steps) for o in stopped] == [("stopped", 5)] * 3
    resumed, after = run(tmp_path / "resumed", configs)
    assert [o.loss for o in resumed] == [o.loss for o in whole]
    for member in range(3):
        assert before.rows[member] | after.rows[member] == expected.rows[member]


def test_members_resume_with_others_and_alone(tmp_path):
    configs = [config(lr, **exactly()) for lr in (0.02, 0.05, 0.1, 0.2)]
    whole, _ = run(tmp_path / "whole", configs)
    run(tmp_path, configs[:3], stop_after=5, names="abc")
    run(tmp_path, configs[3:], stop_after=5, names="d")
    (alone,), _ = run(tmp_path, configs[:1], names="a")
    others, _ = run(tmp_path, configs[1:], names="bcd")
    assert [alone.stack, *(o.stack for o in others)] == [1, 3, 3, 3]
    assert [alone.loss, *(o.loss for o in others)] == pytest.approx([o.loss for o in whole], rel=1e-8)


def test_members_at_different_steps_are_stacks_of_their_own(tmp_path):
    configs = [config(lr, **exactly()) for lr in (0.02, 0.05, 0.1, 0.2)]
    whole, _ = run(tmp_path / "whole", configs)
    run(tmp_path, configs[:2], stop_after=7, names="ab")
    outcomes, recorder = run(tmp_path, configs, names="abcd")
    assert [o.stack for o in outcomes] == [2, 2, 2, 2]
    assert [o.loss for o in outcomes] == pytest.approx([o.loss for o in whole], rel=1e-8)
    assert [min(recorder.rows[member]) for member in range(4)] == [8, 8, 1, 1]


def test_members_go_back_to_the_checkpoint_that_all_have(tmp_path):
    configs = [config(lr, steps=30) for lr in (0.02, 0.05, 0.1)]
    whole, _ = run(tmp_path / "whole", configs)
    run(tmp_path, configs, checkpoint=ALWAYS, stop_after=9)
    newest = max((tmp_path / "1").glob("step-*.pt"))
    newest.unlink()  # as if the kill had come while it was written
    outcomes, recorder = run(tmp_path, configs)
    assert [o.stack for o in outcomes] == [3, 3, 3]
    assert [min(recorder.rows[member]) for member in range(3)] == [9, 9, 9]
    assert [o.loss for o in outcomes] == [o.loss for o in whole]


def test_damage_to_one_checkpoint_is_noted_at_its_member(tmp_path):
    configs = [config(lr) for lr in (0.02, 0.05)]
    run(tmp_path, configs, checkpoint=ALWAYS, stop_after=5)
    newest = max((tmp_path / "1").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    outcomes, recorder = run(tmp_path, configs)
    assert [o.state for o in outcomes] == ["done", "done"]
    assert {member for member, _ in recorder.notes} == {1}


# ── what fits together ─────────────────────────────────────────────────────────────────────────────────────────────


def test_runs_that_differ_in_anything_else_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be trained together"):
        run(tmp_path, [config(), config(steps=13)])
    assert not list(tmp_path.iterdir())


def test_only_rates_decay_and_seeds_may_differ():
    base = config(optimizer=OptimizerConfig(name="muon"))
    same = [
        config(0.5, optimizer=OptimizerConfig(name="muon", weight_decay=0.3), weight_decay=0.2, seed=(7, 8)),
        replace(base, rates=replace(base.rates, head=3.0)),
    ]
    other = [
        replace(base, rates=replace(base.rates, residual_multiplier=0.1)),
        replace(base, rates=replace(base.rates, logit_multiplier=0.1)),
        *(replace(base, **{name: 2 * getattr(base, name)}) for name in ("tokens", "batch_tokens")),
        replace(base, precision="bfloat16"),
        replace(base, schedule=ScheduleConfig(name="cosine")),
        replace(base, optimizer=OptimizerConfig(name="muon", momentum=0.5)),
        replace(base, evaluation=EvaluationConfig(sequences=12)),
        replace(base, model=replace(MODEL, depth=3)),
    ]
    assert {stack_key(one) for one in same} == {stack_key(base)}
    assert all(stack_key(one) != stack_key(base) for one in other)


def test_no_scalar_of_a_run_is_overlooked():
    """A field that is added to the rates has to be either common to a stack or each member's own."""
    assert {one.name for one in dataclasses.fields(Rates)} == {
        *("hidden", "head", "embedding", "vector", "weight_decay"),  # each member's own: `Optimizer`
        *("residual_multiplier", "logit_multiplier"),  # common
    }


@pytest.mark.parametrize(
    "model",
    [
        replace(MODEL, mlp="moe", sparsity=4, top_k=2),
        replace(MODEL, vectors=VectorsConfig(hetero=True)),
        replace(MODEL, vectors=VectorsConfig(placement="dnp")),
    ],
    ids=["experts", "heterogeneous vectors", "vectors after the map"],
)
def test_what_cannot_be_stacked_is_known(model):
    assert not stackable(model)
    assert stack_key(config(model=model)) is None


# ── the trial ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("answer", [True, False])
def test_a_trial_decides(tmp_path, answer):
    configs = [config(lr) for lr in (0.02, 0.05, 0.1)]
    trials = []

    def tried(trial):
        trials.append(trial)
        return answer

    outcomes, _ = run(tmp_path / "tried", configs, tried=tried)
    (trial,) = trials
    assert trial.members == 3
    assert trial.gain == pytest.approx(3 * trial.alone_s / trial.together_s)
    assert math.isfinite(trial.gain)
    if answer:
        expected, _ = run(tmp_path / "stack", configs)
        assert [o.stack for o in outcomes] == [3, 3, 3]
    else:
        expected, _ = by_themselves(tmp_path, configs)
        assert [o.stack for o in outcomes] == [1, 1, 1]
    assert [o.loss for o in outcomes] == [o.loss for o in expected]


def test_a_run_by_itself_is_not_tried(tmp_path):
    (outcome,), _ = run(tmp_path, [config()], tried=lambda _trial: pytest.fail("tried"))
    assert outcome.stack == 1


def test_a_trial_leaves_no_trace(tmp_path):
    state = torch.random.get_rng_state()
    trial = try_out([config(0.02), config(0.05)], Execution(device="cpu", micro_batch=3))
    assert isinstance(trial, Trial)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not list(tmp_path.iterdir())


def test_steps_of_a_run_that_several_processes_are_to_share_are_timed_by_one():
    execution = Execution(device="cpu", layout="hsdp", shard_processes=4)
    timed = time_steps(config(), execution, steps=3, limit_s=60.0)
    assert len(timed.steps_s) == 3
    assert min(timed.steps_s) > 0


def test_a_stack_is_trained_by_one_process(tmp_path, monkeypatch):
    world = model.train.join("cpu")
    monkeypatch.setattr(model.train, "join", lambda _device: replace(world, size=2))
    with pytest.raises(ValueError, match="by one process"):
        run(tmp_path, [config(0.02), config(0.05)])


def test_a_trial_that_lacks_memory_is_a_no(tmp_path, monkeypatch):
    def lacking(_members, _execution):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(model.train, "try_out", lacking)
    configs = [config(lr) for lr in (0.02, 0.05)]
    outcomes, recorder = run(tmp_path, configs, tried=lambda _trial: True)
    assert [(o.state, o.stack) for o in outcomes] == [("done", 1), ("done", 1)]
    assert recorder.notes == [(0, "2 runs together do not fit into memory: one after another")]


def test_members_that_resume_together_are_not_tried_again(tmp_path):
    configs = [config(lr) for lr in (0.02, 0.05)]
    run(tmp_path, configs, stop_after=5)
    outcomes, _ = run(tmp_path, configs, tried=lambda _trial: pytest.fail("tried"))
    assert [o.stack for o in outcomes] == [2, 2]


def test_a_wish_to_stop_ends_those_that_wait_for_their_turn(tmp_path):
    configs = [config(lr) for lr in (0.02, 0.05, 0.1)]
    outcomes, recorder = run(tmp_path, configs, stop_after=5, tried=lambda _trial: False)
    assert [(o.state, o.steps) for o in outcomes] == [("stopped", 5), ("stopped", 0), ("stopped", 0)]
    assert outcomes[1].reason == "asked to stop before its turn"
    assert [member for member, _ in recorder.ended] == [0, 1, 2]
    assert not (tmp_path / "1").exists()


def test_no_checkpoint_is_written_after_the_caller_knows_of_the_end(tmp_path, monkeypatch):
    left = []

    def slow(write=model.saving.write_checkpoint):
        def written(*args, **kwargs):
            time.sleep(0.05)
            return write(*args, **kwargs)

        return written

    monkeypatch.setattr(model.saving, "write_checkpoint", slow())
    configs = [config(lr) for lr in (0.02, 0.05)]
    members = [Member(config=c, checkpoints=tmp_path / str(i)) for i, c in enumerate(configs)]

    def ended(member, _outcome):
        delete_checkpoints(members[member].checkpoints, keep_final=False)
        left.append(member)

    settings = Execution(device="cpu", checkpoint=CheckpointConfig(every_s=1e-9))
    train(members, settings, Recorder(), lambda: False, ended=ended)
    assert left == [0, 1]
    assert not list(tmp_path.iterdir())


def test_what_a_member_takes_does_not_depend_on_how_many_there_are(tmp_path, monkeypatch):
    one = 8 * 16 * MODEL.vocab  # logits of a member's batch
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", int(0.75 * one))  # all four have more than four times that, two not
    configs = [config(lr) for lr in (0.02, 0.05, 0.1, 0.2)]
    whole, _ = run(tmp_path / "whole", configs)
    some, _ = run(tmp_path / "some", configs[:2])
    assert [o.loss for o in some] == [o.loss for o in whole[:2]]
