"""TCGL against the published numbers, against loops over nodes and graphs, and what its order task gives away."""
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from golden import close, load
from ivdr.backbones import Backbone, count_parameters, create_backbone, global_pool
from ivdr.contrastive import nt_xent, unit
from ivdr.sampling import addressed_uniforms, snippet_views
from ivdr.tcgl import (
    ORDERS,
    TCGL,
    Corruption,
    GraphConvolution,
    OrderHead,
    TCGLHeads,
    corruption_from_uniforms,
    corruption_sizes,
    dct_matrix,
    drop_edges,
    frame_sets,
    graph_convolution,
    mask_features,
    motion_band,
    motion_enhance,
    node_logits,
    node_nce,
    normalised_adjacency,
    order_class,
    order_graph,
    path_graph,
    snippet_graph,
    tcgl_features,
    tcgl_terms,
    tile_time,
)

DTYPES = [torch.float32, torch.float64]


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- the published numbers

@pytest.mark.parametrize("dtype", DTYPES)
def test_published_frequency(dtype):
    golden = {name: torch.from_numpy(array).to(dtype) for name, array in load("tcgl_frequency").items()}
    torch.testing.assert_close(motion_enhance(golden["clip"]), golden["output"], rtol=1e-5, atol=1e-6)
    enhanced = motion_enhance(golden["frame_set0"])
    torch.testing.assert_close(enhanced, golden["frame_set0_output"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tile_time(enhanced, 8), golden["frame_set0_repeat2"], rtol=1e-5, atol=1e-6)
    assert torch.equal(frame_sets(golden["clip"], 4)[:, 0], golden["frame_set0"])


def published_nodes(dtype):
    golden = load("tcgl_node_nce")
    return golden, [torch.from_numpy(golden[name]).to(dtype).requires_grad_() for name in ("z1", "z2")]


def projection(arrays, dtype) -> nn.Sequential:
    project = nn.Sequential(nn.Linear(24, 24), nn.ELU(), nn.Linear(24, 24)).to(dtype)
    state = {f"{place}.{kind}": torch.from_numpy(arrays[f"fc{number}_{kind}"]).to(dtype) for number, place in ((1, 0), (2, 2)) for kind in ("weight", "bias")}
    project.load_state_dict(state)
    return project


@pytest.mark.parametrize("dtype", DTYPES)
def test_published_node_contrast(dtype):
    golden, (z1, z2) = published_nodes(dtype)
    project = projection(golden, dtype)
    loss = node_nce(project(z1), project(z2), float(golden["tau"]))
    close(loss, golden["loss_f64"], dtype)
    for gradient, name in zip(torch.autograd.grad(loss, (z1, z2)), ("grad_z1_f64", "grad_z2_f64")):
        close(gradient, golden[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_published_one_sided_contrast_is_the_first_half_of_the_rows(dtype):
    golden, (z1, z2) = published_nodes(dtype)
    logits, targets = node_logits(z1, z2, float(golden["tau"]))
    rows = F.cross_entropy(logits[:4], targets[:4], reduction="none")
    rows.mean().backward()
    close(rows, golden["semi_per_node_no_projection"], torch.float32)
    close(rows.mean(), golden["semi_loss_mean_no_projection_f64"], dtype)
    close(z1.grad, golden["semi_grad_z1_f64"], dtype)
    close(z2.grad, golden["semi_grad_z2_f64"], dtype)


NAMES = {"gcn1": "snippet_gcn", "fc1": "project.0", "fc2": "project.2", "fc7": "order.hidden", "fc8": "order.classify"}
NAMES |= {f"gcn_f{i + 1}": f"frame_gcn.{i}" for i in range(3)}
NAMES |= {f"fusion.fc_{i + 1}.{layer}": f"order.gates.{i}.{layer}" for i in range(3) for layer in (0, 2)}


def ours(name: str) -> str:
    "Where we keep what the published state dict calls otherwise."
    stem, kind = name.replace(".lin.", ".").rsplit(".", 1)
    return f"{NAMES[stem]}.{kind}"


def published_heads(golden, dtype) -> TCGLHeads:
    heads = TCGLHeads(24, dropout=0.0).to(dtype)
    heads.load_state_dict({ours(name[2:]): torch.from_numpy(array).to(dtype) for name, array in golden.items() if name.startswith("w.")})
    return heads


def dense(edge_index, keep, n: int) -> torch.Tensor:
    "1 for each kept (target, source)."
    matrix = torch.zeros(n, n)
    for source, target, kept in zip(*edge_index, keep, strict=True):
        matrix[target, source] = float(kept)
    return matrix


def published_corruption(golden, dtype) -> Corruption:
    "The recorded masks as numbers that lie on their side of one half."
    clip = torch.stack([dense(edges, keep, 3) for edges, keep in zip(golden["clip_edge_index"], golden["edge_keep_clip"])])
    frames = torch.stack([dense(golden["frame_edge_index"], keep, 4) for keep in golden["edge_keep_frames_used"]])
    features, frame_features = (1 - torch.from_numpy(golden[f"feature_drop_{name}"]).float() for name in ("clip", "frames"))
    return Corruption(clip, features, frames[None], frame_features, torch.ones(6, 24), edge_drop=0.5, feature_mask=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_published_forward(dtype):
    golden = load("tcgl_forward")
    heads = published_heads(golden, dtype)
    snippets, framesets = (torch.from_numpy(golden[f"{name}_features"]).to(dtype).requires_grad_() for name in ("snippet", "frameset"))
    orders = torch.from_numpy(golden["orders"])
    terms, _ = tcgl_terms(heads, snippets, framesets, orders, published_corruption(golden, dtype), graph="order", tau=float(golden["tau"]))
    total = terms["intra"] + terms["inter"] + terms["order"]
    total.backward()
    for term, name in (("intra", "frame"), ("inter", "clip"), ("order", "order")):
        close(terms[term], golden[f"loss_{name}_f64"], dtype)
    close(total, golden["loss_total_f64"], dtype)
    close(snippets.grad, golden["grad_snippet_features_f64"], dtype)
    close(framesets.grad, golden["grad_frameset_features_f64"], dtype)
    graded = {ours(name[5:]): array for name, array in golden.items() if name.startswith("grad.")}
    for name, parameter in heads.named_parameters():
        # the recorded gradients of weights are the published float32 run's
        close(parameter.grad, graded.pop(name), torch.float32, magnitude=1.0)
    assert not graded
    nodes = heads.snippet_gcn(snippets, order_graph(orders))
    close(heads.order(nodes), golden["order_logits_f64"], dtype)
    close(nodes[1], golden["gcn1_video1_output"], torch.float32)
    assert torch.equal(order_class(orders), torch.from_numpy(golden["order_targets"]))


# --- motion enhancement

@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 40), data=st.data())
def test_transform_is_orthonormal_and_bands_add_up(n, data):
    matrix = dct_matrix(n)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    clip = normal(n, 2, 1, n, 2, 1)
    torch.testing.assert_close(motion_enhance(clip, (0, n)), clip, rtol=0, atol=1e-12)
    low = data.draw(st.integers(0, n - 1))
    high = data.draw(st.integers(low + 1, n))
    kept = motion_enhance(clip, (low, high))
    rest = [motion_enhance(clip, band) for band in ((0, low), (high, n)) if band[0] < band[1]]
    torch.testing.assert_close(kept + sum(rest), clip, rtol=0, atol=1e-12)
    torch.testing.assert_close(motion_enhance(kept, (low, high)), kept, rtol=0, atol=1e-12)
    energy = sum(part.square().sum() for part in (kept, *rest))
    torch.testing.assert_close(energy, clip.square().sum(), rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 40), k=st.integers(0, 40), dim=st.integers(-5, 4))
def test_without_the_mean_and_along_any_axis(n, k, dim):
    shape = [2, 3, 2, 3, 2]
    shape[dim] = n
    clip = normal(n, *shape)
    torch.testing.assert_close(motion_enhance(clip, dim=dim), clip - clip.mean(dim, keepdim=True), rtol=0, atol=1e-12)
    # a cosine of the transform is kept whole by the band that holds its number, and lost by any other
    k %= n
    wave = dct_matrix(n)[k].reshape([n if axis == dim % 5 else 1 for axis in range(5)])
    torch.testing.assert_close(motion_enhance(wave, (k, k + 1), dim), wave, rtol=0, atol=1e-12)
    if k:
        assert motion_enhance(wave, (0, k), dim).abs().max() < 1e-12


def test_enhancement_keeps_precision_type_and_gradient():
    clip = (100 + normal(0, 2, 3, 8, 2, 2)).float()
    exact = motion_enhance(clip.double(), (1, 5))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = motion_enhance(clip, (1, 5))
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast.double(), exact, rtol=0, atol=1e-4)
    half = clip.bfloat16()
    assert motion_enhance(half).dtype == torch.bfloat16
    torch.testing.assert_close(motion_enhance(half).double(), motion_enhance(half.double()), rtol=2**-8, atol=1e-4)
    leaf = normal(1, 1, 2, 4, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: motion_enhance(x, (1, 3)), leaf)


