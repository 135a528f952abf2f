"""Contrastive losses against explicit loops, their closed forms and symmetries, the queue, the slow copy."""
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ivdr.contrastive import (
    FeatureQueue,
    all_gather_grad,
    info_nce,
    info_nce_logits,
    momentum_update,
    nt_xent,
    nt_xent_logits,
    queue_statistics,
    temporal_coherence,
    top1_accuracy,
    unit,
    world_size,
)

CASE = dict(seed=st.integers(0, 2**31 - 1), n=st.integers(1, 6), d=st.integers(1, 9), temperature=st.sampled_from([0.05, 0.07, 0.5, 2.0]))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_nt_xent(z1, z2, temperature, similarity=torch.dot):
    "One anchor, one candidate at a time."
    rows = [*z1, *z2]
    total = 0.0
    for i, anchor in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        logits = torch.stack([similarity(anchor, rows[j]) / temperature for j in others])
        total = total - (logits - logits.logsumexp(0))[others.index((i + len(z1)) % len(rows))]
    return total / len(rows)


def slow_segments(a, b):
    "Mean over all S x S pairs."
    return sum(torch.dot(x, y) for x in a for y in b) / (len(a) * len(b))


@settings(deadline=None, max_examples=25)
@given(**CASE)
def test_nt_xent_is_the_explicit_loop(seed, n, d, temperature):
    z1, z2 = normal(seed, n, d), normal(seed + 1, n, d)
    torch.testing.assert_close(nt_xent(z1, z2, temperature), slow_nt_xent(unit(z1), unit(z2), temperature), rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(segments=st.integers(1, 4), **CASE)
def test_temporal_coherence_is_the_mean_over_all_segment_pairs(seed, n, d, temperature, segments):
    a, b, queue = normal(seed, n, segments, d), normal(seed + 1, n, segments, d), unit(normal(seed + 2, segments, 5, d)).movedim(1, -1)
    slow = slow_nt_xent(unit(a), unit(b), temperature, slow_segments)
    torch.testing.assert_close(temporal_coherence(a, b, temperature), slow, rtol=1e-10, atol=1e-10)
    total = 0.0
    for x, y in zip(unit(a), unit(b)):
        logits = torch.stack([slow_segments(x, y), *(slow_segments(x, queue[..., k]) for k in range(5))]) / temperature
        total = total + logits.logsumexp(0) - logits[0]
    torch.testing.assert_close(temporal_coherence(a, b, temperature, queue=queue), total / n, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(**CASE)
def test_info_nce_is_the_explicit_loop(seed, n, d, temperature):
    query, key, queue = normal(seed, n, d), normal(seed + 1, n, d), normal(seed + 2, d, 7)
    total = 0.0
    for q, k in zip(unit(query), unit(key)):
        # the queue's columns are used as they are, unit or not
        logits = torch.stack([torch.dot(q, c) for c in (k, *queue.T)]) / temperature
        total = total + logits.logsumexp(0) - logits[0]
    torch.testing.assert_close(info_nce(query, key, queue, temperature), total / n, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(**CASE)
def test_order_scale_and_sides_do_not_matter(seed, n, d, temperature):
    z1, z2 = normal(seed, n, d), normal(seed + 1, n, d)
    loss, order = nt_xent(z1, z2, temperature), torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    scale = normal(seed + 2, n, 1).exp()
    for same in (nt_xent(z1[order], z2[order], temperature), nt_xent(scale * z1, 3 * z2, temperature), nt_xent(z2, z1, temperature)):
        torch.testing.assert_close(same, loss, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_equal_vectors_cost_the_log_of_the_candidates(n):
    same = torch.ones(n, 5)
    assert nt_xent(same, same, 0.07).item() == pytest.approx(math.log(2 * n - 1), abs=1e-6)
    assert temporal_coherence(same[:, None].repeat(1, 3, 1), same[:, None].repeat(1, 3, 1), 0.07).item() == pytest.approx(math.log(2 * n - 1), abs=1e-6)
    assert info_nce(same, same, unit(torch.ones(4, 5)).T, 0.07).item() == pytest.approx(math.log(5), abs=1e-6)


def test_coherence_sees_means_that_are_not_renormalised():
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    # both means are zero, so every similarity is zero, whatever the slots look like
    assert temporal_coherence(opposite, opposite, 0.07).item() == pytest.approx(math.log(3))


def test_gradient():
    z1, z2, queue = normal(0, 3, 4).requires_grad_(), normal(1, 3, 4).requires_grad_(), normal(2, 4, 6)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (z1, z2))
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, queue, 0.5), (z1, z2))
    s1, s2 = normal(3, 3, 2, 4).requires_grad_(), normal(4, 3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: temporal_coherence(a, b, 0.5), (s1, s2))


def test_zero_vectors_give_finite_gradients():
    z = torch.zeros(3, 4, requires_grad=True)
    nt_xent(z, z, 0.07).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_contrasted_in_float32(dtype):
    z1, z2, queue = normal(0, 8, 16).to(dtype), normal(1, 8, 16).to(dtype), unit(normal(2, 12, 16).float()).T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = nt_xent(z1, z2, 0.07), info_nce(z1, z2, queue, 0.07), temporal_coherence(z1[:, None], z2[:, None], 0.07)
    wanted = nt_xent(z1.float(), z2.float(), 0.07), info_nce(z1.float(), z2.float(), queue, 0.07), nt_xent(z1.float(), z2.float(), 0.07)
    for loss, want in zip(losses, wanted):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, want)


