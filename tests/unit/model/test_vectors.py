"""Scale vectors in the model, its optimiser and its counts, and what arXiv 2605.26895 derives of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import DENSE as RUN_DENSE
from ranks import MIXTURE as RUN_MIXTURE
from ranks import Case, train_alone, train_on_ranks
from ranks import config as run_config
from vector_models import DENSE, MIXTURE, ONE, TOKENS, UNIFIED, VARIANTS, build, randomise

from model.config import ModelConfig, OptimizerConfig, VectorsConfig
from model.norm import exponential, oriented
from model.optimizer import MATRICES, groups, make_optimizer
from model.parameters import parameters
from model.shape import model_shape


def train_config(config, optimizer="adamw"):
    plain = run_config(config, optimizer)
    return replace(plain, optimizer=replace(plain.optimizer, weight_decay=0.1), rates=ONE)


class TestTheModel:
    @pytest.mark.parametrize("model", [DENSE, MIXTURE, replace(DENSE, sandwich_norm=True)])
    @pytest.mark.parametrize("vectors", [*VARIANTS, VectorsConfig(enabled=False)])
    def test_the_model_holds_what_the_table_says(self, model, vectors):
        config = replace(model, vectors=vectors)
        held = {name: tuple(parameter.shape) for name, parameter in build(config, torch.float32).named_parameters()}
        assert held == {p.name: p.shape for p in parameters(config)}
        assert model_shape(config).params_total == sum(p.numel() for p in build(config).parameters())

    @pytest.mark.parametrize("model", [DENSE, MIXTURE])
    @pytest.mark.parametrize("vectors", [v for v in VARIANTS if v.placement != "dnp"])
    def test_all_but_dnp_leave_the_function_as_it_starts(self, model, vectors):
        logits = build(replace(model, vectors=vectors))(TOKENS)
        torch.testing.assert_close(logits, build(model)(TOKENS), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("model", [DENSE, MIXTURE])
    def test_dnp_changes_the_function(self, model):
        changed = build(replace(model, vectors=VectorsConfig(placement="dnp")))(TOKENS)
        assert (changed - build(model)(TOKENS)).abs().max() > 1e-3

    def test_dnp_on_queries_and_keys_is_qk_norm(self):
        dnp, plain = build(replace(DENSE, vectors=VectorsConfig(placement="dnp"))), build(DENSE)
        x = torch.randn(2, 16, 32, dtype=torch.float64)
        ours, theirs = dnp.blocks[0].attention, plain.blocks[0].attention
        for name in ("query", "key"):
            normed = getattr(theirs, f"{name}_norm")(theirs._heads(theirs.maps[name](x, getattr(theirs, name))))
            torch.testing.assert_close(ours._heads(ours.maps[name](x, getattr(ours, name))), normed, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("experts", ["shared_in", "own", "shared"])
    @pytest.mark.parametrize("model", [DENSE, MIXTURE])
    @pytest.mark.parametrize("vectors", VARIANTS)
    def test_folding_into_weights_is_scaling_activations(self, model, vectors, experts):
        made = []
        for fold in ("always", "never", "auto"):
            config = replace(model, vectors=replace(vectors, fold=fold, experts=experts))
            module = randomise(build(config))
            logits = module(TOKENS)
            logits.square().mean().backward()
            made.append((logits, [parameter.grad for parameter in module.parameters()]))
        for logits, gradients in made[1:]:
            torch.testing.assert_close(logits, made[0][0], rtol=0, atol=1e-10)
            for ours, theirs in zip(gradients, made[0][1], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)

    def test_what_an_expert_scales_is_its_own(self):
        """A branch of the grouped product against each token's expert, one by one."""
        vectors = VectorsConfig(hetero=True, placement="dnp", experts="own")
        module = randomise(build(replace(MIXTURE, shared_expert=False, vectors=vectors)))
        mixture = module.blocks[0].mlp
        x = torch.randn(11, 32, dtype=torch.float64)
        expert, weight = mixture.route(mixture.logits(x))
        gamma = {name: getattr(mixture, name).value() for name in _EXPERT_VECTORS}
        for row in range(11):
            y = torch.zeros(32, dtype=torch.float64)
            for chosen, share in zip(expert[row], weight[row], strict=True):
                halves = mixture.experts_gate_up[chosen].chunk(2)
                gate, up = (
                    gamma[f"experts_{name}_out"][chosen]
                    * _normed(half @ (x[row] * gamma[f"experts_{name}_in"][chosen]))
                    for name, half in zip(("gate", "up"), halves, strict=True)
                )
                y = y + share * (mixture.experts_down[chosen] @ (gate * torch.sigmoid(gate) * up))
            torch.testing.assert_close(mixture(x)[0][row], y, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("model", [DENSE, MIXTURE, replace(DENSE, sandwich_norm=True)])
    def test_without_vectors_norms_have_no_parameters_and_still_norm(self, model):
        config = replace(model, vectors=VectorsConfig(enabled=False))
        assert not [p for p in parameters(config) if p.role == "vector"]
        torch.testing.assert_close(build(config)(TOKENS), build(model)(TOKENS), rtol=0, atol=1e-12)

    def test_the_last_norm_may_keep_its_vector_alone(self):
        config = replace(DENSE, vectors=VectorsConfig(enabled=False, keep_final=True))
        assert [p.name for p in parameters(config) if p.role == "vector"] == ["final_norm.gain"]
        assert set(dict(build(config).named_parameters())) == {p.name for p in parameters(config)}
        with pytest.raises(ValueError, match=r"keep_final needs vectors\.enabled=false"):
            VectorsConfig(keep_final=True)

    def test_a_sandwich_norms_what_a_branch_adds(self):
        block = build(replace(DENSE, sandwich_norm=True)).blocks[0]
        assert block.attention_post_norm is not None
        y = block.attention_post_norm(torch.randn(3, 32, dtype=torch.float64))
        torch.testing.assert_close(y.square().mean(dim=-1), torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=0)

    @pytest.mark.parametrize("model", [DENSE, MIXTURE])
    def test_vectors_and_norms_stay_in_float32(self, model):
        module = build(replace(model, vectors=UNIFIED), torch.bfloat16)
        logits = module(TOKENS)
        assert logits.dtype == torch.bfloat16
        logits.float().square().mean().backward()
        for name, parameter in module.named_parameters():
            assert parameter.dtype == torch.float32
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()


_EXPERT_VECTORS = ("experts_gate_in", "experts_up_in", "experts_gate_out", "experts_up_out")


def _normed(y, eps=1e-5):
    return y / (y.square().mean() + eps).sqrt()


class TestParametrisations:
    @pytest.mark.parametrize(("made", "alpha", "beta"), [(oriented, 1.0, 1.0), (exponential, 0.0, 0.0)])
    def test_they_start_at_one_with_the_spectrum_of_the_paper(self, made, alpha, beta):
        d = 12
        start = torch.full((d,), alpha, dtype=torch.float64), torch.full((1,), beta, dtype=torch.float64)
        torch.testing.assert_close(made(*start), torch.ones(d, dtype=torch.float64), rtol=0, atol=1e-15)
        jacobian = torch.cat(torch.autograd.functional.jacobian(made, start), dim=1)
        spectrum = torch.linalg.eigvalsh(jacobian @ jacobian.mT).flip(0)
        # d in the direction of the magnitude, 1 in all others.
        torch.testing.assert_close(spectrum, torch.tensor([d, *[1.0] * (d - 1)], dtype=torch.float64))

    @given(
        st.lists(st.floats(-3, 3), min_size=2, max_size=9).filter(lambda a: max(map(abs, a)) > 1e-3),
        st.floats(-2, 2),
        st.floats(1e-3, 1e3),
    )
    def test_or_knows_the_direction_of_alpha_only_and_er_is_positive(self, values, beta, scale):
        alpha, one = torch.tensor(values, dtype=torch.float64), torch.tensor([beta], dtype=torch.float64)
        torch.testing.assert_close(oriented(scale * alpha, one), oriented(alpha, one), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(oriented(alpha, one).square().mean(), one.square()[0], rtol=1e-9, atol=1e-12)
        assert (exponential(alpha, one) > 0).all()
        torch.testing.assert_close(exponential(alpha, one).log().mean(), one[0], rtol=1e-9, atol=1e-9)


class TestTheTheory:
    """What the paper derives, on one linear map A = W diag(γ)."""

    def test_a_step_of_gradient_descent_moves_columns_by_the_metric(self):
        rng = np.random.default_rng(0)
        weight, gamma, eta = rng.normal(size=(5, 7)), rng.normal(size=7), 0.03
        target = rng.normal(size=(5, 7))
        w = torch.tensor(weight, requires_grad=True)
        g = torch.tensor(gamma, requires_grad=True)
        (0.5 * (w * g - torch.tensor(target)).square().sum()).backward()
        stepped = ((w - eta * w.grad) * (g - eta * g.grad)).detach().numpy()
        upstream = weight * gamma - target  # ∂L/∂A
        for j in range(7):
            metric = gamma[j] ** 2 * np.eye(5) + np.outer(weight[:, j], weight[:, j])
            inner = weight[:, j] @ upstream[:, j]
            expected = (
                weight[:, j] * gamma[j] - eta * metric @ upstream[:, j] + eta**2 * gamma[j] * upstream[:, j] * inner
            )
            np.testing.assert_allclose(stepped[:, j], expected, atol=1e-12)

    def test_the_flow_of_double_placement(self):
        generator = torch.Generator().manual_seed(0)
        w, u, v, target = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 6), (4,), (6,), (4, 6))
        )
        for one in (w, u, v):
            one.requires_grad_()
        (0.5 * (u[:, None] * w * v - target).square().sum()).backward()
        step = 1e-7
        with torch.no_grad():
            before = u[:, None] * w * v
            moved = (u - step * u.grad)[:, None] * (w - step * w.grad) * (v - step * v.grad)
            grad = before - target
            rows, columns = u[:, None] * w, w * v
            expected = (
                u[:, None] ** 2 * grad * v**2
                + rows @ (rows.mT @ grad).diag().diag()
                + (columns @ grad.mT).diag()[:, None] * columns  # as diag(diag(C Gᵀ)) C
            )
        torch.testing.assert_close(-(moved - before) / step, expected, rtol=1e-4, atol=1e-5)

    def test_the_flow_keeps_the_balance(self):
        generator = torch.Generator().manual_seed(1)
        weight, gamma, target = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 7), (7,), (5, 7))
        )
        balance = gamma.square() - weight.square().sum(dim=0)
        step = 1e-4
        for _ in range(2000):
            upstream = weight * gamma - target
            weight, gamma = weight - step * upstream * gamma, gamma - step * (weight * upstream).sum(dim=0)
        drift = (gamma.square() - weight.square().sum(dim=0) - balance).abs().max()
        assert drift < 100 * step

    def test_vectors_that_do_not_decay_grow_where_weights_do(self):
        def run(mu):
            generator = torch.Generator().manual_seed(0)
            w, g = torch.full((256,), 0.1), torch.full((256,), 1.0)
            step, decay, noise = 0.01, 0.1, (0.05 * 0.01) ** 0.5
            most = 0.0
            for _ in range(40_000):
                e = g * w - 1
                dw = -(g * e + decay * w) * step + noise * torch.randn(256, generator=generator)
                dg = -(w * e + mu * g) * step + noise * torch.randn(256, generator=generator)
                w, g = w + dw, g + dg
                most = max(most, (w.square() + g.square()).max().item())
            return g.square().mean().item(), most

        growing, largest = run(0.0)
        bounded, smallest = run(0.1)
        assert 12 < growing < 30  # 19 in the mean of many draws, and γ² + w² up to 140
        assert largest > 60
        assert bounded < 2
        assert smallest < 12