def test_enhancement_first_used_in_evaluation_can_be_trained_through_later():
    clip = torch.rand(1, 3, 23, 2, 2)
    with torch.inference_mode():
        motion_enhance(clip, (2, 11))
    clip.requires_grad_()
    motion_enhance(clip, (2, 11)).square().sum().backward()
    assert clip.grad is not None and clip.grad.abs().max() > 0


@pytest.mark.parametrize("frames, published, motion", [(16, (1, None), (1, 9)), (8, (1, None), (1, 5)), (4, (1, None), (1, 3)), (2, (1, None), (1, 2))])
def test_bands_by_name(frames, published, motion):
    assert motion_band("published", frames) == published and motion_band("motion", frames) == motion and motion_band("all", frames) == (0, None)


# --- graphs

def test_graphs_by_hand():
    wanted = {(0, 1, 2): {(0, 1), (1, 2)}, (0, 2, 1): {(0, 2), (1, 2)}, (1, 0, 2): {(0, 1), (0, 2)}, (1, 2, 0): {(0, 1), (0, 2)},
              (2, 0, 1): {(0, 2), (1, 2)}, (2, 1, 0): {(0, 1), (1, 2)}}
    assert list(map(tuple, ORDERS.tolist())) == sorted(wanted)
    for graph, (order, edges) in zip(order_graph(ORDERS), sorted(wanted.items())):
        assert {(i, j) for i, j in itertools.product(range(3), repeat=2) if graph[i, j] and i < j} == edges, order
        assert torch.equal(graph, graph.T) and graph.diagonal().sum() == 0
    assert torch.equal(order_class(ORDERS), torch.arange(6))
    assert torch.equal(path_graph(4), torch.tensor([[0., 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]))
    for name in ("presented", "complete"):
        graphs = snippet_graph(name, ORDERS)
        assert graphs.shape == (6, 3, 3) and (graphs == graphs[0]).all(), "says nothing about the order"
    assert snippet_graph("complete", ORDERS).sum() == 36 and torch.equal(snippet_graph("presented", ORDERS)[3], path_graph(3))
    assert torch.equal(snippet_graph("order", ORDERS), order_graph(ORDERS))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), n=st.integers(1, 6))
