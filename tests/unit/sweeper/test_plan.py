import json
from dataclasses import replace

import pytest
from builders import run_spec

from model.config import Execution
from model.shape import MEMORY_SHARE, memory_bytes, model_shape
from sweeper.errors import ConfigError
from sweeper.plan import STARTUP_MIN, make_plan, plan_json
from sweeper.spec import Cluster, Gpu, Slurm

CLUSTER = Cluster(gpu=Gpu(name="toy", memory_gib=1.0, peak_flops=1e9, mfu=0.5))


def plan(specs, states=None):
    return make_plan("tiny", specs, states or {}, CLUSTER, Execution())


def test_runs_with_a_result_or_in_progress_make_no_job():
    specs = [run_spec(lr=lr) for lr in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    found = dict(zip((s.run_id for s in specs), ("done", "diverged", "running", "failed", "stopped"), strict=False))
    jobs = plan(specs, found).jobs
    assert {job.runs[0].lr for job in jobs} == {0.4, 0.5, 0.6}


def test_the_longest_runs_start_first():
    specs = [run_spec(steps=steps) for steps in (4, 16, 8)]
    assert [job.runs[0].train.steps for job in plan(specs).jobs] == [16, 8, 4]


def test_a_run_that_two_arms_share_is_priced_and_started_once():
    shared = [run_spec(arm="a"), run_spec(arm="b"), run_spec(lr=0.1, arm="b")]
    found = plan(shared)
    assert [run.arm for run in found.runs] == ["a", "b", "b"]
    assert len(found.jobs) == found.totals.runs == 2
    assert found.totals.gpu_hours == pytest.approx(2 * found.runs[0].gpu_hours)


def test_the_price_is_causal_flops_over_the_devices_throughput():
    (run,) = plan([run_spec(steps=10)]).runs
    spec = run_spec(steps=10)
    flops = model_shape(spec.train.model).flops_per_token_causal * spec.train.tokens
    assert run.gpu_hours == pytest.approx(flops / (1e9 * 0.5) / 3600)
    assert run.flops_causal < run.flops


def test_a_mixture_whose_passes_see_parts_of_a_group_pays_for_a_second_forward_pass():
    mixture = replace(run_spec().train.model, mlp="moe", top_k=2, sparsity=2)
    spec = run_spec(model=mixture)
    assert spec.train.aux_sequences > 1
    (whole,) = plan([spec]).runs
    (parts,) = make_plan("tiny", [spec], {}, CLUSTER, Execution(micro_batch=1)).runs
    assert parts.gpu_hours == pytest.approx(4 / 3 * whole.gpu_hours)
    off = run_spec(model=replace(mixture, aux_weight=0.0))
    (unbalanced,) = make_plan("tiny", [off], {}, CLUSTER, Execution(micro_batch=1)).runs
    assert unbalanced.gpu_hours == pytest.approx(whole.gpu_hours)


def on_slurm(specs, fuse="auto", **profile):
    cluster = replace(CLUSTER, scheduler="slurm", processes=0, slurm=Slurm(**profile))
    return make_plan("tiny", specs, {}, cluster, Execution(), fuse=fuse).jobs


def test_runs_of_a_process_each_are_stacks_in_jobs_of_slurm():
    specs = [*(run_spec(lr=lr) for lr in (0.1, 0.2, 0.3)), run_spec(steps=9)]
    assert [len(job.runs) for job in on_slurm(specs)] == [3, 1]
    assert [len(job.runs) for job in on_slurm(specs, fuse="off")] == [1, 1, 1, 1]
    assert [job.tasks_per_node for job in on_slurm(specs, fuse=2)] == [1, 1, 1]
    assert [job.stacked for job in on_slurm(specs)] == [True, False]
    assert [len(job.runs) for job in plan(specs).jobs] == [1, 1, 1, 1]


def test_stacks_leave_no_gpu_of_a_whole_node_without_work():
    specs = [run_spec(lr=0.01 * i) for i in range(1, 9)]
    (job,) = on_slurm(specs, exclusive=True, gpus_per_node=4)
    assert [len(load.runs) for load in job.loads] == [2, 2, 2, 2]
    assert job.tasks_per_node == 4
    (job,) = on_slurm(specs, exclusive=True, gpus_per_node=8)
    assert [len(load.runs) for load in job.loads] == [1] * 8


def test_a_stack_has_the_time_of_its_runs_one_after_another_within_the_limit_of_the_profile():
    specs = [run_spec(lr=lr) for lr in (0.1, 0.2, 0.3)]
    cluster = replace(CLUSTER, scheduler="slurm", processes=0, slurm=Slurm(time_min=240))
    key = model_shape(specs[0].train.model).params_total, 1

    def limit(minutes_each):
        speeds = {key: specs[0].train.tokens / (60 * minutes_each)}
        (job,) = make_plan("tiny", specs, {}, cluster, Execution(), speeds, fuse=3).jobs
        return job.time_min

    assert limit(10) == 3 * 15 + STARTUP_MIN
    assert limit(100) == 240


def test_totals_separate_what_is_left_from_the_whole():
    specs = [run_spec(lr=lr) for lr in (0.1, 0.2)]
    totals = plan(specs, {specs[0].run_id: "done"}).totals
    assert (totals.runs, totals.left) == (2, 1)
    assert totals.gpu_hours == pytest.approx(2 * totals.gpu_hours_left)


def test_the_json_holds_every_axis_beside_the_price():
    spec = run_spec(lr=0.1)
    found = json.loads(json.dumps(plan_json(plan([spec]))))
    (row,) = found["runs"]
    assert found["schema_version"] == 1
    assert row["lr"] == 0.1
    assert row["tokens"] == spec.train.tokens
    assert {"run_id", "state", "params", "tokens", "steps", "flops", "lr_peak", "gpu_hours"} <= set(row)
    assert found["totals"]["runs"] == 1


def test_a_plan_of_nothing_costs_nothing():
    assert plan([]).totals.gpu_hours == 0


LONG = run_spec(model=replace(run_spec().train.model, context=2048), batch_tokens=16 * 2048, tokens=160 * 2048)


def holding(size, *, processes=1, checkpointing=False, **settings):
    """A cluster of eight GPUs a node that hold passes of so many sequences and no more."""
    needed = memory_bytes(LONG.train, micro_batch=size, processes=processes, checkpointing=checkpointing)
    gpu = Gpu(name="toy", memory_gib=(needed + 1) / MEMORY_SHARE / 2**30, peak_flops=1e12, mfu=0.5)
    return Cluster(scheduler="slurm", processes=0, gpu=gpu, slurm=Slurm(gpus_per_node=8), **settings)


def planned(cluster, execution=Execution(), spec=LONG):  # noqa: B008 - frozen
    (run,) = make_plan("tiny", [spec], {}, cluster, execution).runs
    return run


def test_a_run_takes_smaller_passes_rather_than_more_devices():
    whole, parts = planned(holding(16)), planned(holding(4))
    assert (whole.processes, whole.micro_batch, whole.passes) == (1, 16, 1)
    assert (parts.processes, parts.micro_batch, parts.passes) == (1, 4, 4)
    assert parts.memory_gib < whole.memory_gib
    assert parts.gpu_hours == whole.gpu_hours


def test_computing_activations_twice_costs_a_third_and_comes_after_more_devices():
    deep = replace(LONG, train=replace(LONG.train, model=replace(LONG.train.model, depth=16)))
    cluster = Cluster(processes=1, gpu=Gpu(name="toy", memory_gib=64.0, peak_flops=1e12, mfu=0.5))
    kept, again = planned(cluster, spec=deep), planned(cluster, Execution(activation_checkpointing="on"), deep)
    assert not kept.checkpointing
    assert again.checkpointing
    assert again.gpu_hours == pytest.approx(4 / 3 * kept.gpu_hours)
    assert again.memory_gib < kept.memory_gib / 3

    # Sharded, two devices hold a pass that one does not.
    wide = replace(deep.train.model, width=512, head_size=64)
    heavy = replace(deep, train=replace(deep.train, model=wide))
    needed = memory_bytes(heavy.train, micro_batch=2, processes=2, layout="fsdp")
    gpu = Gpu(name="toy", memory_gib=(needed + 1) / MEMORY_SHARE / 2**30, peak_flops=1e12, mfu=0.5)
    slurm = Cluster(scheduler="slurm", processes=0, gpu=gpu, slurm=Slurm(gpus_per_node=2))
    assert planned(replace(slurm, processes=1), Execution(layout="fsdp"), heavy).checkpointing
    run = planned(slurm, Execution(layout="fsdp"), heavy)
    assert (run.processes, run.micro_batch, run.checkpointing) == (2, 2, False)


def test_a_run_that_fits_no_device_says_what_would_help():
    tiny = Cluster(scheduler="slurm", processes=0, gpu=Gpu(name="toy", memory_gib=1e-6), slurm=Slurm(gpus_per_node=8))
    with pytest.raises(
        ConfigError, match=r"needs 0.0 GiB per process but a toy has 1e-06; set execution.layout=fsdp, m"
    ):
        planned(tiny)
    with pytest.raises(ConfigError, match=r"a smaller execution.micro_batch or 0, more cluster.slurm.nodes"):
        planned(tiny, Execution(micro_batch=2))


def test_nodes_without_gpus_hold_what_slurm_gives_a_process():
    given = replace(holding(16), slurm=Slurm(gpus_per_node=0, mem_gib=64.0))
    assert given.memory_gib == 64.0
    assert replace(given, scheduler="local", processes=1).memory_gib == given.gpu.memory_gib
