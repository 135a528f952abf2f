"""Shuffle-rank against explicit loops, its cap, and the value it has when nothing was learned."""
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivdr.contrastive import unit
from ivdr.sampling import unshuffle_segments
from ivdr.shuffle_rank import rank_accuracy, shuffle_rank, shuffle_rank_floor

CASE = dict(
    seed=st.integers(0, 2**31 - 1), b=st.integers(1, 4), s=st.integers(2, 5), d=st.integers(1, 9),
    theta=st.sampled_from([0.02, 0.05, 0.5]), max_logit=st.sampled_from([None, 1.0, 5.0]),
)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_shuffle_rank(reference, shuffled, theta, max_logit):
    "One video, one segment, one other segment at a time."
    terms, right = [], []
    for q, p in zip(unit(reference), unit(shuffled)):
        rows, s = [*q, *p], len(q)
        for r in range(2 * s):
            partner = (r + s) % (2 * s)
            diffs = [torch.dot(rows[r], rows[o]) - torch.dot(rows[r], rows[partner]) for o in range(2 * s) if o not in (r, partner)]
            right.append(all(diff < 0 for diff in diffs))
            terms += [torch.logaddexp(min(diff / theta, torch.tensor(max_logit or math.inf, dtype=diff.dtype)), torch.zeros_like(diff)) for diff in diffs]
    return torch.stack(terms).mean(), sum(right) / len(right)


@settings(deadline=None, max_examples=30)
@given(**CASE)
def test_is_the_explicit_loop(seed, b, s, d, theta, max_logit):
    q, p = normal(seed, b, s, d), normal(seed + 1, b, s, d)
    # one width only: cosines are all 1 or -1, and ties of a rounding error would decide the accuracy
    loss, accuracy = slow_shuffle_rank(q, p, theta, max_logit)
    torch.testing.assert_close(shuffle_rank(q, p, theta, max_logit), loss, rtol=1e-10, atol=1e-10)
    if d > 1:
        assert rank_accuracy(q, p).item() == pytest.approx(accuracy)