def test_graph_convolution_is_a_walk_over_directed_edges(seed, n):
    generator = torch.Generator().manual_seed(seed)
    adjacency = (torch.rand(2, n, n, generator=generator) < 0.5).double() * (1 - torch.eye(n, dtype=torch.float64))
    nodes, weight, bias = normal(seed, 2, n, 4), normal(seed + 1, 5, 4), normal(seed + 2, 5)
    got = graph_convolution(nodes, adjacency, weight, bias)
    for g in range(2):
        incoming = [1 + int(adjacency[g, i].sum()) for i in range(n)]
        for i in range(n):
            value = bias.clone()
            for j in range(n):
                if i == j or adjacency[g, i, j]:
                    value = value + weight @ nodes[g, j] / math.sqrt(incoming[i] * incoming[j])
            torch.testing.assert_close(got[g, i], value, rtol=1e-10, atol=1e-12)


def test_normalisation_counts_what_comes_in():
    one_way = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(normalised_adjacency(one_way), torch.tensor([[0.5, 0.5**0.5], [0.0, 1.0]]))


def test_edges_drop_one_way_and_features_in_all_nodes():
    path = path_graph(3).expand(2, 3, 3)
    uniforms = torch.full((2, 3, 3), 0.5)
    uniforms[0, 1, 0], uniforms[1, 0, 2] = 0.19, 0.0
    dropped = drop_edges(path, uniforms, 0.2)
    assert dropped[0, 1, 0] == 0 and dropped[0, 0, 1] == 1 and dropped.sum() == 7
    assert torch.equal(drop_edges(path, uniforms, 0.0), path) and drop_edges(path, uniforms, 1.0).sum() == 0
    masked = mask_features(torch.ones(2, 3, 4), torch.tensor([[0.05, 0.1, 0.9, 0.0], [0.5, 0.5, 0.5, 0.5]]), 0.1)
    assert torch.equal(masked[0], torch.tensor([0.0, 1, 1, 0]).expand(3, 4)) and (masked[1] == 1).all()


