"""The named data sets: published files, checksums and readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pvae.data.archives import checked_npz
from pvae.data.conversion import Arrays, amat, idx, omniglot, stratified
from pvae.data.downloads import Original, find, obtain, places

__all__ = ["SETS", "NamedSet"]


@dataclass(frozen=True)
class NamedSet:
    """One named data set.

    Args:
        read: from its originals to arrays "train", "valid", "test", "train_labels", ...
        originals: the published files, in the order that `read` expects.
        levels: number of grey levels of its uint8 arrays.
        sorted_rows: rows are sorted by class, so that the last ones are not a random sample.
        table: it is a table of mixed columns, with arrays "kind" and "classes".
    """

    read: Callable[[tuple[Original, ...]], Arrays]
    originals: tuple[Original, ...] = ()
    levels: int = 256
    sorted_rows: bool = False
    table: bool = False


def _sums(listed: str) -> dict[str, str]:
    """Checksums by name, of lines as `sha256sum` prints them."""
    lines = [line.split() for line in listed.strip().splitlines()]
    return {name: checksum for checksum, name in lines}


# The published files; only md5 sums are known for OMNIGLOT.
MNIST_FILES = _sums("""
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609  train-images-idx3-ubyte.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c  train-labels-idx1-ubyte.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6  t10k-images-idx3-ubyte.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6  t10k-labels-idx1-ubyte.gz
""")
FASHION_MNIST_FILES = _sums("""
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84  train-images-idx3-ubyte.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845  train-labels-idx1-ubyte.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073  t10k-images-idx3-ubyte.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5  t10k-labels-idx1-ubyte.gz
""")
BINARIZED_MNIST_FILES = _sums("""
ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d  binarized_mnist_train.amat
1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2  binarized_mnist_valid.amat
e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c  binarized_mnist_test.amat
""")
OMNIGLOT_FILES = _sums("""
68d2efa1b9178cc56df9314c21c6e718  images_background.zip
6b91aef0f799c5bb55b94e3f2daec811  images_evaluation.zip
""")

# sha256 of arrays rather than of an .npz, whose bytes depend on the version of the compression; so
# they hold for a converted download as well, which lacks the labels of binarized MNIST.
BINARIZED_MNIST_ARRAYS = _sums("""
727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906  train
a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d  valid
9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2  test
8412fa05f88a60e55c9f434182cbcd829e0a2918a576632cfa5002deb43aeea6  train_labels
ad502ca809c8f0e332f8d621550df6592eb5ca9a0d007e8fe8c1d2dec6d2cfcf  valid_labels
f7cd9d3a7438833ddaff2865a3ef3497a9479b8a1fc1e2dc2db0faf6648419c2  test_labels
""")
OMNIGLOT_ARRAYS = _sums("""
5273d2abfcc1f4c36f8734236c0d9016dfed0775079b10c5ce127eac10965086  train
283e02eb1a975d21fdfd5bd8401486106c1b8b65cf1541fd876d898339e765ad  test
fd4d93bbe0b76291ec95c4fae48b6fa53d8b93a1df9ec5e5bfb72f3305d860e3  train_alphabet
1d5da00dae878efa0890b69bd708831540672612dc5ae8f75451853c45cea441  test_alphabet
""")
FREY_FACES_ARRAYS = _sums("""
2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78  faces
""")


JSB_CHORALES_ARRAYS = _sums("""
97bb4dd9eb49184f638ff984cb9209d74d315beac78792e07a5045f1ccb9de9c train
8122db54e5df98672fde911b8b488627beedffe1cb2577146b163279c9ceb31f train_lengths
0c8d6c8042c24f2c224a0627d7e9dd2a944269e192dc239251336eb60d8e0ba0 valid
7680858f1e783f932f8fed44a1be76b917d879f37f4c0b1e2853d95dffaf0477 valid_lengths
2ef6fabdcc23a4a2c3a4560ee4f1c61845e55f8edffe7f6864529407ff84ecf3 test
6a17881243a374ca52b46389a9a63a643dd49669dba3c2f7695f54d9954fbf0c test_lengths
""")
TABLE_ARRAYS = {
    "adult": _sums("""
36cffcc1b0a83c96fb61cfd854daa5fb7e247a41a2eabc923cf94a2f2dc4abf2 data
87111437646d693dc2e8b365995fc44be34ae1696f8d16381d22b004650d0793 kind
b55d952caf9a960d233d93b9c387496f80cea1c69da81b846de7dabd4280f6b2 classes
"""),
    "wine": _sums("""
3072f31b4cdb3de610f5500fc366fbd89a9a7366fd13c11cb7a586c550cc7124 data
a1d06ff17aff07d405d7583edfd2b072f0f6943d266eea25f8e7b189df2e9ff6 kind
ea0fcb643ef974be8185eeb7de35e828a16818135a0b76fb2a4301fc8ed2e387 classes
"""),
    "breast": _sums("""
