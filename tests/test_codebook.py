"The codebook: the nearest code, codes in use by hand, clusters found, and what k-means start and restarts are each good for."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lobresearch.errors import ParameterError
from lobresearch.synthetic.codebook import Quantiser, kmeans, nearest, nearest_naive, perplexity, sums

torch.set_num_threads(1)


def chance(seed): return torch.Generator().manual_seed(seed)


def clusters(seed, shift=0., n=256):
    "Vectors around sixteen corners of a cube in four dimensions, ten apart, and which corner each belongs to"
    corner = 10*torch.cartesian_prod(*[torch.arange(2.)]*4) + shift
    mine = torch.randint(16, (n,), generator=chance(seed))
    return corner, corner[mine] + .3*torch.randn(n, 4, generator=chance(seed+1)), mine


def found(q, shift=0., batches=200):
    for i in range(batches): q(clusters(2*i, shift)[1])
    return int((torch.cdist(clusters(0, shift)[0], q.book).min(1)[0] < .5).sum())


@given(rows=st.integers(1, 40), codes=st.integers(1, 20), dim=st.integers(1, 12), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_one_product_finds_the_code_that_all_differences_find(rows, codes, dim, seed):
    z, book = torch.randn(rows, dim, generator=chance(seed)), torch.randn(codes, dim, generator=chance(seed+1))
    assert torch.equal(nearest(z, book), nearest_naive(z, book))


@pytest.mark.parametrize("counts, answer", [([1, 1, 1, 1], 4), ([5, 0, 0], 1), ([2, 1, 1], 2**1.5), ([3, 1], 4/3**.75)])
def test_perplexity_by_hand(counts, answer): assert perplexity(counts) == pytest.approx(answer)


@given(counts=st.lists(st.integers(0, 1000), min_size=1, max_size=30), times=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_perplexity_lies_between_one_and_the_codes_in_use_whatever_the_scale(counts, times):
    if not sum(counts): assert math.isnan(perplexity(counts)); return
    p = perplexity(counts)
    assert 1-1e-9 <= p <= np.count_nonzero(counts)+1e-9 and p == pytest.approx(perplexity([times*c for c in counts]))


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_puts_a_centre_into_each_cluster_at_its_mean(seed):
    corner, z, mine = clusters(seed)
    book = kmeans(z, 16, chance(seed))
    own = torch.stack([z[mine == k].mean(0) for k in range(16)])
    assert torch.cdist(own, book).min(1)[0].max() < 1e-4


def test_kmeans_of_fewer_places_than_centres():
    book = kmeans(torch.tensor([[1.], [5.]]).repeat(3, 1), 4, chance(0))
    assert set(book.flatten().tolist()) == {1., 5.}


def test_the_start_by_kmeans_matters():
    ways = {s: found(Quantiser(16, 4, decay=.9, start=s, dead=0)) for s in (False, True)}
    assert ways[True] == 16 and ways[False] < 8


def test_restarts_matter_when_the_vectors_move():
    left = {}
    for dead in (0, .1):
        q = Quantiser(32, 4, decay=.9, dead=dead)
        assert found(q) == 16
        left[dead] = found(q, shift=30.)
    assert left[.1] >= 14 and left[0] < 6


def test_restarts_alone_save_a_random_start():
    q = Quantiser(32, 4, decay=.9, start=False)
    assert found(q) >= 12 and q.restarts > 0


def test_moving_averages_by_hand():
    q = Quantiser(2, 1, decay=.5, start=False, dead=0)
    q.book.copy_(torch.tensor([[0.], [10.]])); q.count.copy_(torch.tensor([1., 2.])); q.total.copy_(torch.tensor([[0.], [20.]]))
    out, code, loss = q(torch.tensor([[[1.], [3.], [12.]]]))
    assert code.tolist() == [[0, 0, 1]] and out.flatten().tolist() == [0., 0., 10.] and loss == pytest.approx((1+9+4)/3)
    assert q.count.tolist() == [1.5, 1.5] and q.book.flatten().tolist() == pytest.approx([2/1.5, 16/1.5])


def test_a_dead_code_is_put_on_a_vector_of_the_batch_with_a_mean_share():
    q = Quantiser(2, 1, decay=.5, start=False, dead=.2)
    q.book.copy_(torch.tensor([[0.], [99.]])); q.count.copy_(torch.tensor([4., .3])); q.total.copy_(q.book*q.count[:, None])
    q(torch.tensor([[2.], [4.], [2.], [4.]]))  # mean share 2; the second code keeps .15 of it
    assert q.restarts == 1 and q.book[1, 0] in (2., 4.) and q.count[1] == 2


def test_a_codebook_that_is_used_stands_still():
    q = Quantiser(16, 4)
    q(clusters(0)[1])
    was = q.eval().book.clone()
    q(clusters(2, shift=5.)[1])
    assert torch.equal(q.book, was)


def test_the_same_seed_gives_the_same_codebook_and_another_one_another():
    def books(seed):
        q = Quantiser(32, 4, decay=.9, seed=seed)
        for i in range(20): q(clusters(i, shift=i)[1])
        return q.book
    assert torch.equal(books(1), books(1)) and not torch.equal(books(1), books(2))


def test_the_gradient_passes_through_and_commitment_pulls_to_the_code():
    q = Quantiser(2, 1, start=False).eval()
    q.book.copy_(torch.tensor([[0.], [10.]]))
    z = torch.tensor([[2.]], requires_grad=True)
    out, _, loss = q(z)
    (3*out.sum()).backward(retain_graph=True)
    assert z.grad.item() == 3
    z.grad = None
    loss.backward()
    assert z.grad.item() == 4  # d/dz (z - 0)^2


def test_sums_are_what_fell_to_each_code():
    z, code = torch.randn(50, 3, generator=chance(0)), torch.randint(7, (50,), generator=chance(1))
    total, count = sums(z, code, 8)
    assert count.tolist() == [int((code == k).sum()) for k in range(8)]
    for k in range(8): assert torch.allclose(total[k], z[code == k].sum(0), atol=1e-5)


@pytest.mark.parametrize("bad, words", [(dict(codes=1), "at least 2 codes"), (dict(dim=0), "size 1"), (dict(decay=1.), "decay"), (dict(dead=-1), "dead")])
def test_wrong_sizes_get_a_sentence(bad, words):
    with pytest.raises(ParameterError, match=words): Quantiser(**bad)
    with pytest.raises(ParameterError, match="vectors of size 4"): Quantiser(8, 4)(torch.zeros(3, 5))
