import pickle
import sys

import pytest

from pvae import sources, zoo

FILE = """
from neighbour import SCALE
from torch import nn

class Model:
    def __init__(self, z_dim, hidden=3, x_shape=(8,)):
        self.z_dim, self.hidden, self.x_shape = z_dim, hidden, x_shape

    def __call__(self, x):
        return SCALE

class Ladder:
    def __init__(self, model, hidden=3):
        self.model, self.hidden = model, hidden

    def __call__(self, x): ...

class Silent: ...

class Net(nn.Module):
    def model(self, x): ...
    def guide(self, x): ...

class Either(Model):
    def guide(self, x): ...

def function(x): ...

ready = Model(7)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("SCALE = 2.5")
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("def f():\n    1 / 0\n\nf()")
    (tmp_path / "unparsed.py").write_text("x = 1\ndef (")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(3)")
    return tmp_path


def test_options_reach_constructors(folder):
    given = {"z_dim": 5, "hidden": 9}
    built = zoo.build("mine.py:Model", "mine.py:Ladder", given, {"x_shape": (4,), "other": 1})
    assert (built.model.z_dim, built.model.hidden, built.model.x_shape) == (5, 9, (4,))
    assert built.guide.hidden == 9
    assert built.guide.model is built.model
    assert built.model(None) == 2.5


def test_options_override_data(folder):
    built = zoo.build("vae", "mean_field", {"z_dim": 2}, {"x_shape": (8, 8)})
    assert built.model.x_shape == (8, 8)
    built = zoo.build("vae", "mean_field", {"x_shape": (2, 2)}, {"x_shape": (8, 8)})
    assert built.model.x_shape == (2, 2)


def test_functions_and_instances(folder):
    built = zoo.build("mine.py:function", "mine.py:ready")
    assert built.model.__name__ == "function"
    assert built.guide.z_dim == 7


def test_rebuilt_from_json(folder, monkeypatch):
    first = zoo.build("mine.py:Model", "mine.py:Ladder", {"z_dim": 5}, {"x_shape": (4,)})
    kept = first.as_json()
    monkeypatch.chdir("/")  # loaded files are cached by full path
    again = zoo.build(kept["model"], kept["guide"], kept["options"], kept["defaults"])
    assert again.model.z_dim == 5
    assert again.model.x_shape == (4,)


def test_package_from_module(folder):
    built = zoo.build("mine:function", "pvae.guides:MeanField", {}, {"x_shape": (4,)})
    assert built.model.__name__ == "function"


def test_read_options():
    texts = [
        "a=2", "b=0.5", "c=400,200", "d=True", "e=None", "f=silu", "g=[1, 2]", "h=a=b",
        "i={1, 2}", "j={{1}: 2}",
    ]  # fmt: skip
    assert zoo.parse_options(texts) == {
        "a": 2, "b": 0.5, "c": (400, 200), "d": True, "e": None,
        "f": "silu", "g": [1, 2], "h": "a=b", "i": "{1, 2}", "j": "{{1}: 2}",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["z_dim", "=2", "z dim=2"])
def test_malformed_option_raises(text):
    with pytest.raises(ValueError, match="write key=value, such as z_dim=2"):
        zoo.parse_options([text])


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        ("mine.py:Net.model", "mine.py:Net.guide"),
        ("mine.py:Either", "mine.py:Either.guide"),
        ("mine.py:Either.guide", "mine.py:Either"),
    ],
)
def test_methods_share_instance(folder, model, guide):
    options = {"z_dim": 3} if "Either" in model else {}
    built = zoo.build(model, guide, options)
    owner, other = (getattr(p, "__self__", p) for p in (built.model, built.guide))
    assert owner is other


def test_class_named_twice(folder):
    built = zoo.build("mine.py:Model", "mine.py:Model", {"z_dim": 3})
    assert built.model is not built.guide


def test_option_cannot_replace_model(folder):
    with pytest.raises(ValueError, match="no constructor has an option 'model'"):
        zoo.build("mine.py:Model", "mine.py:Ladder", {"z_dim": 3, "model": 1})


def test_pickled_objects_of_file(folder):
    (folder / "with.dot-and.py").write_text(FILE)
    built = zoo.build("with.dot-and.py:ready", "mine.py:function")
    assert pickle.loads(pickle.dumps(built.model)).z_dim == 7


def test_interrupted_file_loads_again(folder):
    (folder / "slow.py").write_text(
        "import pathlib\n"
        "if not pathlib.Path('done').exists():\n"
        "    pathlib.Path('done').touch()\n"
        "    raise KeyboardInterrupt\n"
        "def model(x): ...\n"
    )
    before = list(sys.path)
    with pytest.raises(KeyboardInterrupt):
        zoo.build("slow.py:model", "mine.py:function")
    assert sys.path == before
    assert zoo.build("slow.py:model", "mine.py:function").model.__name__ == "model"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("mine.py:Model", {}, r"needs \['z_dim'\]: give --set z_dim=..."),
        ("mine.py:Silent", {}, "is a Silent, which cannot be called"),
        ("mine.py:Modle", {}, "has no 'Modle'; nearest: 'Model'"),
        ("mine.py:Model", {"z_dmi": 2}, r"no constructor has an option 'z_dmi'; nearest: 'z_dim'"),
        ("mine.py:Model", {"z_dmi": 2}, r"model: Model\(z_dim, hidden=3, x_shape=\(8,\)\)"),
        ("mine.py:Net", {}, "a class with forward or __call__, or mine.py:Net.model"),
        ("mine.py:Net.modle", {}, "Net has no 'modle'; nearest: 'model'"),
        ("mine.py", {}, "say which: mine.py:Name; there are .*Model"),
        (
            "mine.py:Model",
            {"z_dmi": 2},
            "guide: function, a program, which takes no options",
        ),
        ("broken.py:model", {}, r"broken\.py:2: ZeroDivisionError: division by zero"),
        ("broken:model", {}, "'broken:model': ZeroDivisionError: division by zero"),
        ("unparsed.py:model", {}, r"unparsed\.py:2: SyntaxError"),
        ("leaving.py:model", {}, r"leaving\.py:2: SystemExit: 3"),
        ("absent.py:model", {}, "there is no file"),
        ("absent.thing:model", {}, "No module named 'absent'"),
        ("vea", {}, "unknown model 'vea'; nearest: 'vae'"),
    ],
)
def test_missing_or_mismatched_names_raise(folder, model, options, message):
    with pytest.raises(ValueError, match=message):
        zoo.build(model, "mine.py:function", options)


def test_changed_file(folder):
    source = zoo.build("mine.py:function", "mine.py:ready").sources["model"]
    assert sources.changed(source) is None
    (folder / "mine.py").write_text(FILE + "# more")
    assert "mine.py has changed since" in sources.changed(source)
    (folder / "mine.py").unlink()
    assert "was removed" in sources.changed(source)


def test_list():
    entries = {entry.name: entry for entry in zoo.entries("guide")}
    assert set(entries) == {
        "bottom_up",
        "classifier",
        "clusters",
        "combiner",
        "conditional",
        "flow",
        "full_rank",
        "ladder",
        "low_rank",
        "mean_field",
        "mixture",
        "per_datum",
        "point",
        "tabular",
        "weights",
    }
    assert dict(entries["mean_field"].options)["z_dim"] == 20
    assert entries["mean_field"].summary.endswith(".")
