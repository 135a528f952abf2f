"Which frames: the published index rules against golden tables, and the properties that hold for every video length."
import numpy as np
import pytest
import torch
from golden import load
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ivdr.sampling import (
    UniformViews, addressed_uniforms, clip_indices, epoch_order, finetune_clip, permutations_from_uniforms, random_clip,
    reverse_time, sample_rng, shuffle_segments, snippet_views, snippets, sparse_dense_clips, sparse_dense_views, three_views, two_views,
    uniform_clips, unshuffle_segments)

lengths = st.integers(1, 400)
clip_lens = st.integers(1, 40)
strides = st.integers(1, 9)
seeds = st.integers(0, 2**63 - 1)


# ---- golden tables

def test_ten_clip_rule_equals_the_published_tables():
    tables = load("dualvar_tenclip_indices")
    assert len(tables) == 12
    for name, expected in tables.items():
        length, stride = name.removeprefix("len").split("_ds")
        found = uniform_clips(int(length), 16, int(stride), 10)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected, err_msg=name)


# ---- clip rules

def slow_clip(n_frames: int, clip_len: int, stride: int, centre: int) -> list[int]:
    return [min(max(centre + stride * (k - clip_len // 2), 0), n_frames - 1) for k in range(clip_len)]


@given(lengths, clip_lens, strides, st.data())
def test_clip_indices_equal_the_rule_frame_by_frame(n_frames, clip_len, stride, data):
    centre = data.draw(st.integers(0, n_frames - 1))
    assert clip_indices(n_frames, clip_len, stride, centre).tolist() == slow_clip(n_frames, clip_len, stride, centre)


def test_published_clip_spans_centre_minus_32_to_plus_28():
    assert clip_indices(200, 16, 4, 100).tolist() == list(range(68, 129, 4))
    assert clip_indices(20, 16, 4, 0).tolist() == [0] * 9 + [4, 8, 12, 16, 19, 19, 19]


@given(lengths, clip_lens, strides, seeds)
def test_every_rule_stays_inside_the_video(n_frames, clip_len, stride, seed):
    rng = np.random.default_rng(seed)
    found = {
        (clip_len,): [random_clip(n_frames, clip_len, stride, rng), finetune_clip(n_frames, clip_len, stride, rng)],
        (2, clip_len): [two_views(n_frames, clip_len, stride, rng)],
        (3, clip_len): [three_views(n_frames, clip_len, stride, rng)],
        (5, clip_len): [
            uniform_clips(n_frames, clip_len, stride, 5), UniformViews(5, reverse=True)(n_frames, clip_len, stride, rng),
            sparse_dense_clips(n_frames, clip_len, stride, int(rng.integers(n_frames))),
            snippets(n_frames, clip_len, stride, int(rng.integers(n_frames)), 5)],
        (10, clip_len): [sparse_dense_views(n_frames, clip_len, stride, rng, reverse_p=p) for p in (0.0, 1.0)],
        (4, clip_len): [snippet_views(n_frames, clip_len, stride, rng, reverse_p=p, n_snippets=4) for p in (0.0, 1.0)],
    }
    for shape, clips in found.items():
        for clip in clips:
            assert clip.shape == shape and clip.dtype == np.int64 and clip.flags.c_contiguous
            assert clip.min() >= 0 and clip.max() < n_frames


@given(lengths, clip_lens, strides, seeds)
def test_third_view_repeats_the_first_and_one_coin_turns_all(n_frames, clip_len, stride, seed):
    forward = three_views(n_frames, clip_len, stride, np.random.default_rng(seed), reverse_p=0.0)
    backward = three_views(n_frames, clip_len, stride, np.random.default_rng(seed), reverse_p=1.0)
    np.testing.assert_array_equal(forward[2], forward[0])
    np.testing.assert_array_equal(backward, forward[:, ::-1])
    assert (np.diff(forward) >= 0).all()
    np.testing.assert_array_equal(forward[:2], two_views(n_frames, clip_len, stride, np.random.default_rng(seed), reverse_p=0.0))


def test_coin_is_fair_and_centres_are_uniform_and_independent():
    rng = np.random.default_rng(0)
    views = np.stack([two_views(50, 3, 1, rng) for _ in range(6000)])
    backwards = views[:, 0, 0] > views[:, 0, 2]
    assert (backwards == (views[:, 1, 0] > views[:, 1, 2])).all()
    assert stats.binomtest(int(backwards.sum()), 6000).pvalue > 1e-3
    centres = views[:, :, 1]  # the middle of three frames is the centre whichever way the clip is played
    for view in (0, 1):
        counts = np.bincount(centres[:, view], minlength=50)
        assert stats.chisquare(counts).pvalue > 1e-3
    table = np.histogram2d(centres[:, 0], centres[:, 1], bins=5)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 6), seeds)
def test_finetune_clip_follows_the_rule(n_frames, clip_len, stride, seed):
    frames = finetune_clip(n_frames, clip_len, stride, np.random.default_rng(seed))
    if n_frames > clip_len * stride:
        assert (np.diff(frames) == stride).all() and frames[0] < n_frames - clip_len * stride
        return
    accepted = []
    for phase in range(stride):
        kept = [k * stride + phase for k in range(clip_len) if k * stride + phase < n_frames]
        rest = clip_len - len(kept)
        accepted += [[0] * rest + kept, kept + [n_frames - 1] * rest]
    assert frames.tolist() in accepted


def test_finetune_clip_of_a_short_video_uses_both_sides_and_all_phases():
    clips = {tuple(finetune_clip(5, 4, 2, np.random.default_rng(seed))) for seed in range(64)}
    assert clips == {(0, 0, 2, 4), (0, 2, 4, 4), (0, 0, 1, 3), (1, 3, 4, 4)}


def test_uniform_views_reverse_each_clip():
    rng = np.random.default_rng(0)
    forward = UniformViews(10)(90, 8, 2, rng)
    np.testing.assert_array_equal(forward, uniform_clips(90, 8, 2, 10))
    np.testing.assert_array_equal(UniformViews(10, reverse=True)(90, 8, 2, rng), forward[:, ::-1])
    np.testing.assert_array_equal(reverse_time(reverse_time(forward)), forward)


# ---- TCLR: one sparse clip and the dense clips that tile it

def walk(n_frames: int, start: int, steps: list[int]) -> list[int]:
    "A clip frame by frame: forward while the video lasts, then back along the frames just taken, then forward again."
    taken = [start + step for step in steps if start + step < n_frames]
    clip, place, direction = [], 0, 1
    for _ in steps:
        clip.append(taken[place])
        if len(taken) > 1:
            if not 0 <= place + direction < len(taken):
                direction = -direction
            place += direction
    return clip


def released_mirror(n_frames: int) -> list[list[int]]:
    "The published fill for 57 to 64 frames: f_n = f_(n-2), f_(n+1) = f_(n-3), ... from the clip's own n frames that exist."
    clips = [list(range(0, 64, 4)), *(list(range(16 * j, 16 * j + 16)) for j in range(4))]
    for clip in clips:
        kept = [frame for frame in clip if frame < n_frames]
        clip[len(kept):] = [kept[len(kept) - 2 - k] for k in range(16 - len(kept))]
    return clips


@given(lengths, st.integers(1, 20), strides, st.integers(1, 6), st.data())
def test_sparse_and_dense_clips_equal_a_walk_frame_by_frame(n_frames, clip_len, stride, n_dense, data):
    start = data.draw(st.integers(0, n_frames - 1))
    clips = sparse_dense_clips(n_frames, clip_len, stride, start, n_dense)
    assert clips.shape == (1 + n_dense, clip_len) and clips.dtype == np.int64
    assert clips[0].tolist() == walk(n_frames, start, [stride * i for i in range(clip_len)])
    assert clips[1:].ravel().tolist() == walk(n_frames, start, [stride * t // n_dense for t in range(n_dense * clip_len)])


@pytest.mark.parametrize("n_frames", range(57, 65))
def test_short_videos_are_filled_as_in_the_released_code(n_frames):
    assert sparse_dense_clips(n_frames, 16, 4, 0).tolist() == released_mirror(n_frames)


def test_published_sparse_and_dense_clips():
    clips = sparse_dense_clips(200, 16, 4, 30)
    assert clips[0].tolist() == list(range(30, 94, 4))
    for j in range(4):
        assert clips[1 + j].tolist() == list(range(30 + 16 * j, 46 + 16 * j))


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 5), st.integers(0, 50))
def test_dense_clips_tile_the_span_without_gap_or_overlap(clip_len, dense_stride, n_dense, start):
    stride = dense_stride * n_dense
    clips = sparse_dense_clips(start + clip_len * stride, clip_len, stride, start, n_dense)
    assert clips[1:].ravel().tolist() == list(range(start, start + clip_len * stride, dense_stride))


@given(st.integers(1, 6), strides, st.integers(1, 5), st.integers(0, 50), st.sampled_from([0.0, 1.0]), seeds)
def test_each_timestep_of_the_sparse_clip_lies_in_its_dense_clip(per_step, stride, n_dense, spare, reverse_p, seed):
    clip_len = per_step * n_dense
    views = sparse_dense_views(clip_len * stride + spare, clip_len, stride, np.random.default_rng(seed), reverse_p, n_dense)
    for i, frame in enumerate(views[0]):
        dense = views[1 + i // per_step]
        assert frame in dense
        others = np.delete(views[1 : 1 + n_dense], i // per_step, axis=0)
        if stride >= n_dense:  # finer combs hold frames more than once, also across the border of two clips
            assert frame not in others


@given(lengths, clip_lens, strides, st.integers(1, 5), seeds)
def test_sparse_dense_views_come_twice_and_one_coin_turns_all(n_frames, clip_len, stride, n_dense, seed):
    forward, backward = (sparse_dense_views(n_frames, clip_len, stride, np.random.default_rng(seed), p, n_dense) for p in (0.0, 1.0))
    n = 1 + n_dense
    np.testing.assert_array_equal(forward[:n], sparse_dense_clips(n_frames, clip_len, stride, int(forward[0, 0]), n_dense))
    np.testing.assert_array_equal(forward[n:], forward[:n])
    np.testing.assert_array_equal(backward[n:], backward[:n])
    np.testing.assert_array_equal(backward[0], forward[0, ::-1])
    np.testing.assert_array_equal(backward[1:n].ravel(), forward[1:n].ravel()[::-1])


def test_sparse_dense_starts_are_uniform_where_there_is_room():
    rng = np.random.default_rng(0)
    starts = [int(sparse_dense_views(84, 16, 4, rng)[0, 0]) for _ in range(4000)]
    assert stats.chisquare(np.bincount(starts, minlength=20)).pvalue > 1e-3 and max(starts) == 19
    for n_frames in (1, 20, 64, 65):
        assert {int(sparse_dense_views(n_frames, 16, 4, rng)[0, 0]) for _ in range(20)} == {0}


# ---- TCGL: snippets in a row

def test_published_snippets():
    clips = snippets(64, 16, 1, 0)
    assert clips.tolist() == [list(range(24 * n, 24 * n + 16)) for n in range(3)]
    starts = {int(snippet_views(70, 16, 1, np.random.default_rng(seed))[0, 0]) for seed in range(200)}
    assert starts == set(range(7))  # 0 and 70 - 64 included
    assert {int(snippet_views(64, 16, 1, np.random.default_rng(seed))[0, 0]) for seed in range(20)} == {0}


@given(lengths, clip_lens, strides, st.integers(1, 5), st.one_of(st.none(), st.integers(0, 30)), st.data())
def test_snippets_follow_the_rule(n_frames, clip_len, stride, n_snippets, gap, data):
    start = data.draw(st.integers(0, n_frames - 1))
    clips = snippets(n_frames, clip_len, stride, start, n_snippets, gap)
    assert clips.shape == (n_snippets, clip_len) and clips.dtype == np.int64 and clips[0, 0] == start
    step = clip_len * stride + (clip_len * stride // 2 if gap is None else gap)
    wanted = start + step * np.arange(n_snippets)[:, None] + stride * np.arange(clip_len)
    if wanted.max() < n_frames:  # everything fits
        np.testing.assert_array_equal(clips, wanted)
        return
    steps = np.diff(clips[:, 0])
    assert steps.size == 0 or (steps.max() - steps.min() <= 1 and 0 <= steps.min() and steps.max() <= step)
    fits = start + stride * (clip_len - 1) < n_frames
    if fits and n_snippets > 1:  # whole snippets, and the room is used to its end
        assert (np.diff(clips) == stride).all() and clips[-1, -1] == n_frames - 1
    if not fits:
        rest = [min(start + stride * i, n_frames - 1) for i in range(clip_len)]
        assert clips.tolist() == [rest] * n_snippets


@given(lengths, clip_lens, strides, st.integers(1, 5), seeds)
def test_snippet_views_start_where_the_tuple_fits_and_turn_as_a_whole(n_frames, clip_len, stride, n_snippets, seed):
    forward, backward = (snippet_views(n_frames, clip_len, stride, np.random.default_rng(seed), p, n_snippets) for p in (0.0, 1.0))
    start = int(forward[0, 0])
    np.testing.assert_array_equal(forward, snippets(n_frames, clip_len, stride, start, n_snippets))
    np.testing.assert_array_equal(backward.ravel(), forward.ravel()[::-1])
    whole = snippets(10**6, clip_len, stride, start, n_snippets)
    assert start == 0 or whole.max() < n_frames


def test_gaps_shrink_then_snippets_overlap_then_the_last_frame_repeats():
    assert snippets(52, 16, 1, 0)[:, 0].tolist() == [0, 18, 36]
    assert snippets(48, 16, 1, 0)[:, 0].tolist() == [0, 16, 32]
    assert snippets(34, 16, 1, 0)[:, 0].tolist() == [0, 9, 18]
    assert snippets(16, 16, 1, 0)[:, 0].tolist() == [0, 0, 0]
    assert snippets(3, 6, 1, 0, 2).tolist() == [[0, 1, 2, 2, 2, 2]] * 2
    assert snippets(1, 4, 1, 0).tolist() == [[0] * 4] * 3


@pytest.mark.parametrize("call, name", [
    (lambda: clip_indices(0, 16, 4, 0), "n_frames"),
    (lambda: random_clip(-1, 16, 4, np.random.default_rng(0)), "n_frames"),
    (lambda: two_views(10, 0, 4, np.random.default_rng(0)), "clip_len"),
    (lambda: three_views(10, 16, 0, np.random.default_rng(0)), "stride"),
    (lambda: finetune_clip(0, 16, 4, np.random.default_rng(0)), "n_frames"),
    (lambda: uniform_clips(10, 16, 4, 0), "n_clips"),
    (lambda: two_views(10, 4, 1, np.random.default_rng(0), reverse_p=1.5), "reverse_p"),
    (lambda: sparse_dense_clips(0, 16, 4, 0), "n_frames"),
    (lambda: sparse_dense_clips(10, 16, 4, 10), r"start is 10.*0\.\.9"),
    (lambda: sparse_dense_clips(10, 16, 4, -1), "start"),
    (lambda: sparse_dense_clips(10, 16, 4, 0, n_dense=0), "n_dense"),
    (lambda: sparse_dense_views(10, 16, 4, np.random.default_rng(0), reverse_p=-0.1), "reverse_p"),
    (lambda: sparse_dense_views(10, 16, 0, np.random.default_rng(0)), "stride"),
    (lambda: snippets(10, 16, 1, 10), r"start is 10.*0\.\.9"),
    (lambda: snippets(10, 16, 1, 0, n_snippets=0), "n_snippets"),
    (lambda: snippets(10, 16, 1, 0, gap=-1), "gap"),
    (lambda: snippet_views(0, 16, 1, np.random.default_rng(0)), "n_frames"),
    (lambda: snippet_views(10, 16, 1, np.random.default_rng(0), n_snippets=0), "n_snippets"),
    (lambda: snippet_views(10, 16, 1, np.random.default_rng(0), reverse_p=2), "reverse_p"),
    (lambda: shuffle_segments(torch.zeros(1, 3, 9, 2, 2), torch.tensor([[1, 0]])), "9 frames"),
    (lambda: shuffle_segments(torch.zeros(3, 9, 2, 2), torch.tensor([[1, 0]])), "B,C,T,H,W"),
    (lambda: shuffle_segments(torch.zeros(1, 3, 8, 2, 2), torch.tensor([[1, 1]])), "permutation"),
    (lambda: shuffle_segments(torch.zeros(2, 3, 8, 2, 2), torch.tensor([[1, 0]])), r"int64 \(2, S\)"),
    (lambda: unshuffle_segments(torch.zeros(1, 2, 4), torch.tensor([[0, 2]])), "permutation"),
    (lambda: unshuffle_segments(torch.zeros(1, 3, 4), torch.tensor([[0, 1]])), r"\(1, 3, 4\)"),
    (lambda: unshuffle_segments(torch.zeros(1, 2, 4), torch.tensor([[0.0, 1.0]])), "int64"),
    (lambda: permutations_from_uniforms(torch.zeros(4)), r"\(B,S\)"),
    (lambda: sample_rng(-1, 0, 0), "seed"),
    (lambda: epoch_order(0, -1, 4), "epoch"),
    (lambda: addressed_uniforms(0, 0, [-3], 4), "index"),
    (lambda: addressed_uniforms(0, 0, [0.5], 4), "index"),
    (lambda: addressed_uniforms(0, [0, 1], [1, 2, 3], 4), "epoch"),
    (lambda: addressed_uniforms(0, 0, [1], 0), "n is 0"),
    (lambda: addressed_uniforms(2**64, 0, [1], 1), "seed"),
])
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


# ---- segments

@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), seeds)
@settings(max_examples=50)
def test_unshuffle_undoes_shuffle(batch, segments, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    perm = permutations_from_uniforms(torch.rand(batch, segments, generator=generator))
    clip = torch.rand(batch, 2, segments * frames, 2, 3, generator=generator)
    shuffled = shuffle_segments(clip, perm)
    for b in range(batch):
        for i in range(segments):
            source = int(perm[b, i])
            assert torch.equal(shuffled[b, :, i * frames : (i + 1) * frames], clip[b, :, source * frames : (source + 1) * frames])
    # a series computed segment by segment from the shuffled clip comes back in the order of time
    series = shuffled.unflatten(2, (segments, frames)).mean((1, 3, 4, 5))
    ordered = clip.unflatten(2, (segments, frames)).mean((1, 3, 4, 5))
    assert torch.equal(unshuffle_segments(series, perm), ordered)


def test_gradients_pass_through_both():
    perm = torch.tensor([[2, 0, 1]])
    series = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: unshuffle_segments(s, perm), series)
    clip = torch.randn(1, 1, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: shuffle_segments(c, perm), clip)


def test_permutations_from_uniforms_are_uniform():
    uniforms = addressed_uniforms(1, 0, np.arange(12000), 3)
    codes = permutations_from_uniforms(uniforms) @ torch.tensor([9, 3, 1])
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


# ---- addressed randomness

def test_same_numbers_alone_in_a_batch_and_in_any_container():
    index = [7, 0, 123456, 7]
    batch = addressed_uniforms(3, 5, index, 40, stream=2)
    assert batch.dtype == torch.float32 and batch.shape == (4, 40)
    assert torch.equal(batch[0], batch[3])
    for row, i in enumerate(index):
        assert torch.equal(addressed_uniforms(3, 5, [i], 40, stream=2)[0], batch[row])
    assert torch.equal(addressed_uniforms(3, torch.full((4,), 5), torch.tensor(index), 40, stream=2), batch)
    assert torch.equal(addressed_uniforms(3, np.array([5, 5, 5, 5]), np.array(index), 40, stream=2), batch)
    # asking for fewer numbers gives the first of them
    assert torch.equal(addressed_uniforms(3, 5, index, 3, stream=2), batch[:, :3])
    assert addressed_uniforms(3, 5, [], 4).shape == (0, 4)


def test_stored_values_do_not_move():
    # a run resumed with another version has to draw the same numbers
    expected = torch.tensor([[0.47141039, 0.72475207, 0.30303085], [0.16806179, 0.17667246, 0.99777299]])
    torch.testing.assert_close(addressed_uniforms(0, 0, [0, 1], 3), expected, rtol=0, atol=1e-7)


def test_every_part_of_the_address_matters():
    base = addressed_uniforms(1, 2, [3], 64, stream=4)
    # exchanged parts too: (1,2) and (2,1) are different places
    others = [(0, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (2, 1, 3, 4), (1, 3, 2, 4), (1, 4, 3, 2), (2**40 + 1, 2, 3, 4)]
    for seed, epoch, index, stream in others:
        assert not torch.isclose(base, addressed_uniforms(seed, epoch, [index], 64, stream=stream)).any()


def test_uniform_in_each_direction_of_the_address():
    count = 20000
    samples = {
        "index": addressed_uniforms(0, 0, np.arange(count), 1)[:, 0],
        "epoch": addressed_uniforms(0, np.arange(count), np.zeros(count, dtype=np.int64), 1)[:, 0],
        "position": addressed_uniforms(0, 0, [0], count)[0],
        "seed": torch.cat([addressed_uniforms(seed, 0, [0], 1)[0] for seed in range(3000)]),
        "stream": torch.cat([addressed_uniforms(0, 0, [0], 1, stream=stream)[0] for stream in range(3000)]),
        "far seeds": torch.cat([addressed_uniforms(seed << 40, 0, [0], 1)[0] for seed in range(3000)]),
    }
    for name, values in samples.items():
        assert 0 <= values.min() and values.max() < 1, name
        assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-3, name
        # neighbours along the same direction: 8 x 8 boxes of (u_i, u_i+1), disjoint pairs
        pairs = values[: len(values) // 2 * 2].reshape(-1, 2).numpy()
        boxes = np.histogram2d(pairs[:, 0], pairs[:, 1], bins=8, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(boxes.ravel()).pvalue > 1e-3, name


def test_streams_seeds_epochs_and_positions_are_independent():
    index = np.arange(5000)
    columns = [addressed_uniforms(seed, epoch, index, 2, stream=stream) for seed in (0, 1) for epoch in (0, 1) for stream in (0, 1)]
    table = torch.cat(columns, 1).numpy()  # 16 columns, 5000 rows
    off = np.corrcoef(table.T)[np.triu_indices(16, 1)] * np.sqrt(5000)  # standard normal under independence
    assert np.abs(off).max() < 4.5
    assert stats.kstest(off, "norm").pvalue > 1e-3


@given(seeds, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_sample_rng_is_a_function_of_its_address(seed, epoch, index):
    draw = sample_rng(seed, epoch, index).integers(2**62)
    assert draw == sample_rng(seed, epoch, index).integers(2**62)
    assert draw != sample_rng(seed, epoch, index ^ 1).integers(2**62)
    assert draw != sample_rng(seed, epoch ^ 1, index).integers(2**62)
    if epoch != index:
        assert draw != sample_rng(seed, index, epoch).integers(2**62)


def test_large_seeds_do_not_collide_with_epochs():
    # numbers are cut into 32-bit words inside: 2**32 must not read as "0, then 1"
    draws = {int(sample_rng(*address).integers(2**62)) for address in [(2**32, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (1, 0, 0)]}
    assert len(draws) == 5


def test_first_centres_over_samples_are_uniform():
    values = np.array([sample_rng(0, 3, index).random() for index in range(4000)])
    assert stats.kstest(values, "uniform").pvalue > 1e-3


@given(seeds, st.integers(0, 1000), st.integers(1, 300))
def test_epoch_order_is_a_permutation(seed, epoch, n_videos):
    order = epoch_order(seed, epoch, n_videos)
    np.testing.assert_array_equal(np.sort(order), np.arange(n_videos))
    if n_videos > 20:
        assert (order != epoch_order(seed, epoch + 1, n_videos)).any()