class TestOptimiserGroups:
    @pytest.mark.parametrize("model", [DENSE, MIXTURE, replace(DENSE, sandwich_norm=True)])
    @pytest.mark.parametrize("vectors", [VectorsConfig(), UNIFIED, VectorsConfig(enabled=False), *VARIANTS[::5]])
    @pytest.mark.parametrize("optimizer", ["adamw", "muon", "muonh"])
    def test_every_parameter_is_in_one_group_and_no_vector_in_muon(self, model, vectors, optimizer):
        train = train_config(
            replace(model, vectors=replace(vectors, wd_input=1.0) if vectors.enabled else vectors), "adamw"
        )
        train = replace(train, optimizer=OptimizerConfig(name=optimizer))
        role = {p.name: p.role for p in parameters(train.model)}
        named = [name for group in groups(train) for name in group.names]
        assert sorted(named) == sorted(role)
        for group in groups(train):
            for name in group.names:
                if role[name] == "vector":
                    assert group.rule == "adamw"
                    assert group.rate == ONE.vector

    def test_decay_follows_the_table_of_classes(self):
        """On input norms, not on output norms."""
        sandwich = replace(DENSE, sandwich_norm=True)
        decays = _decays(replace(sandwich, vectors=VectorsConfig(wd_input=1.0)))
        assert {name for name, decay in decays.items() if decay} == {
            "attention_norm.gain",
            "mlp_norm.gain",
            "final_norm.gain",
        }
        assert {name for name, decay in decays.items() if not decay} == {
            "attention.query_norm.gain",
            "attention.key_norm.gain",
            "attention_post_norm.gain",
            "mlp_post_norm.gain",
        }

    def test_decay_of_the_vectors_around_a_map(self):
        dp = _decays(replace(DENSE, vectors=VectorsConfig(hetero=True, placement="dp", wd_input=1.0)))
        assert dp["attention.value_in.gain"] == dp["attention.value_out.gain"] == dp["mlp.up_out.gain"] == 0.1
        dnp = _decays(replace(DENSE, vectors=replace(UNIFIED, wd_input=0.5)))
        assert dnp["attention.value_in.alpha"] == dnp["mlp.gate_in.beta"] == 0.05
        assert dnp["attention.value_out.alpha"] == dnp["mlp.gate_out.beta"] == 0

    def test_what_the_paper_leaves_open_is_a_switch(self):
        chosen = replace(UNIFIED, wd_alpha=False, outer_class="input", final_class="output", reparam_outer=False)
        decays = _decays(replace(DENSE, vectors=chosen))
        assert decays["attention.value_in.alpha"] == decays["final_norm.beta"] == 0
        assert decays["attention.value_in.beta"] == decays["attention.value_out.gain"] == 0.1
        only_alpha = _decays(replace(DENSE, vectors=replace(UNIFIED, wd_beta=False)))
        assert (only_alpha["mlp.up_in.alpha"], only_alpha["mlp.up_in.beta"]) == (0.1, 0)

    def test_vectors_may_decay_while_the_sphere_does_not(self):
        train = replace(
            train_config(replace(DENSE, vectors=UNIFIED)), optimizer=OptimizerConfig(name="muonh", weight_decay=0.1)
        )
        role = {p.name: p.role for p in parameters(train.model)}
        for group in groups(train):
            assert group.decay == 0 or role[group.names[0]] == "vector"
        with pytest.raises(ValueError, match=r"or let scale vectors decay \(model.vectors.wd_input=1\)"):
            replace(train, model=DENSE)

    def test_matrices_keep_their_norm_beside_vectors_that_move(self):
        train = replace(train_config(replace(DENSE, vectors=UNIFIED)), optimizer=OptimizerConfig(name="muonh"))
        module = build(train.model)
        optimizer = make_optimizer(module, train)
        role = {p.name: p.role for p in parameters(train.model)}
        before = {n: p.detach().norm().item() for n, p in module.named_parameters() if role[n] in MATRICES}
        for _ in range(20):
            optimizer.zero_grad()
            module(TOKENS).square().mean().backward()
            optimizer.step(1.0)
        for name, parameter in module.named_parameters():
            if name in before:
                assert parameter.detach().norm().item() == pytest.approx(before[name], rel=1e-5)