def test_corruption_strikes_as_often_as_asked_and_each_video_by_its_own_numbers():
    n, features, sets = 400, 16, 4
    uniforms = addressed_uniforms(0, 0, range(n), sum(corruption_sizes(features, sets)))
    corruption = corruption_from_uniforms(uniforms, features, sets)
    shares = [(part < 0.2).float().mean().item() for part in (corruption.snippet_edges, corruption.frame_edges, corruption.frame_features)]
    assert all(abs(share - 0.2) < 0.02 for share in shares), shares
    alone = corruption_from_uniforms(uniforms[7:8], features, sets)
    for name in ("snippet_edges", "snippet_features", "frame_edges", "frame_features", "order_hidden"):
        assert torch.equal(getattr(alone, name)[0], getattr(corruption, name)[7]), name
    shared = corruption_from_uniforms(uniforms, features, sets, edge_dropping="per_batch")
    assert torch.equal(shared.frame_edges, corruption.frame_edges[:1]) and torch.equal(shared.snippet_edges, corruption.snippet_edges)


# --- node contrast

@pytest.mark.parametrize("n", [1, 3, 4, 7])
def test_equal_nodes_give_the_logarithm_of_their_number(n):
    z = torch.ones(5, n, 3, dtype=torch.float64)
    assert node_nce(z, z).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)
    assert node_nce(z, z, negatives="batch").item() == pytest.approx(math.log(10 * n - 1), abs=1e-12)


def test_best_node_contrast_is_not_zero():
    for n in (3, 4):
        corners = torch.eye(n, dtype=torch.float64) - 1 / n
        wanted = math.log1p((2 * n - 2) * math.exp(-2 * (1 + 1 / (n - 1))))
        assert node_nce(corners, corners).item() == pytest.approx(wanted, abs=1e-12)


def slow_node_nce(z1, z2, tau):
    "One graph: one node, one other node at a time, first one way and then the other."
    losses = []
    for a, b in ((unit(z1), unit(z2)), (unit(z2), unit(z1))):
        for i in range(len(a)):
            partner = torch.exp(torch.dot(a[i], b[i]) / tau)
            between = sum(torch.exp(torch.dot(a[i], b[j]) / tau) for j in range(len(a)))
            within = sum((torch.exp(torch.dot(a[i], a[j]) / tau) for j in range(len(a)) if j != i), torch.zeros(()))
            losses.append(-torch.log(partner / (between + within)))
    return torch.stack(losses).mean()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), b=st.integers(1, 3), p=st.integers(1, 3), n=st.integers(1, 5), d=st.integers(1, 6), tau=st.sampled_from([0.1, 0.5, 2.0]))
