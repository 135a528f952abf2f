"""TCLR's losses against the published numbers, loops and closed forms; passes, weights, switches and refusals of the method; two processes."""
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from golden import close, load
from processes import run
from ivdr.backbones import count_parameters, create_backbone
from ivdr.contrastive import nt_xent
from ivdr.sampling import sparse_dense_views
from ivdr.tclr import (
    TCLR,
    TCLR_TERMS,
    TCLRHead,
    dense_instance,
    global_local,
    global_local_logits,
    group_timesteps,
    in_passes,
    local_local,
    local_local_logits,
    tclr_terms,
    tclr_terms_loop,
)

DTYPES = [torch.float32, torch.float64]


def leaf(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype).requires_grad_()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_vectors(seed: int, b: int, n: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Pooled, timesteps and dense clips."
    return normal(seed, b, 2, d), normal(seed + 1, b, 2, n, d), normal(seed + 2, b, 2, n, d)


def small_method(seed: int = 0, **options) -> TCLR:
    torch.manual_seed(seed)
    return TCLR(create_backbone("small", width=4, dilated=True), dim=16, **options)


def random_clips(b: int, n_dense: int = 4, seed: int = 0) -> torch.Tensor:
    return normal(seed, b, 2 * (1 + n_dense), 3, 8, 16, 16).float()


# the published numbers


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_instance(dtype):
    golden = load("tclr_instance")
    zi, zj = leaf(golden["raw_zi"], dtype), leaf(golden["raw_zj"], dtype)
    loss = nt_xent(zi, zj, 0.1)
    loss.backward()
    close(loss, golden["loss_f64"], dtype)
    close(zi.grad, golden["grad_raw_zi_f64"], dtype)
    close(zj.grad, golden["grad_raw_zj_f64"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_local_local(dtype):
    golden = load("tclr_local_local")
    first, second = leaf(golden["raw_dense_view0"], dtype), leaf(golden["raw_dense_view1"], dtype)
    loss = local_local(first, second, 0.1)
    loss.backward()
    close(loss, golden["loss_f64"], dtype)
    close(first.grad, golden["grad_raw_dense_view0_f64"], dtype)
    close(second.grad, golden["grad_raw_dense_view1_f64"], dtype)
    close(local_local(first, second, 0.1, reduction="mean"), golden["loss_f64"] / len(first), dtype)
    each = torch.stack([local_local(first[b : b + 1], second[b : b + 1], 0.1) for b in range(len(first))])
    # the numbers per video were made in float32, and stored in more
    np.testing.assert_allclose(each.detach().double().numpy(), golden["per_video_loss"], rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_global_local(dtype):
    golden = load("tclr_global_local")
    timesteps, clips = leaf(golden["raw_local_sparse"], dtype), leaf(golden["raw_global_dense"], dtype)
    loss = global_local(timesteps, clips, 0.1)
    loss.backward()
    close(loss, golden["loss_f64"], dtype)
    close(timesteps.grad, golden["grad_raw_local_sparse_f64"], dtype)
    close(clips.grad, golden["grad_raw_global_dense_f64"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", [tclr_terms, tclr_terms_loop])
def test_golden_total(dtype, terms):
    golden = load("tclr_total")
    # published order: (version, video, pooled and timesteps, d) and (version, clip, video, d)
    sparse, dense = leaf(golden["raw_sparse"], dtype), leaf(golden["raw_dense"], dtype)
    by_video = sparse.transpose(0, 1)
    found = terms(by_video[:, :, 0], by_video[:, :, 1:], dense.permute(2, 0, 1, 3), 0.1)
    loss = sum(found.values())
    loss.backward()
    for name, published in (("ic_dense", "ic1"), ("ic_sparse", "ic2"), ("ll", "local_local"), ("gl", "global_local")):
        close(found[name], golden[f"losses_{published}_f64"], dtype)
    close(loss, golden["loss_f64"], dtype)
    close(sparse.grad, golden["grad_raw_sparse_f64"], dtype)
    close(dense.grad, golden["grad_raw_dense_f64"], dtype)


# the definition, and closed forms


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31 - 1), b=st.integers(1, 5), n=st.integers(1, 5), d=st.integers(1, 9), temperature=st.sampled_from([0.05, 0.1, 0.5, 2.0]))
def test_the_fast_terms_are_the_loop(seed, b, n, d, temperature):
    gradients = []
    for terms in (tclr_terms, tclr_terms_loop):
        vectors = [x.requires_grad_() for x in random_vectors(seed, b, n, d)]
        found = terms(*vectors, temperature)
        gradients.append((found, torch.autograd.grad(sum(found.values()), vectors)))
    (fast, fast_grads), (slow, slow_grads) = gradients
    assert tuple(fast) == TCLR_TERMS and fast.keys() == slow.keys()
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-10, atol=1e-10)
    for got, wanted in zip(fast_grads, slow_grads):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), b=st.integers(1, 4), n=st.integers(2, 5))
def test_the_gl_term_is_the_sum_over_the_four_pairs_of_versions(seed, b, n):
    pooled, timesteps, dense = random_vectors(seed, b, n, 6)
    pairs = [global_local(timesteps[:, v], dense[:, w], 0.1) for v in (0, 1) for w in (0, 1)]
    torch.testing.assert_close(tclr_terms(pooled, timesteps, dense, 0.1)["gl"], torch.stack(pairs).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("b,n", [(1, 2), (3, 4), (5, 3)])
def test_equal_vectors_cost_the_log_of_the_candidates(b, n):
    found = tclr_terms(torch.ones(b, 2, 5), torch.ones(b, 2, n, 5), torch.ones(b, 2, n, 5), 0.1)
    pairs = 2 * n * (2 * n - 1)
    wanted = {
        "ic_sparse": math.log(2 * b - 1), "ic_dense": pairs / 4 * math.log(2 * b - 1),
        "ll": b * math.log(2 * n - 1), "gl": 4 * n * math.log(n),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted, abs=1e-4)
    assert global_local(torch.ones(b, 4, 5), torch.ones(b, 4, 5), 0.1).item() == pytest.approx(4 * math.log(4), abs=1e-5)


def test_orthogonal_moments_cost_what_is_left_of_the_others():
    # n moments at right angles, alike in both versions and in every video
    moments, temperature = torch.eye(4, 6).expand(3, 2, 4, 6).double(), 0.5
    found, z = tclr_terms(moments[:, :, 0], moments, moments, temperature), 1 / temperature
    # the partner at cosine 1, six other moments at 0
    assert found["ll"].item() == pytest.approx(3 * (math.log(math.exp(z) + 6) - z))
    assert found["gl"].item() == pytest.approx(16 * (math.log(math.exp(z) + 3) - z))


def test_dense_instance_compares_only_the_two_sets_of_a_pair():
    # two sets a version; changing a third set must leave the pair of the first two alone
    dense = normal(0, 3, 2, 2, 5).requires_grad_()
    whole = dense_instance(dense, 0.1)
    sets = [dense[:, v, c] for v in (0, 1) for c in (0, 1)]
    pairs = [nt_xent(a, b, 0.1) for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j]
    assert len(pairs) == 12
    torch.testing.assert_close(whole, torch.stack(pairs).sum() / 4)
    assert torch.autograd.gradcheck(lambda x: dense_instance(x, 0.5), (dense,))


def test_one_video_alone_has_no_negatives_and_finite_gradients():
    dense = normal(1, 1, 2, 4, 6).requires_grad_()
    loss = dense_instance(dense, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12) and dense.grad.abs().max() < 1e-12
    zeros = torch.zeros(2, 2, 3, 4, requires_grad=True)
    sum(tclr_terms(zeros[:, :, 0], zeros, zeros, 0.1).values()).backward()
    assert zeros.grad.isfinite().all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), b=st.integers(2, 4), n=st.integers(2, 4))
