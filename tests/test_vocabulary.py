"""The package uses no identifier and no term that the vocabulary of the design replaced."""

from vocabulary import hits


def test_vocabulary():
    assert hits() == []