def test_node_contrast_is_the_explicit_loop(seed, b, p, n, d, tau):
    z1, z2 = normal(seed, b, p, n, d), normal(seed + 1, b, p, n, d)
    loop = torch.stack([slow_node_nce(z1[i, j], z2[i, j], tau) for i in range(b) for j in range(p)]).mean()
    torch.testing.assert_close(node_nce(z1, z2, tau), loop, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(node_nce(z1[0, 0], z2[0, 0], tau), nt_xent(z1[0, 0], z2[0, 0], tau), rtol=1e-10, atol=1e-12)
    all_nodes = slow_node_nce(z1.reshape(-1, d), z2.reshape(-1, d), tau)
    torch.testing.assert_close(node_nce(z1, z2, tau, "batch"), all_nodes, rtol=1e-10, atol=1e-12)


# --- the order

def order_accuracy(graph: str, told: bool, steps: int = 150) -> float:
    "How often a trained head names the order: from noise, or from noise that carries the snippet's number."
    torch.manual_seed(0)
    gcn, head = GraphConvolution(24), OrderHead(24, dropout=0.0)

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        orders = ORDERS[torch.randint(6, (n,))]
        features = torch.rand(n, 3, 24)
        features[..., 0] += told * orders
        return head(gcn(features, snippet_graph(graph, orders))), order_class(orders)

    optimiser = torch.optim.Adam([*gcn.parameters(), *head.parameters()], lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(*batch(256)).backward()
        optimiser.step()
    logits, targets = batch(4096)
    return (logits.argmax(1) == targets).double().mean().item()


@pytest.mark.parametrize("graph, told, low, high", [
    ("order", False, 0.42, 0.58),  # the middle snippet is given away: two of six are left
    ("presented", False, 0.10, 0.22),
    ("complete", False, 0.10, 0.22),
    ("presented", True, 0.90, 1.00),  # gives nothing away, and lets the order through
    ("complete", True, 0.10, 0.22),  # the mean of three is the same in every order
])
def test_what_the_graph_gives_away(graph, told, low, high):
    assert low <= order_accuracy(graph, told) <= high


def test_order_head():
    assert count_parameters(OrderHead(512)) == 3 * (1536 * 256 + 256 + 256 * 512 + 512) + 1536 * 512 + 512 + 512 * 6 + 6
    # the published head has two more graph convolutions, which nothing uses
    assert count_parameters(TCGLHeads(512)) == 4_466_438 - 2 * (512 * 512 + 512)
    torch.manual_seed(0)
    head, nodes, uniforms = OrderHead(12, dropout=0.5), torch.rand(5, 3, 12), torch.rand(5, 12)
    assert torch.equal(head(nodes, uniforms), head(nodes, uniforms)) and not torch.equal(head(nodes, uniforms), head(nodes, 1 - uniforms))
    kept = head(nodes, torch.ones(5, 12))
    head.eval()
    assert torch.equal(head(nodes, uniforms), head(nodes, torch.zeros(5, 12)))
    # nothing dropped: the hidden numbers are twice those of evaluation
    torch.testing.assert_close(kept - head.classify.bias, 2 * (head(nodes) - head.classify.bias))


# --- the method

class Recorder(Backbone):
    "The square of its input; remembers what shapes came."
    minimum = (3, 1, 1)

    def __init__(self) -> None:
        super().__init__({"pass": nn.Identity()}, 3)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, clips):
        self.shapes.append(tuple(clips.shape))
        return super().forward(clips) ** 2


@pytest.mark.parametrize("passes, wanted", [("by_kind", [(6, 3, 8, 2, 2), (24, 3, 4, 2, 2)]), ("one_each", [(2, 3, 8, 2, 2)] * 3 + [(2, 3, 4, 2, 2)] * 12)])
def test_features_of_snippets_and_sets(passes, wanted):
    backbone = Recorder()
    method = TCGL(backbone, passes=passes)
    snippets = normal(0, 2, 3, 3, 8, 2, 2)
    whole, parts = tcgl_features(method, snippets)
    assert backbone.shapes == wanted, "sets of 2 frames are played twice for a network that needs 3"
    for b, p in itertools.product(range(2), range(3)):
        enhanced = motion_enhance(snippets[b, p], (1, 5), 1)
        torch.testing.assert_close(whole[b, p], enhanced.square().mean((1, 2, 3)))
        for s in range(4):
            few = snippets[b, p, :, 2 * s : 2 * s + 2]
            torch.testing.assert_close(parts[b, p, s], (few - few.mean(1, keepdim=True)).square().mean((1, 2, 3)))


def small(**options) -> TCGL:
    torch.manual_seed(0)
    return TCGL(create_backbone("small", width=4), **options)


CLIPS = torch.rand(4, 3, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [
    {}, {"band": "published", "graph": "order", "edge_dropping": "per_batch", "passes": "one_each", "dropout": 0.5},
    {"band": "all", "negatives": "batch", "graph": "complete", "sets": 2, "weights": {"intra": 0.5}},
])
def test_one_step(options):
    method = small(**options)
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    draws = addressed_uniforms(0, 0, range(4), method.n_draws)
    out = method(CLIPS, draws)
    terms = {term: out[term] for term in ("intra", "inter", "order")}
    weights = options.get("weights", {})
    torch.testing.assert_close(out["loss"], sum(weights.get(term, 1.0) * value for term, value in terms.items()))
    assert all(value.isfinite() and value.requires_grad for value in terms.values())
    assert all(0 <= out[f"{term}_accuracy"] <= 1 for term in terms)
    out["loss"].backward()
    optimiser.step()
    still = [name for name, parameter in method.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


def test_one_step_is_a_function_of_its_draws():
    method = small(dropout=0.5)
    draws = addressed_uniforms(0, 0, range(4), method.n_draws)
    first, other = method(CLIPS, draws), method(CLIPS, addressed_uniforms(0, 1, range(4), method.n_draws))
    torch.manual_seed(99)
    again = method(CLIPS, torch.cat([draws, torch.rand(4, 2)], 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[term], other[term]) for term in ("intra", "inter", "order"))


def test_presents_the_snippets_in_the_drawn_order():
    method, draws = small(), torch.rand(4, small().n_draws)
    draws[:, :3] = torch.tensor([[0.1, 0.5, 0.9], [0.9, 0.1, 0.5], [0.5, 0.1, 0.9], [0.9, 0.5, 0.1]])
    orders = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 2], [2, 1, 0]])
    method.eval()
    presented = torch.stack([clip[order] for clip, order in zip(CLIPS, orders)])
    corruption = corruption_from_uniforms(draws[:, 3:], 32, 4)
    terms, _ = tcgl_terms(method.heads, *tcgl_features(method, presented), orders, corruption)
    out = method(CLIPS, draws)
    for term, value in terms.items():
        torch.testing.assert_close(out[term], value)