def test_what_does_and_does_not_depend_on_the_batch(seed, b, n):
    pooled, timesteps, dense = random_vectors(seed, b, n, 6)
    once = tclr_terms(pooled, timesteps, dense, 0.1)
    twice = tclr_terms(*(torch.cat([x, x]) for x in (pooled, timesteps, dense)), 0.1)
    # inside a video: the mean over videos stays, the published sum doubles
    torch.testing.assert_close(twice["gl"], once["gl"])
    torch.testing.assert_close(twice["ll"], 2 * once["ll"])
    # between videos: every clip meets twice as many negatives, one of them itself
    assert twice["ic_sparse"] > once["ic_sparse"] and twice["ic_dense"] > once["ic_dense"]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31 - 1))
def test_order_of_videos_order_of_moments_and_length_do_not_matter(seed):
    vectors = random_vectors(seed, 4, 3, 6)
    videos, moments = (torch.randperm(k, generator=torch.Generator().manual_seed(seed)) for k in (4, 3))
    pooled, timesteps, dense = (x[videos] for x in vectors)
    changed = tclr_terms(3 * pooled, timesteps[:, :, moments] * normal(seed, 4, 2, 3, 1).exp(), dense[:, :, moments].flip(1), 0.1)
    for name, value in tclr_terms(*vectors, 0.1).items():
        torch.testing.assert_close(changed[name], value, rtol=1e-9, atol=1e-9)