@pytest.mark.parametrize("temperature", [0, -0.07, math.nan])
def test_temperature_must_be_positive(temperature):
    z, s, queue = torch.randn(3, 4), torch.randn(3, 2, 4), torch.randn(4, 6)
    for call in (lambda: nt_xent(z, z, temperature), lambda: info_nce(z, z, queue, temperature), lambda: temporal_coherence(s, s, temperature),
                 lambda: temporal_coherence(s, s, temperature, queue=torch.randn(2, 4, 6))):
        with pytest.raises(ValueError, match="temperature"):
            call()


@pytest.mark.parametrize("call", [
    lambda z, s: nt_xent(z, z[:2], 0.07),
    lambda z, s: nt_xent(s, s, 0.07),
    lambda z, s: nt_xent(z[:0], z[:0], 0.07),
    lambda z, s: nt_xent(z, z, 0.07, gather="sum"),
    lambda z, s: nt_xent(z, z, 0.07, rows="mine"),
    lambda z, s: info_nce(z, z[:, :3], torch.randn(4, 6), 0.07),
    lambda z, s: info_nce(z, z, torch.randn(6, 4), 0.07),
    lambda z, s: info_nce(z, z, torch.randn(2, 4, 6), 0.07),
    lambda z, s: temporal_coherence(z, z, 0.07),
    lambda z, s: temporal_coherence(s, s[:, :1], 0.07),
    lambda z, s: temporal_coherence(s, s, 0.07, queue=torch.randn(4, 6)),
    lambda z, s: temporal_coherence(s, s, 0.07, queue=torch.randn(3, 4, 6)),
    lambda z, s: all_gather_grad(z, "mean"),
    lambda z, s: FeatureQueue(0, 4),
    lambda z, s: FeatureQueue(4, 8).enqueue(s),
    lambda z, s: FeatureQueue(4, 8, segments=2).enqueue(z),
    lambda z, s: FeatureQueue(4, 8).enqueue(z),
    lambda z, s: FeatureQueue(4, 8).enqueue(z[:0]),
])
def test_wrong_shapes_and_words_say_what_is_accepted(call):
    with pytest.raises(ValueError, match="must|accept"):
        call(torch.randn(3, 4), torch.randn(3, 2, 4))


def test_accuracy_counts_partners_found():
    z1 = torch.eye(4)
    z2 = torch.eye(4)[[0, 1, 3, 2]]
    assert top1_accuracy(*nt_xent_logits(z1, z1, 0.07)) == 1
    assert top1_accuracy(*nt_xent_logits(z1, z2, 0.07)) == 0.5
    assert top1_accuracy(*info_nce_logits(z1, z2, 0.5 * torch.eye(4), 0.07)) == 0.5


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([None, 1, 3]), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_queue_keeps_the_last_keys_in_a_ring(seed, segments, batch):
    queue = FeatureQueue(5, 12, segments)
    wanted, pointer = queue.snapshot(), 0
    torch.testing.assert_close(wanted.norm(dim=-2), torch.ones_like(wanted.norm(dim=-2)))
    for step in range(12 // batch + 2):
        keys = normal(seed + step, batch, *(() if segments is None else (segments,)), 5).float()
        for key in keys:
            wanted[..., pointer] = unit(key)
            pointer = (pointer + 1) % 12
        queue.enqueue(keys)
        assert queue.pointer.dtype == torch.int64 and int(queue.pointer) == pointer
        torch.testing.assert_close(queue.queue, wanted)
        assert queue_statistics(queue)["queue_filled"].item() == pytest.approx(min(1, (step + 1) * batch / 12))


def test_queue_state_survives_saving_and_statistics_show_collapse():
    queue, copy = FeatureQueue(4, 6), FeatureQueue(4, 6)
    queue.enqueue(torch.randn(3, 4))
    copy.load_state_dict(queue.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(queue.state_dict().values(), copy.state_dict().values()))
    assert queue_statistics(copy)["queue_mean_norm"] < 0.95
    copy.enqueue(torch.ones(6, 4))
    assert queue_statistics(copy)["queue_mean_norm"].item() == pytest.approx(1)


def test_a_loss_can_be_differentiated_after_the_queue_has_moved_on():
    queue, query = FeatureQueue(4, 6), torch.randn(3, 4, requires_grad=True)
    before = queue.snapshot()
    loss = info_nce(query, torch.randn(3, 4), queue.snapshot(), 0.07)
    queue.enqueue(torch.randn(3, 4))
    loss.backward()
    assert query.grad.isfinite().all() and not torch.equal(queue.queue, before)


def test_momentum_moves_parameters_and_leaves_buffers():
    key, query = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(query.weight, 5.0)
    query.running_mean.fill_(9.0)
    momentum_update(key, query, 0.9)
    torch.testing.assert_close(key.weight, torch.full((3,), 0.9 * 1 + 0.1 * 5))
    assert torch.equal(key.running_mean, torch.zeros(3))
    momentum_update(key, query, 0.0)
    torch.testing.assert_close(key.weight, query.weight)


def test_one_process_needs_no_process_group():
    z = torch.randn(3, 4, requires_grad=True)
    assert world_size() == 1 and all_gather_grad(z) is z
    assert torch.equal(nt_xent(z, 2 * z, 0.07, gather="own", rows="own"), nt_xent(z, 2 * z, 0.07))


def test_importing_the_losses_loads_no_video_or_plotting_library():
    code = "import ivdr.contrastive, ivdr.shuffle_rank, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torchvision", "decord", "av", "sklearn", "pandas", "matplotlib", "plotly", "accelerate", "IPython", "nbdev", "fastcore"]
    assert subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True).stdout == "[]\n"