def test_passes_differ_only_in_batch_statistics():
    draws = addressed_uniforms(0, 0, range(4), small().n_draws)
    together, apart = small(), small(passes="one_each")
    assert not torch.isclose(together(CLIPS, draws)["intra"], apart(CLIPS, draws)["intra"], rtol=1e-6)
    together, apart = small().eval(), small(passes="one_each").eval()
    torch.testing.assert_close(together(CLIPS, draws)["loss"], apart(CLIPS, draws)["loss"])


def test_is_evaluated_on_enhanced_clips_with_the_trained_weights():
    method = small(band="published").eval()
    clips = CLIPS[:, 0]
    wanted = method.backbone(clips - clips.mean(2, keepdim=True))
    torch.testing.assert_close(method.encoder(clips), wanted)
    torch.testing.assert_close(method.encode(clips), global_pool(wanted))
    assert method.encoder.backbone is method.backbone and not any("encoder" in name for name in method.state_dict())
    # a change of the light, the same in all frames, leaves no trace
    torch.testing.assert_close(method.encode(clips + 0.3), method.encode(clips), rtol=1e-4, atol=1e-5)


def test_views_fit_the_sampling_rule():
    assert small().views is snippet_views
    frames = small().views(200, 16, 1, np.random.default_rng(0), reverse_p=0.0)
    assert frames.shape == (3, 16) and (np.diff(frames, axis=1) == 1).all() and (np.diff(frames[:, 0]) == 24).all()