def test_tables_point_at_the_partner():
    same = normal(2, 3, 4, 8)
    logits, targets = local_local_logits(same, same, 0.1)
    assert logits.shape == (3, 8, 8) and torch.equal(logits.argmax(2), targets)
    assert logits.diagonal(dim1=1, dim2=2).isneginf().all() and targets[0].tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    logits = global_local_logits(same, same.flip(1), 0.1)
    assert logits.shape == (3, 4, 4) and torch.equal(logits.argmax(2), torch.tensor([3, 2, 1, 0]).expand(3, 4))
    timesteps, clips = normal(3, 2, 4, 8), normal(4, 2, 4, 8)
    torch.testing.assert_close(global_local_logits(timesteps, clips, 0.1), global_local_logits(clips, timesteps, 0.1).mT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_contrasted_in_float32(dtype):
    vectors = [x.to(dtype) for x in random_vectors(5, 6, 4, 16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tclr_terms(*vectors, 0.1)
    wanted = tclr_terms(*(x.float() for x in vectors), 0.1)
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted[name])


# refusals


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_temperature_must_be_positive(temperature):
    pooled, timesteps, dense = random_vectors(0, 3, 4, 5)
    for call in (lambda: local_local(timesteps[:, 0], dense[:, 0], temperature), lambda: global_local(timesteps[:, 0], dense[:, 0], temperature),
                 lambda: dense_instance(dense, temperature), lambda: tclr_terms(pooled, timesteps, dense, temperature),
                 lambda: tclr_terms_loop(pooled, timesteps, dense, temperature), lambda: small_method(temperature=temperature)):
        with pytest.raises(ValueError, match="temperature"):
            call()


@pytest.mark.parametrize("call", [
    lambda p, t, d: local_local(d[:, 0], d[:2, 0], 0.1),
    lambda p, t, d: local_local(d, d, 0.1),
    lambda p, t, d: local_local(d[:0, 0], d[:0, 0], 0.1),
    lambda p, t, d: local_local(d[:, 0], d[:, 1], 0.1, reduction="none"),
    lambda p, t, d: global_local(t[:, 0, :3], d[:, 0], 0.1),
    lambda p, t, d: global_local(p, p[..., :3], 0.1),
    lambda p, t, d: dense_instance(d[:, :1], 0.1),
    lambda p, t, d: dense_instance(d[:, 0], 0.1),
    lambda p, t, d: dense_instance(d[:0], 0.1),
    lambda p, t, d: dense_instance(d, 0.1, gather="sum"),
    lambda p, t, d: tclr_terms(p[:2], t, d, 0.1),
    lambda p, t, d: tclr_terms(p[..., :3], t, d, 0.1),
    lambda p, t, d: tclr_terms(p, t[:, :, :3], d, 0.1),
    lambda p, t, d: tclr_terms(p[:, 0], t, d, 0.1),
    lambda p, t, d: tclr_terms(p, t, d[..., None], 0.1),
    lambda p, t, d: tclr_terms_loop(p[:0], t[:0], d[:0], 0.1),
    lambda p, t, d: group_timesteps(torch.zeros(2, 6), 4),
    lambda p, t, d: small_method(n_dense=1),
    lambda p, t, d: small_method(passes="each"),
    lambda p, t, d: small_method(weighting="sum"),
    lambda p, t, d: small_method(gather="mean"),
    lambda p, t, d: small_method(weights={"local": 1}),
    lambda p, t, d: small_method(weights={"ll": -1}),
    lambda p, t, d: small_method(weights={"ll": math.nan}),
    lambda p, t, d: small_method(weights=dict.fromkeys(TCLR_TERMS, 0)),
    lambda p, t, d: small_method()(random_clips(2)[:, :9]),
    lambda p, t, d: small_method(n_dense=2)(random_clips(2)),
    lambda p, t, d: small_method()(random_clips(2)[0]),
])
def test_wrong_shapes_and_words_say_what_is_accepted(call):
    with pytest.raises(ValueError, match="must|accept"):
        call(*random_vectors(0, 3, 4, 5))


def test_too_few_timesteps_are_refused_before_training_with_the_remedies():
    method = TCLR(create_backbone("small", width=4))
    with pytest.raises(ValueError, match=r"2 timesteps.* 4 dense clips.*dilated=True.*longer clips.*n_dense"):
        method.check_clips(8, 16)
    with pytest.raises(ValueError, match="dilated=True"):
        method(random_clips(2))
    # each remedy that it names works
    small_method().check_clips(8, 16)
    method.check_clips(16, 16)
    TCLR(create_backbone("small", width=4), n_dense=2).check_clips(8, 16)
    # where no term looks at timesteps their number does not matter
    TCLR(create_backbone("small", width=4), weights={"gl": 0}).check_clips(8, 16)
    with pytest.raises(ValueError, match="at least"):
        TCLR(create_backbone("c3d"), weights={"gl": 0}).check_clips(2, 16)


# the method


def test_head_has_the_published_size_and_layers():
    head = TCLRHead(512)
    assert count_parameters(head) == 329_472
    assert [type(layer).__name__ for layer in head.layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert head.layers[0].bias is not None and head.layers[3].bias is None
    assert TCLRHead(32, 16)(torch.randn(4, 32)).shape == (4, 16)


def test_views_are_those_of_the_sampler_and_travel_to_workers():
    method = small_method(n_dense=2)
    views = pickle.loads(pickle.dumps(method.views))
    frames = views(100, 8, 4, np.random.default_rng(3), reverse_p=1.0)
    assert np.array_equal(frames, sparse_dense_views(100, 8, 4, np.random.default_rng(3), 1.0, 2)) and frames.shape == (6, 8)
    assert method.n_draws == 0 and method.encoder is method.backbone


class Meter(nn.Module):
    "A stand-in for the backbone: a clip's feature at each timestep is the mean of each colour over four timesteps of two frames."
    out_channels = 3

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.unflatten(2, (4, -1)).mean(3)


def test_clips_reach_the_vectors_they_belong_to():
    "The terms of the method, against those of vectors taken from the clips by hand."
    method = TCLR(Meter(), dim=3)
    method.head.layers = nn.Identity()
    clips = random_clips(3, seed=4)
    versions = [(clips[:, 0], clips[:, 1:5]), (clips[:, 5], clips[:, 6:10])]
    pooled = torch.stack([sparse.mean((2, 3, 4)) for sparse, _ in versions], 1)
    timesteps = torch.stack([torch.stack([sparse[:, :, 2 * i : 2 * i + 2].mean((2, 3, 4)) for i in range(4)], 1) for sparse, _ in versions], 1)
    dense = torch.stack([local.mean((3, 4, 5)) for _, local in versions], 1)
    wanted, got = tclr_terms(pooled, timesteps, dense, 0.1), method(clips)
    for name in TCLR_TERMS:
        torch.testing.assert_close(got[name], wanted[name] / (3 if name == "ll" else 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_dense", [2, 4])
def test_passes_differ_in_batch_statistics_only(n_dense):
    clips, losses = random_clips(3, n_dense), {}
    for mode in (False, True):
        methods = {passes: small_method(n_dense=n_dense, passes=passes).train(mode) for passes in ("one_each", "by_kind", "together")}
        losses[mode] = [method(clips)["loss"].item() for method in methods.values()]
    assert losses[False] == pytest.approx([losses[False][0]] * 3, rel=1e-5)
    assert len({round(value, 2) for value in losses[True]}) == 3


@pytest.mark.parametrize("passes,wanted_clips,wanted_heads", [("one_each", [3] * 10, [3] * 18), ("by_kind", [6, 24], [6, 24, 24]), ("together", [30], [54])])
def test_what_shares_a_pass(passes, wanted_clips, wanted_heads):
    method, encoded, projected = small_method(passes=passes), [], []
    method.backbone.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    method.head.register_forward_pre_hook(lambda module, args: projected.append(len(args[0])))
    method(random_clips(3))
    assert (encoded, projected) == (wanted_clips, wanted_heads)


def test_in_passes_keeps_every_clip_in_its_place():
    batch = torch.arange(2 * 2 * 5).reshape(2, 2, 5, 1).float()
    for passes in ("one_each", "by_kind", "together"):
        assert torch.equal(in_passes(lambda x: 2 * x, batch, [1, 4], passes), 2 * batch)


def test_weighting_is_the_published_one_at_the_published_batch():
    torch.manual_seed(0)
    clips = torch.randn(40, 10, 3, 4, 16, 16)
    per_video, published = (TCLR(create_backbone("small", width=2, dilated=True), dim=8, n_dense=4, weighting=w, weights={"gl": 0}) for w in ("per_video", "published"))
    published.load_state_dict(per_video.state_dict())
    per_video, published = per_video(clips), published(clips)
    torch.testing.assert_close(per_video["loss"], published["loss"])
    assert per_video["weight_ll"] == published["weight_ll"] == 40


def test_only_the_published_weighting_changes_with_the_batch():
    clips = random_clips(3)
    for weighting, weights in (("per_video", (40, 40)), ("published", (3, 6))):
        method = small_method(weighting=weighting).eval()
        once, twice = method(clips), method(torch.cat([clips, clips]))
        torch.testing.assert_close(twice["ll"], once["ll"])
        torch.testing.assert_close(twice["gl"], once["gl"])
        assert (once["weight_ll"].item(), twice["weight_ll"].item()) == weights
        for out in (once, twice):
            torch.testing.assert_close(out["loss"], sum(out[f"weight_{name}"] * out[name] for name in TCLR_TERMS))


def test_weights_multiply_and_a_zero_saves_the_work():
    clips = random_clips(2)
    every = small_method().eval()(clips)
    weighted = small_method(weights={"ll": 0.5, "gl": 2}).eval()(clips)
    torch.testing.assert_close(weighted["loss"], every["ic_sparse"] + every["ic_dense"] + 20 * every["ll"] + 2 * every["gl"])
    for on, n_clips, n_vectors in (("ic_sparse", 4, 4), ("ic_dense", 16, 16), ("ll", 16, 16), ("gl", 20, 32)):
        method, encoded, projected = small_method(weights=dict.fromkeys(TCLR_TERMS, 0) | {on: 1}).eval(), [], []
        method.backbone.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
        method.head.register_forward_pre_hook(lambda module, args: projected.append(len(args[0])))
        out = method(clips)
        assert (sum(encoded), sum(projected)) == (n_clips, n_vectors)
        assert not (set(TCLR_TERMS) - {on}) & out.keys()
        torch.testing.assert_close(out[on], every[on])
        torch.testing.assert_close(out["loss"], (40 if on == "ll" else 1) * out[on])


def test_outputs_are_scalars_and_only_losses_carry_gradients():
    method = small_method()
    out = method(random_clips(3), torch.zeros(3, 0))
    weights = {f"weight_{name}" for name in TCLR_TERMS}
    assert weights | {"loss", *TCLR_TERMS, "ic_accuracy", "ll_accuracy", "gl_accuracy", "timestep_cosine"} == out.keys()
    for name, value in out.items():
        assert value.shape == () and value.requires_grad == (name in ("loss", *TCLR_TERMS))
    out["loss"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_diagnostics_tell_found_from_collapsed():
    method = TCLR(Meter(), dim=3)
    method.head.layers = nn.Identity()
    flat = method(torch.ones(3, 10, 3, 8, 4, 4))
    assert flat["timestep_cosine"].item() == pytest.approx(1)
    # four moments, each with a colour of its own, and videos of different tint
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]])
    sparse = colours.repeat_interleave(2, 0).T[None]  # (1, 3, 8)
    dense = colours[:, :, None].expand(4, 3, 8)
    told = method(torch.cat([sparse, dense])[None, :, :, :, None, None].repeat(1, 2, 1, 1, 4, 4) + torch.zeros(1, 10, 3, 8, 4, 4))
    assert told["ll_accuracy"] == told["gl_accuracy"] == told["ic_accuracy"] == 1 and told["timestep_cosine"] < 0


def test_loss_falls_in_training():
    torch.manual_seed(0)
    method = TCLR(create_backbone("small", width=8, dilated=True), dim=32)
    optimiser = torch.optim.Adam(method.parameters(), lr=3e-3)
    # moments that differ: each video fades from one pattern to another
    ends, fade = torch.randn(8, 2, 3, 1, 16, 16), torch.linspace(0, 1, 8)
    start = torch.arange(4) / 4
    times = torch.cat([fade[None], start[:, None] + fade / 4]).repeat(2, 1)[None, :, None, :, None, None]
    history = []
    for _ in range(30):
        clips = (1 - times) * ends[:, :1] + times * ends[:, 1:] + 0.1 * torch.randn(8, 10, 3, 8, 16, 16)
        out = method(clips)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        history.append({name: value.item() for name, value in out.items()})
    first, last = history[0], history[-1]
    for name in ("loss", *TCLR_TERMS):
        assert last[name] < 0.6 * first[name], (name, first[name], last[name])
    assert last["gl_accuracy"] > 0.5 > first["gl_accuracy"]


# processes


def two_process_terms(rank: int, world: int, vectors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    "Terms of this process's videos with exact gathering, and the gradients of their sum."
    mine = slice(rank * len(vectors[0]) // world, (rank + 1) * len(vectors[0]) // world)
    local = [x[mine].clone().requires_grad_() for x in vectors]
    found = tclr_terms(*local, 0.1, gather="exact")
    sum(found.values()).backward()
    alone = tclr_terms(*local, 0.1)
    results = {name: value.detach() for name, value in found.items()} | {f"alone.{name}": value.detach() for name, value in alone.items()}
    results |= {f"grad{i}": x.grad for i, x in enumerate(local)}
    for weighting in ("per_video", "published"):
        method = TCLR(Meter(), dim=3, weighting=weighting)
        method.head.layers = nn.Identity()
        results[f"weight.{weighting}"] = method(random_clips(2, seed=rank))["weight_ll"]
    return results


def test_two_processes_share_one_batch(tmp_path):
    vectors = [x.clone() for x in random_vectors(6, 4, 4, 8)]
    ranks = run(two_process_terms, 2, tmp_path, vectors)
    whole = [x.clone().requires_grad_() for x in vectors]
    single = tclr_terms(*whole, 0.1)
    sum(single.values()).backward()
    # the average over processes, which DistributedDataParallel takes of gradients, is the loss of the whole batch
    for name in TCLR_TERMS:
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, single[name].detach())
    for i, x in enumerate(whole):
        torch.testing.assert_close(torch.cat([ranks[0][f"grad{i}"], ranks[1][f"grad{i}"]]) / 2, x.grad)
    for rank, got in enumerate(ranks):
        torch.testing.assert_close(got["ic_dense"], single["ic_dense"].detach())
        alone = tclr_terms(*(x[2 * rank : 2 * rank + 2] for x in vectors), 0.1)
        for name in TCLR_TERMS:
            torch.testing.assert_close(got[f"alone.{name}"], alone[name])
        assert got["weight.per_video"] == 40 and got["weight.published"] == 4