def _decays(config):
    """What one step at the peak rate removes of each scale vector of the first block, by name within it."""
    found = {}
    role = {p.name: p.role for p in parameters(config)}
    for group in groups(train_config(config)):
        for name in group.names:
            if role[name] == "vector" and "blocks.1" not in name:
                found[name.removeprefix("blocks.0.")] = group.decay
    return found


class TestCost:
    LLAMA_1B = ModelConfig(
        width=1792,
        depth=22,
        head_size=128,
        attention_ratio=1,
        kv_heads=14,
        mlp_ratio=3,
        vocab=50_304,
        qk_norm=False,
        headwise_gate=False,
    )
    """The paper's 1B but for the width of its MLP, 8/3."""

    def test_the_usual_vectors_are_a_ten_thousandth(self):
        assert model_shape(self.LLAMA_1B).params_vectors == 80_640  # (2·22 + 1) · 1792

    @pytest.mark.parametrize("axis", ["head", "full"])
    def test_the_unified_strategy_adds_less_than_a_thousandth(self, axis):
        plain = model_shape(self.LLAMA_1B)
        unified = model_shape(replace(self.LLAMA_1B, vectors=replace(UNIFIED, axis=axis)))
        added = unified.params_total - plain.params_total
        assert added == unified.params_vectors - plain.params_vectors
        assert 3e-4 < added / plain.params_total < 1e-3
        assert unified.params == plain.params


def test_shards_train_like_one_process(tmp_path):
    vectors = replace(UNIFIED, experts="own")
    configs = [
        run_config(replace(model, vectors=vectors), optimizer, steps=5)
        for model in (RUN_DENSE, RUN_MIXTURE)
        for optimizer in ("muonh", "adamw")
    ]
    alone = [
        train_alone(Case(folder=tmp_path / f"alone-{i}", config=config, execution={}))
        for i, config in enumerate(configs)
    ]
    cases = [
        Case(folder=tmp_path / f"{layout}-{i}", config=config, execution={"layout": layout, "micro_batch": micro})
        for layout, micro in (("fsdp", 0), ("ddp", 2))
        for i, config in enumerate(configs)
    ]
    for trained, one in zip(train_on_ranks(tmp_path / "ranks", cases, size=2), alone * 2, strict=True):
        assert trained.losses == pytest.approx(one.losses, rel=1e-8)
        assert trained.outcome["loss"] == pytest.approx(one.outcome["loss"], rel=1e-8)
