"""refimpl.retrieve.codes: bytes counted, errors bounded, recall against the exact search, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refimpl.retrieve.codes import (
    BinaryCode,
    FloatCode,
    Int8Code,
    LinearCode,
    ProductCode,
    matryoshka,
    principal,
    rescore,
    search_codes,
    truncation,
)

pytest.importorskip("faiss")
D, K = 64, 10


@pytest.fixture(scope="module")
def world():
    """2,000 unit vectors around centres, wide in some directions and turned, 150 queries and their true ten."""
    generator = np.random.default_rng(0)
    wide = np.linspace(1.5, 0.3, D)
    centres = generator.standard_normal((200, D))
    x = (centres[generator.integers(0, 200, 2150)] + 0.6 * generator.standard_normal((2150, D))) * wide
    x = x @ np.linalg.qr(generator.standard_normal((D, D)))[0]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    queries, vectors = x[:150], x[150:]
    return vectors, queries, np.argsort(-(queries @ vectors.T), axis=1)[:, :K]


def recall(rows, true):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, true, strict=True)])


MAKERS = {
    "fp32": (lambda x: FloatCode(D), 4 * D),
    "fp16": (lambda x: FloatCode(D, 16), 2 * D),
    "int8": (Int8Code, D),
    "binary": (lambda x: BinaryCode(D), D // 8),
    "product": (lambda x: ProductCode(x, 8, 6), 6),
    "truncated": (lambda x: truncation(D, 16), 64),
    "principal": (lambda x: principal(x, 16), 64),
}


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_scores_and_shapes(name, world):
    vectors, queries, _ = world
    make, nbytes = MAKERS[name]
    code = make(vectors)
    codes = code.encode(vectors)
    assert code.nbytes == nbytes == codes.nbytes / len(vectors)
    decoded = code.decode(codes)
    assert decoded.shape == vectors.shape and decoded.dtype == np.float32
    scores = code.scores(queries, codes)
    assert scores.shape == (len(queries), len(vectors))
    if name != "truncated":  # its scores are cosines of what is left
        np.testing.assert_allclose(scores, queries @ decoded.T, atol=2e-5)
    best, rows = search_codes(code, codes, queries, K)
    np.testing.assert_allclose(best, np.sort(scores, axis=1)[:, ::-1][:, :K], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(scores, rows, 1), best)


def test_recall_falls_with_the_bytes_and_a_second_look_mends_it(world):
    vectors, queries, true = world
    fine = Int8Code(vectors)
    found, second = {}, {}
    for name, (make, _) in MAKERS.items():
        code = make(vectors)
        _, rows = search_codes(code, code.encode(vectors), queries, 4 * K)
        found[name] = recall(rows[:, :K], true)
        second[name] = recall(rescore(rows, fine, fine.encode(vectors), queries, K)[1], true)
        within = recall(rows, true)  # nothing can be found that the first look did not let through
        assert second[name] <= within + 1e-9
    assert found["fp32"] == 1 and found["fp16"] > 0.995 and found["int8"] > 0.97
    assert 0.5 < found["binary"] < 0.85 and second["binary"] > 0.95
    assert found["product"] < 0.9 and second["product"] > found["product"] + 0.08
    assert found["principal"] > found["truncated"] + 0.02


def test_int8_rounds_to_half_a_step_and_clips():
    training = np.array([[0.5, -1.27]], dtype=np.float32)
    code = Int8Code(training)
    assert code.scale == pytest.approx(0.01)
    given = np.array([[0.014, -0.016], [2.0, -2.0], [0.0, 1.27]], dtype=np.float32)
    assert code.encode(given).tolist() == [[1, -2], [127, -127], [0, 127]]
    inside = np.random.default_rng(0).uniform(-1.27, 1.27, (100, 2)).astype(np.float32)
    assert np.abs(code.decode(code.encode(inside)) - inside).max() <= 0.5 * code.scale * 1.001


def test_binary_by_hand_and_hamming_is_the_cosine_of_signs():
    code = BinaryCode(8)
    x = np.array([[1, -1, 2, 0, -3, 1, 1, -1.0]], dtype=np.float32)
    assert code.encode(x).tolist() == [[0b10100110]]
    np.testing.assert_allclose(code.decode(code.encode(x))[0] * np.sqrt(8), [1, -1, 1, -1, -1, 1, 1, -1])
    generator = np.random.default_rng(0)
    one, two = (generator.standard_normal((n, 64)).astype(np.float32) for n in (5, 7))
    wide = BinaryCode(64)
    signs = [np.where(v > 0, 1, -1) for v in (one, two)]
    expected = (64 - signs[0] @ signs[1].T) // 2
    np.testing.assert_array_equal(wide.hamming(wide.encode(one), wide.encode(two)), expected)


def test_principal_keeps_inner_products_best(world):
    """Eckart and Young: no other map to 16 numbers loses less; and all 64 lose nothing."""
    vectors, _, _ = world
    gram = vectors[:300] @ vectors[:300].T

    def lost(code):
        z = code.encode(vectors[:300])
        return np.square(gram - z @ z.T).sum()

    own = principal(vectors[:300], 16)
    np.testing.assert_allclose(own.weight @ own.weight.T, np.eye(16), atol=1e-5)
    generator = np.random.default_rng(0)
    for _ in range(5):
        turned = own.weight + 0.05 * generator.standard_normal(own.weight.shape).astype(np.float32)
        assert lost(LinearCode(np.linalg.qr(turned.T)[0].T)) > lost(own)
    assert lost(principal(vectors[:300], D)) < 1e-6


def test_a_trained_head_beats_principal_directions_at_short_prefixes(world):
    vectors, queries, true = world
    state = torch.get_rng_state()
    weight = matryoshka(vectors, [8, 16, 32], steps=150)
    assert torch.equal(torch.get_rng_state(), state) and weight.shape == (D, D)
    np.testing.assert_array_equal(weight, matryoshka(vectors, [8, 16, 32], steps=150))
    for kept in (8, 16, 32):
        scores = []
        for code in (LinearCode(weight[:kept], unit=True), principal(vectors, kept), truncation(D, kept)):
            scores.append(recall(search_codes(code, code.encode(vectors), queries, K)[1], true))
        # of many numbers the principal ones already lose little
        assert scores[0] > max(scores[1:]) + (0.02 if kept < 32 else -0.02)


def test_rescore_by_hand():
    code = FloatCode(2)
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.5, 0.5]], dtype=np.float32)
    rows = np.array([[2, 1, 3], [3, -1, -1]])
    scores, found = rescore(rows, code, vectors, np.array([[1, 0], [0, 1]], dtype=np.float32), 2)
    assert found.tolist() == [[1, 3], [3, -1]]
    np.testing.assert_allclose(scores, [[0.9, 0.5], [0.5, -np.inf]])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda x: FloatCode(D, 8), ValueError, "bits: got 8"),
        (
            lambda x: Int8Code(np.zeros((3, 4), dtype=np.float32)),
            ValueError,
            "training: got 0e\\+00 as the largest number",
        ),
        (lambda x: BinaryCode(12), ValueError, "dim: got 12"),
        (lambda x: ProductCode(x, 5), ValueError, "parts: got 5"),
        (lambda x: ProductCode(x[:10], 8), ValueError, "training: got 10 vectors"),
        (lambda x: ProductCode(x, 8, 6, iterations=0), ValueError, "iterations: got 0"),
        (lambda x: truncation(4, 5), ValueError, "kept: got 5"),
        (lambda x: principal(x, D + 1), ValueError, "kept: got 65"),
        (lambda x: LinearCode(np.ones((5, 4), dtype=np.float32)), ValueError, "weight: got 5 rows"),
        (lambda x: matryoshka(x, []), ValueError, "sizes: got none"),
        (lambda x: matryoshka(x, [D + 1]), ValueError, "sizes: got 65"),
        (lambda x: matryoshka(x[:10], [4]), ValueError, "batch: got 256"),
        (lambda x: FloatCode(D).encode(x.astype(np.int32)), TypeError, "vectors: got dtype int32"),
        (lambda x: FloatCode(D).encode(x[:, :5]), ValueError, "vectors: got shape"),
        (lambda x: search_codes(FloatCode(D), x, x[:1], 0), ValueError, "k: got 0"),
        (lambda x: rescore(np.zeros((1, 2)), FloatCode(D), x, x[:1], 1), TypeError, "rows: got no integers"),
        (lambda x: rescore(np.zeros((2, 2), dtype=int), FloatCode(D), x, x[:1], 1), ValueError, "rows: got"),
        (lambda x: rescore(np.zeros((1, 2), dtype=int), FloatCode(D), x, x[:1], 3), ValueError, "k: got 3"),
    ],
)
def test_bad_input(call, kind, text, world):
    with pytest.raises(kind, match=text):
        call(world[0])


def test_more_iterations_lose_less(world):
    vectors, _, _ = world
    lost = []
    for iterations in (1, 4, 25):
        code = ProductCode(vectors, 8, 6, iterations=iterations)
        lost.append(np.square(vectors - code.decode(code.encode(vectors))).sum())
    assert lost[0] > 1.01 * lost[1] > 1.01 * lost[2]


def test_what_sixteen_bits_cannot_hold_is_refused():
    rows = np.array([[1.0, 65504.0]], dtype=np.float32)
    assert np.isfinite(FloatCode(2, 16).encode(rows)).all()
    with pytest.raises(ValueError, match="beyond 65,504"):
        FloatCode(2, 16).encode(rows * 2)
    with pytest.raises(ValueError, match="as the largest number; takes 1e-30 at least"):
        Int8Code(rows * 1e-40)


def test_a_prefix_of_length_one_also_of_tiny_vectors():
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype("f4") * np.float32(1e-25)
    rows[2, :4] = 0
    lengths = np.linalg.norm(truncation(8, 4).encode(rows), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0], rtol=1e-6)
