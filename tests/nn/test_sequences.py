"""Networks over sequences: what is after a sequence's end does not reach it."""

import torch

from pvae.nn import BackwardRNN, GatedTransition, TableFeatures, with_class, within


def test_backward_network_reads_each_sequence_from_its_end():
    torch.manual_seed(0)
    network, x = BackwardRNN(3, 8), torch.randn(2, 5, 3)
    lengths = torch.tensor([5, 2])
    found = network(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = network.network(x[i : i + 1, :length].flip(1))[0].flip(1)
        torch.testing.assert_close(found[i : i + 1, :length], alone)
    changed = x.clone()
    changed[1, 2:] = 9
    torch.testing.assert_close(network(changed, lengths)[1, :2], found[1, :2])
    torch.testing.assert_close(network(x), network(x, torch.tensor([5, 5])))


def test_gated_transition_starts_near_the_state_before():
    torch.manual_seed(0)
    transition, z = GatedTransition(3, hidden=8), torch.randn(7, 3)
    with torch.no_grad():
        transition.gate.layers[-1].weight.zero_()
        transition.gate.layers[-1].bias.fill_(-30)  # closed
    loc, scale = transition(z)
    torch.testing.assert_close(loc, z)
    assert (scale > 1e-3).all()


def test_steps_within_lengths():
    assert within(torch.tensor([0, 2]), 2).tolist() == [[False, False], [True, True]]


def test_classes_of_an_enumerated_site_broadcast():
    found = with_class(torch.zeros(4, 2), torch.arange(3)[:, None], 3)
    assert found.shape == (3, 4, 5)
    assert found[1, 0].tolist() == [0, 0, 0, 1, 0]


def test_missing_cells_have_no_features():
    columns = [
        {"kind": "real", "loc": 2.0, "scale": 4.0}, {"kind": "pos"}, {"kind": "count"},
        {"kind": "cat", "classes": 3, "first": 1}, {"kind": "ordinal", "classes": 3},
    ]  # fmt: skip
    features = TableFeatures(columns)
    x = torch.tensor([[6.0, 0.0, 2.0, 3.0, 1.0]])
    found = features(x)
    assert found.shape == (1, features.out_features)
    assert found[0, 0] == 1
    assert found[0, 3:9].tolist() == [0, 0, 1, 1, 1, 0]
    hidden = torch.ones(1, 5, dtype=torch.bool)
    assert features(x, hidden)[0].tolist() == [0] * 9 + [1] * 5
    assert torch.equal(features(x, hidden), features(x + 5, hidden))