def test_works_under_autocast():
    method = small()
    draws = addressed_uniforms(0, 0, range(4), method.n_draws)
    exact = method(CLIPS, draws)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(CLIPS, draws)
    rough["loss"].backward()
    for term in ("intra", "inter", "order"):
        assert rough[term].dtype == torch.float32
        torch.testing.assert_close(rough[term], exact[term], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("frames", [1, 4, 6, 10])
def test_refuses_clips_that_cannot_be_cut(frames):
    with pytest.raises(ValueError, match=f"{frames} frames.*8, 12, 16"):
        small().check_clips(frames, 32)


def test_accepts_clips_that_can_be_cut():
    small().check_clips(8, 32)
    small(sets=2).check_clips(4, 32)
    TCGL(create_backbone("c3d")).check_clips(16, 112)


@pytest.mark.parametrize("call", [
    lambda: motion_enhance(torch.zeros(1, 3, 8, 2, 2, dtype=torch.uint8)),
    lambda: motion_enhance(torch.zeros(1, 3, 8, 2, 2), (3, 3)),
    lambda: motion_enhance(torch.zeros(1, 3, 8, 2, 2), (0, 9)),
    lambda: motion_enhance(torch.zeros(1, 3, 1, 2, 2)),
    lambda: motion_enhance(torch.zeros(3, 8), dim=2),
    lambda: dct_matrix(0),
    lambda: motion_band("fast", 8),
    lambda: frame_sets(torch.zeros(2, 3, 10, 4, 4), 4),
    lambda: graph_convolution(torch.zeros(2, 4, 5), torch.zeros(3, 3), torch.zeros(5, 5), torch.zeros(5)),
    lambda: order_class(torch.tensor([[0, 1, 2, 3]])),
    lambda: order_graph(torch.tensor([[0.0, 1.0, 2.0]])),
    lambda: snippet_graph("star", ORDERS),
    lambda: node_nce(torch.zeros(4, 5), torch.zeros(3, 5)),
    lambda: node_nce(torch.zeros(4, 5), torch.zeros(4, 5), tau=0.0),
    lambda: node_nce(torch.zeros(4, 5), torch.zeros(4, 5), negatives="video"),
    lambda: OrderHead(12, dropout=1.0),
    lambda: small(band="fast"), lambda: small(graph="star"), lambda: small(negatives="video"), lambda: small(sets=1), lambda: small(tau=-1.0),
    lambda: small(edge_dropping="never"), lambda: small(passes="all"), lambda: small(weights={"clip": 1.0}), lambda: small(weights={"intra": -1.0}), lambda: small(edge_drop=1.5),
    lambda: small()(CLIPS[:, :2]), lambda: small()(CLIPS, torch.rand(4, 5)), lambda: small()(CLIPS[:, :, :, :6]),
    lambda: tcgl_terms(TCGLHeads(6), torch.zeros(2, 3, 6), torch.zeros(2, 2, 4, 6), ORDERS[:2], published_corruption),
])
def test_refuses(call):
    with pytest.raises(ValueError):
        call()