ae86b7eb7b5be995bac2e994ad632803512f73abc357d5a7cb9b259b073f7caf data
334c167557dd6b7571f3fe4c4d1aa05e8b40eec26c33f0a28e2ecc4b23f77dd0 kind
9ff1f56d27cd159169558d02206e8e7223c7a4d902374ff819ee5d4c77743647 classes
"""),
}


def _digits(_: tuple[Original, ...]) -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, classes = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    arrays: Arrays = {}
    for split, chosen in zip(("train", "valid", "test"), stratified(classes), strict=True):
        arrays[split], arrays[f"{split}_labels"] = images[chosen], classes[chosen]
    return arrays


def _idx(originals: tuple[Original, ...]) -> Arrays:
    names = ("train", "train_labels", "test", "test_labels")
    return {name: idx(obtain(o)) for name, o in zip(names, originals, strict=True)}


def _binarized_mnist(originals: tuple[Original, ...]) -> Arrays:
    def convert(*files: Path) -> Arrays:
        return {s: amat(f) for s, f in zip(("train", "valid", "test"), files, strict=True)}

    path = "binarized-mnist/binarized_mnist.npz"
    arrays = checked_npz(path, BINARIZED_MNIST_ARRAYS, originals, convert)
    for split in ("train", "valid", "test"):
        bits = arrays[split].astype(np.uint8, copy=False)
        arrays[split] = np.unpackbits(bits, axis=1, count=784).reshape(-1, 28, 28)
    return arrays


def _omniglot(originals: tuple[Original, ...]) -> Arrays:
    arrays = checked_npz("omniglot/omniglot_28x28_area.npz", OMNIGLOT_ARRAYS, originals, omniglot)
    return {name.replace("_alphabet", "_labels"): array for name, array in arrays.items()}


def _frey_faces(_: tuple[Original, ...]) -> Arrays:
    path = "frey-faces/frey_faces.npz"
    if find(path) is None:
        raise FileNotFoundError(
            "frey-faces shows a real person and has no license, so it is never downloaded: put an "
            f".npz with the array 'faces', uint8 (1965, 28, 20), at {places(path)}; of S. Roweis' "
            "frey_rawface.mat it is ff.T.reshape(-1, 28, 20)"
        )
    faces = checked_npz(path, FREY_FACES_ARRAYS)["faces"]
    return {"train": faces[:1565], "valid": faces[1565:1765], "test": faces[1765:]}


def _jsb_chorales(_: tuple[Original, ...]) -> Arrays:
    path = "jsb-chorales/jsb_chorales_quarter.npz"
    if find(path) is None:
        raise FileNotFoundError(
            "jsb-chorales is not downloaded: put an .npz with the piano rolls of "
            "jsb-chorales-quarter.json of github.com/czhuang/JSB-Chorales-dataset, bits packed "
            f"along the notes, and their lengths at {places(path)}"
        )
    arrays = checked_npz(path, JSB_CHORALES_ARRAYS)
    longest = max(int(arrays[f"{split}_lengths"].max()) for split in ("train", "valid", "test"))
    for split in ("train", "valid", "test"):
        bits = arrays[split].astype(np.uint8, copy=False)
        notes = np.unpackbits(bits, axis=2, count=88)
        arrays[split] = np.pad(notes, ((0, 0), (0, longest - notes.shape[1]), (0, 0)))
    return arrays


def _table(name: str) -> Callable[[tuple[Original, ...]], Arrays]:
    def read(_: tuple[Original, ...]) -> Arrays:
        path = f"tables/{name}.npz"
        if find(path) is None:
            raise FileNotFoundError(
                f"{name} is not downloaded: put an .npz with the arrays data, kind and classes, as "
                "in the data sets of github.com/probabilistic-learning/HI-VAE, at "
                f"{places(path)}"
            )
        arrays = checked_npz(path, TABLE_ARRAYS[name])
        arrays["train"] = arrays.pop("data")
        return arrays

    return read


def _published(folder: str, sums: Mapping[str, str], *mirrors: str) -> tuple[Original, ...]:
    algorithms = {32: "md5", 64: "sha256"}
    return tuple(
        Original(
            path=f"{folder}/{name}",
            checksum=f"{algorithms[len(checksum)]}:{checksum}",
            urls=tuple(mirror + name for mirror in mirrors),
        )
        for name, checksum in sums.items()
    )


SETS: Mapping[str, NamedSet] = MappingProxyType(
    {
        "digits": NamedSet(_digits, levels=17),
        "mnist": NamedSet(
            _idx,
            _published(
                "mnist",
                MNIST_FILES,
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
        ),
        "fashion-mnist": NamedSet(
            _idx,
            _published(
                "fashion-mnist",
                FASHION_MNIST_FILES,
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
        ),
        "binarized-mnist": NamedSet(
            _binarized_mnist,
            _published(
                "binarized-mnist",
                BINARIZED_MNIST_FILES,
                "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
            ),
            levels=2,
        ),
        "omniglot": NamedSet(
            _omniglot,
            _published(
                "omniglot",
                OMNIGLOT_FILES,
                "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
            ),
            sorted_rows=True,
        ),
        "frey-faces": NamedSet(_frey_faces),
        "jsb-chorales": NamedSet(_jsb_chorales, levels=2),
        **{name: NamedSet(_table(name), table=True) for name in TABLE_ARRAYS},
    }
)