@settings(deadline=None, max_examples=20)
@given(**CASE)
def test_scale_sides_and_the_order_of_videos_and_segments_do_not_matter(seed, b, s, d, theta, max_logit):
    q, p = normal(seed, b, s, d), normal(seed + 1, b, s, d)
    loss, generator = shuffle_rank(q, p, theta, max_logit), torch.Generator().manual_seed(seed)
    videos, segments = torch.randperm(b, generator=generator), torch.randperm(s, generator=generator)
    scaled = normal(seed + 2, b, s, 1).exp() * q
    for same in (
        shuffle_rank(scaled, 3 * p, theta, max_logit), shuffle_rank(p, q, theta, max_logit),
        shuffle_rank(q[videos], p[videos], theta, max_logit), shuffle_rank(q[:, segments], p[:, segments], theta, max_logit),
    ):
        torch.testing.assert_close(same, loss, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("segments", [2, 3, 4, 8])
def test_equal_vectors_cost_ln_2_and_understood_ones_nothing(segments):
    same = torch.ones(3, segments, 8)
    assert shuffle_rank(same, same).item() == pytest.approx(math.log(2), abs=1e-5)
    slots = torch.eye(8)[:segments].expand(3, -1, -1)
    assert shuffle_rank(slots, slots).item() == pytest.approx(math.log1p(math.exp(-20)), abs=1e-6)
    assert rank_accuracy(slots, slots) == 1 and rank_accuracy(slots, slots.roll(1, 1)) == 0


def swapped_slope(distance: float, max_logit: float | None) -> tuple[float, float]:
    "Value, and slope along the angle, of two slots at 1 - cosine = distance that came back exchanged."
    angle = torch.tensor(math.acos(1 - distance), dtype=torch.float64, requires_grad=True)
    slots = torch.stack([torch.stack([torch.ones_like(angle), torch.zeros_like(angle)]), torch.stack([angle.cos(), angle.sin()])])[None]
    loss = shuffle_rank(slots, slots.flip(1), 0.05, max_logit)
    loss.backward()
    return loss.item(), angle.grad.item()


def test_the_cap_stops_the_gradient_of_strongly_violated_pairs():
    # half of the comparisons tie whatever the angle, the other half are violated by the distance
    below, above, free = swapped_slope(0.2499, 5.0), swapped_slope(0.2501, 5.0), swapped_slope(0.2501, None)
    assert below[0] == pytest.approx((math.log(2) + math.log1p(math.exp(4.998))) / 2)
    assert below[1] == pytest.approx(free[1], rel=1e-2) and below[1] > 1
    assert above[0] == pytest.approx((math.log(2) + math.log1p(math.exp(5))) / 2)
    assert above[1] == pytest.approx(0, abs=1e-12)


def test_extreme_differences_stay_finite_in_float32():
    slots = torch.eye(2).repeat(1, 1, 1)
    shuffled = (-slots).requires_grad_()
    loss = shuffle_rank(slots, shuffled, theta=0.001, max_logit=None)
    loss.backward()
    assert loss.isfinite() and loss > 400 and shuffled.grad.isfinite().all()


def test_gradient():
    q, p = normal(0, 2, 3, 4).requires_grad_(), normal(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: shuffle_rank(a, b, 0.5, None), (q, p))


def test_half_precision_is_compared_in_float32():
    q, p = normal(0, 4, 2, 8).bfloat16(), normal(1, 4, 2, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = shuffle_rank(q, p)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, shuffle_rank(q.float(), p.float()))


@pytest.mark.parametrize("call", [
    lambda: shuffle_rank(torch.randn(3, 2, 4), torch.randn(3, 2, 5)),
    lambda: shuffle_rank(torch.randn(3, 4), torch.randn(3, 4)),
    lambda: shuffle_rank(torch.randn(3, 1, 4), torch.randn(3, 1, 4)),
    lambda: shuffle_rank(torch.randn(0, 2, 4), torch.randn(0, 2, 4)),
    lambda: shuffle_rank(torch.randn(3, 2, 4), torch.randn(3, 2, 4), theta=0.0),
    lambda: shuffle_rank(torch.randn(3, 2, 4), torch.randn(3, 2, 4), max_logit=-1.0),
    lambda: rank_accuracy(torch.randn(3, 1, 4), torch.randn(3, 1, 4)),
    lambda: shuffle_rank_floor(1),
    lambda: shuffle_rank_floor(2, theta=-1),
    lambda: shuffle_rank_floor(2, max_logit=0),
])
def test_wrong_input_says_what_is_accepted(call):
    with pytest.raises(ValueError, match="must|accepted"):
        call()


def blind_slots(slots: torch.Tensor, theta: float, max_logit: float | None) -> torch.Tensor:
    "The term's mean over all permutations when every clip, shuffled or not, gets the same slots (S, d)."
    perms = torch.tensor(list(itertools.permutations(range(len(slots)))))
    constant = slots.expand(len(perms), -1, -1)
    return shuffle_rank(constant, unshuffle_segments(constant, perms), theta, max_logit)


def test_floor_closed_forms():
    assert shuffle_rank_floor(2) == pytest.approx(0.650672, abs=5e-7)
    for segments in (2, 3, 4, 8):
        assert shuffle_rank_floor(segments) == pytest.approx(math.log(2) - (5 * math.log(2) - 3 * math.log(3)) / (2 * segments))
        assert shuffle_rank_floor(segments, max_logit=None) == shuffle_rank_floor(segments, theta=0.1) == shuffle_rank_floor(segments)


@pytest.mark.parametrize("segments", [2, 3, 4])
def test_constant_slots_at_the_stated_cosine_reach_the_floor(segments):
    cosine = 1 - 0.05 * math.log(2)
    gram = cosine + (1 - cosine) * torch.eye(segments, dtype=torch.float64)
    slots = torch.linalg.cholesky(gram)
    assert blind_slots(slots, 0.05, 5.0).item() == pytest.approx(shuffle_rank_floor(segments), abs=1e-9)
    # blind slots are right exactly when the segment stayed where it was
    perms = torch.tensor(list(itertools.permutations(range(segments))))
    constant = slots.expand(len(perms), -1, -1)
    assert rank_accuracy(constant, unshuffle_segments(constant, perms)).item() == pytest.approx(1 / segments)


@pytest.mark.parametrize("segments,theta,max_logit", [(2, 0.05, 5.0), (3, 0.05, 5.0), (4, 0.05, None), (3, 2.0, None), (2, 0.05, 1.0)])
def test_no_constant_slots_found_by_descent_get_below_the_floor(segments, theta, max_logit):
    best = math.inf
    floor = shuffle_rank_floor(segments, theta, max_logit)
    for seed, spread in itertools.product(range(2), (0.1, 30.0)):
        slots = (1 + spread * normal(seed, segments, segments + 1)).requires_grad_()
        optimiser = torch.optim.Adam([slots], lr=0.02)
        for _ in range(120):
            optimiser.zero_grad()
            loss = blind_slots(slots, theta, max_logit)
            loss.backward()
            optimiser.step()
            best = min(best, loss.item())
    assert best > floor - 1e-6
    assert best < floor + 5e-3
