"""The numbers of the published code: losses, gradients, whole forward passes, queues, two processes."""
import numpy as np
import pytest
import torch
from torch import nn

from golden import close, load
from processes import run
from ivdr.backbones import Backbone
from ivdr.contrastive import info_nce, nt_xent, temporal_coherence, unit
from ivdr.iivdr import IIVDR, IIVDRMoCo
from ivdr.sampling import shuffle_segments, unshuffle_segments
from ivdr.shuffle_rank import rank_accuracy, shuffle_rank

DTYPES = [torch.float32, torch.float64]


def leaf(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype).requires_grad_()


def twin(golden: dict[str, np.ndarray], name: str, dtype: torch.dtype) -> np.ndarray:
    "The float64 twin is the truth for both precisions."
    return golden.get(f"{name}_f64", golden[name])


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip(dtype):
    golden = load("dualvar_clip")
    raw = leaf(golden["raw_features"], dtype)
    loss = nt_xent(raw[:, 0], raw[:, 1], 0.07)
    loss.backward()
    close(loss, twin(golden, "loss", dtype), dtype)
    close(raw.grad, twin(golden, "grad_raw_features", dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_temporal_coherence(dtype):
    golden = load("dualvar_tc")
    raw = leaf(golden["raw_series"], dtype)
    loss = temporal_coherence(raw[:, 0], raw[:, 1], 0.07)
    loss.backward()
    close(loss, twin(golden, "loss", dtype), dtype)
    close(raw.grad, twin(golden, "grad_raw_series", dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("segments", [2, 4])
@pytest.mark.parametrize("form,max_logit", [("simclr", 5.0), ("moco", None)])
def test_shuffle_rank(dtype, segments, form, max_logit):
    golden, n = load("dualvar_shufflerank"), f"n{segments}"
    orig, aug, shuffled = (leaf(golden[f"{n}_raw_{name}"], dtype) for name in ("orig", "aug", "shuffled_calibrated"))
    halves = [0.5 * shuffle_rank(reference, shuffled, 0.05, max_logit) for reference in (orig, aug)]
    total = halves[0] + halves[1]
    total.backward()
    close(total, twin(golden, f"{n}_{form}_loss_total", dtype), dtype)
    # the halves exist in float32 only
    close(halves[0].float(), golden[f"{n}_{form}_loss_orig_vs_shuffled_weighted"], torch.float32)
    close(halves[1].float(), golden[f"{n}_{form}_loss_aug_vs_shuffled_weighted"], torch.float32)
    for name, tensor in (("orig", orig), ("aug", aug), ("shuffled", shuffled)):
        close(tensor.grad, twin(golden, f"{n}_{form}_grad_raw_{name}", dtype), dtype)


@pytest.mark.parametrize("segments", [2, 4])
def test_rank_accuracy_is_the_top_one_of_the_published_margin_logits(segments):
    golden = load("dualvar_shufflerank")
    logits = golden[f"n{segments}_margin_logits_orig"]
    orig, shuffled = (torch.from_numpy(golden[f"n{segments}_raw_{name}"]) for name in ("orig", "shuffled_calibrated"))
    wanted = (logits[:, :1] > logits[:, 1:]).all(1).mean()
    assert rank_accuracy(orig, shuffled).item() == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_unshuffle():
    golden = load("dualvar_unshuffle")
    perm = torch.from_numpy(golden["permutations"])
    assert torch.equal(shuffle_segments(torch.from_numpy(golden["clip"]), perm), torch.from_numpy(golden["shuffled_clip"]))
    series = unshuffle_segments(torch.from_numpy(golden["shuffled_series"]), perm)
    assert torch.equal(series, torch.from_numpy(golden["calibrated_series"]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_clip(dtype):
    golden = load("dualvar_moco_clip")
    query = leaf(golden["raw_q"], dtype)
    queue = unit(torch.from_numpy(golden["raw_queue"]).to(dtype).T).T
    loss = info_nce(query, torch.from_numpy(golden["raw_k"]).to(dtype), queue, 0.07)
    loss.backward()
    close(loss, twin(golden, "loss", dtype), dtype)
    close(query.grad, twin(golden, "grad_raw_q", dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_temporal_coherence(dtype):
    golden = load("dualvar_moco_tc")
    query = leaf(golden["raw_q"], dtype)
    queue = unit(torch.from_numpy(golden["raw_queue"]).to(dtype).movedim(1, -1)).movedim(-1, 1)
    loss = temporal_coherence(query, torch.from_numpy(golden["raw_k"]).to(dtype), 0.07, queue=queue)
    loss.backward()
    close(loss, twin(golden, "loss", dtype), dtype)
    close(query.grad, twin(golden, "grad_raw_q", dtype), dtype)


def tiny_backbone() -> Backbone:
    "The network of the whole-forward files."
    return Backbone({"stem": nn.Sequential(nn.Conv3d(3, 8, 3, 2, 1, bias=False), nn.ReLU())}, 8)


def draws_for(perms: np.ndarray, columns: int) -> torch.Tensor:
    "Uniform numbers whose sorting order is the wanted permutation."
    ranks = torch.from_numpy(perms).argsort(1).float() / perms.shape[1]
    return torch.nn.functional.pad(ranks, (0, columns - perms.shape[1]))


# where the published state dict keeps what the method calls otherwise
SIMCLR_NAMES = {"encoder_q.0.0": "backbone.stem.0", "encoder_q.2": "clip_head.0", "encoder_q.4": "clip_head.2",
                "series_proj_head.0": "series.head.0", "series_proj_head.2": "series.head.2"}
MOCO_NAMES = {"encoder_q.0.0": "backbone.stem.0", "encoder_q.2": "clip_head.0", "encoder_q.4": "clip_head.2",
              "series_proj_head_q.0": "series.head.0", "series_proj_head_q.2": "series.head.2",
              "encoder_k.0.0": "key_encoder.backbone.stem.0",
              "encoder_k.2": "key_encoder.heads.clip_head.0", "encoder_k.4": "key_encoder.heads.clip_head.2",
              "series_proj_head_k.0": "key_encoder.heads.series.head.0", "series_proj_head_k.2": "key_encoder.heads.series.head.2"}


def ours(name: str, names: dict[str, str]) -> str:
    stem, kind = name.rsplit(".", 1)
    return f"{names[stem]}.{kind}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("segments", [2, 4])
def test_simclr_forward(dtype, segments):
    golden = load(f"dualvar_simclr_forward_n{segments}")
    method = IIVDR(tiny_backbone(), dim=8, segment_dim=4, segments=segments).to(dtype)
    state = method.state_dict()
    given = {ours(name[2:], SIMCLR_NAMES): torch.from_numpy(array) for name, array in golden.items() if name.startswith("w.")}
    parameters = dict(method.named_parameters())
    assert given.keys() == parameters.keys()
    method.load_state_dict(state | {name: array.reshape(state[name].shape).to(dtype) for name, array in given.items()})
    block = leaf(golden["block"], dtype)
    assert method.n_draws == segments
    out = method(block, draws_for(golden["permutations"], segments))
    out["loss"].backward()
    close(out["loss"], twin(golden, "loss.total", dtype), dtype)
    close(out["clip"], twin(golden, "loss.clip_contrast_loss", dtype), dtype)
    close(out["tc"], twin(golden, "loss.tc_contrast_loss", dtype), dtype)
    # the published code names its two halves the other way round in this form
    halves = sorted([out["sr_other"].item() / 2, out["sr_same"].item() / 2])
    wanted = sorted(float(twin(golden, f"loss.{name}_ranking_margin_contrast_loss", dtype)) for name in ("aug", "unaug"))
    close(torch.tensor(halves, dtype=torch.float64), np.array(wanted), dtype)
    close(out["sr"], np.array(sum(wanted)), dtype)
    close(block.grad, twin(golden, "grad_block", dtype), dtype)
    for name, parameter in parameters.items():
        (theirs,) = [n for n in golden if n.startswith("w.") and ours(n[2:], SIMCLR_NAMES) == name]
        wanted_grad = twin(golden, f"grad.{theirs[2:]}", dtype)
        # sums over clips of gradients of the order of 1, which nearly cancel: the published float32 run errs by as much
        close(parameter.grad, wanted_grad.reshape(parameter.shape), dtype, magnitude=1.0)


def test_moco_forward_with_queues_and_momentum():
    golden = load("dualvar_moco_forward")
    method = IIVDRMoCo(tiny_backbone(), dim=8, segment_dim=4, queue_size=12, momentum=0.9)
    state = method.state_dict()

    def published(when: str) -> dict[str, torch.Tensor]:
        "The published state under our names and shapes."
        arrays = {name[len(when) + 1:]: torch.from_numpy(array) for name, array in golden.items() if name.startswith(f"{when}.")}
        pointer, queue, series = arrays.pop("queue_ptr")[0], arrays.pop("queue"), arrays.pop("series_queue")
        named = {ours(name, MOCO_NAMES): array.reshape(state[ours(name, MOCO_NAMES)].shape) for name, array in arrays.items()}
        queues = {"queue.queue": queue, "queue.pointer": pointer, "series_queue.queue": series.reshape(2, 4, 12), "series_queue.pointer": pointer}
        return named | queues

    before, after = published("before"), published("after")
    assert state.keys() - before.keys() == {"queue.enqueued", "series_queue.enqueued"}
    method.load_state_dict(state | before)
    block = leaf(golden["block"], torch.float32)
    out = method(block, draws_for(golden["permutations"], method.n_draws))
    out["loss"].backward()
    close(out["loss"], golden["loss.total"], torch.float32)
    close(out["clip"], golden["loss.clip_contrast_loss"], torch.float32)
    close(out["tc"], golden["loss.tc_contrast_loss"], torch.float32)
    close(out["sr_same"] / 2, golden["loss.aug_ranking_margin_contrast_loss"], torch.float32)
    close(out["sr_other"] / 2, golden["loss.unaug_ranking_margin_contrast_loss"], torch.float32)
    close(block.grad, golden["grad_block"], torch.float32)
    for name, wanted in after.items():
        close(method.state_dict()[name], wanted.numpy(), torch.float32)
    graded = {ours(name[5:], MOCO_NAMES): array for name, array in golden.items() if name.startswith("grad.")}
    for name, parameter in method.named_parameters():
        if name.startswith("key_encoder"):
            assert parameter.grad is None
        else:
            close(parameter.grad, graded.pop(name).reshape(parameter.shape), torch.float32)
    assert not graded


def two_process_losses(rank: int, world: int, clip: torch.Tensor, tc: torch.Tensor) -> dict[str, torch.Tensor]:
    "Loss and local gradient of this process's videos, as published and exact."
    results = {}
    mine = slice(rank * len(clip) // world, (rank + 1) * len(clip) // world)
    for term, loss, array in (("clip", nt_xent, clip), ("tc", temporal_coherence, tc)):
        for gather in ("own", "exact"):
            for rows in ("own", "all"):
                raw = array[mine].clone().requires_grad_()
                value = loss(raw[:, 0], raw[:, 1], 0.07, gather=gather, rows=rows)
                value.backward()
                results[f"{term}.{gather}.{rows}.loss"], results[f"{term}.{gather}.{rows}.grad"] = value.detach(), raw.grad
    return results


def test_two_processes(tmp_path):
    golden = load("dualvar_dist2")
    ranks = run(two_process_losses, 2, tmp_path, torch.from_numpy(golden["clip_raw"]), torch.from_numpy(golden["tc_raw"]))
    for rank, got in enumerate(ranks):
        # as published: clip over all anchors, coherence over this process's; both keep only their own gradient
        for term, rows in (("clip", "all"), ("tc", "own")):
            close(got[f"{term}.own.{rows}.loss"], golden[f"{term}_loss_rank{rank}"], torch.float32)
            close(got[f"{term}.own.{rows}.grad"], golden[f"{term}_grad_raw_rank{rank}"], torch.float32)
        # exact: averaging over the two processes, as DistributedDataParallel does, gives the one-process gradient
        for term in ("clip", "tc"):
            for rows in ("all", "own"):
                single = golden[f"{term}_grad_raw_single_process"][2 * rank : 2 * rank + 2]
                close(got[f"{term}.exact.{rows}.grad"] / 2, single, torch.float32)
            close(got[f"{term}.exact.all.loss"], golden[f"{term}_loss_single_process"], torch.float32)
    for term in ("clip", "tc"):
        mean = (ranks[0][f"{term}.exact.own.loss"] + ranks[1][f"{term}.exact.own.loss"]) / 2
        close(mean, golden[f"{term}_loss_single_process"], torch.float32)
