"""No identifier of the package uses a name that the vocabulary of the design replaced."""

from vocabulary import hits


def test_vocabulary():
    assert hits() == []
