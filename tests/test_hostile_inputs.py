"""Whatever is in data files, configs, options and logs: an answer, or a sentence; no traceback.

`PVAE_EXAMPLES=20000 pytest tests/test_hostile_inputs.py --hypothesis-show-statistics` tries
120,000.
"""

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

import pvae
from pvae import objectives, zoo
from pvae.cli import main
from pvae.training.files import write_json
from pvae.training.run import Run

EXAMPLES = int(os.environ.get("PVAE_EXAMPLES", "60"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextlib.contextmanager
def answer_or_sentence():
    """What the command line prints as a sentence may be raised, and nothing else."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        said = str(error).strip()
    else:
        return
    assert 0 < len(said) < 5000


# Data files

names = st.sampled_from(
    ["train", "data", "valid", "test", "train_labels", "test_labels", "train_lengths", "kind",
     "classes", "x", ""]
)  # fmt: skip
kinds = st.lists(st.sampled_from(["real", "pos", "count", "cat", "ordinal", "", "no"]), max_size=4)
contents = st.one_of(
    arrays(scalar_dtypes(), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(0, 3))),
    kinds.map(lambda values: np.array(values, dtype=str)),
)


@st.composite
def damaged(draw, content):
    """Bytes of which some are changed, cut off, left out, or doubled."""
    found = bytearray(draw(content))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "drop", "insert"]))
        if how == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del found[at:]
        elif how == "drop":
            del found[at : at + draw(st.integers(1, 20))]
        else:
            found[at:at] = draw(st.binary(max_size=20))
    return bytes(found)


@st.composite
def npz(draw):
    file = io.BytesIO()
    np.savez(file, **draw(st.dictionaries(names, contents, max_size=4)))
    return file.getvalue()


@st.composite
def npy(draw):
    file = io.BytesIO()
    np.save(file, draw(contents))
    return file.getvalue()


@many
@given(damaged(st.one_of(npz(), npy(), st.binary(max_size=200))), st.sampled_from(["npz", "npy"]))
@pytest.mark.filterwarnings("ignore")
def test_data_files(content, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{suffix}")
        path.write_bytes(content)
        with answer_or_sentence():
            splits = pvae.data.load(str(path))
            for x, *_ in splits.train.batches(4):
                assert len(x) <= 4
        if suffix == "npy":
            with answer_or_sentence():
                rows = pvae.data.FileRows(path)
                rows[: min(2, len(rows))] if not len(rows) else rows[[0]]


# Options

numbers = st.one_of(st.integers(-3, 40), st.floats(), st.booleans(), st.none())
texts = st.text(st.characters(codec="utf-8", exclude_characters="="), max_size=8)
values = st.recursive(
    st.one_of(numbers, texts), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
keys = st.sampled_from(
    ["x_shape", "z_dim", "hidden", "likelihood", "prior", "levels", "components", "rank",
     "transforms", "columns", "rows", "num_classes", "activation", "kind", "model", "nothing"]
)  # fmt: skip
option_texts = st.one_of(
    texts, st.builds(lambda key, value: f"{key}={value}", keys, st.one_of(values, texts))
)
models = st.sampled_from([*(entry.name for entry in zoo.entries("model")), "", "va", "os:system"])
guides = st.sampled_from([*(entry.name for entry in zoo.entries("guide")), "x.py", ":", "a.b:"])
shapes = st.sampled_from([(3,), (4, 4), (12, 12), (6, 3)])


@many
@given(models, guides, st.lists(option_texts, max_size=3), shapes)
def test_options_of_pairs(model, guide, given_texts, shape):
    defaults = {"x_shape": shape, "levels": 2, "likelihood": "bernoulli", "rows": 7}
    with answer_or_sentence():
        zoo.build(model, guide, zoo.parse_options(given_texts), defaults)


objective_names = st.sampled_from([*objectives.names, "iwea", "", "elbo:"])


@many
@given(
    objective_names,
    st.lists(
        st.builds(
            lambda key, value: f"{key}={value}",
            st.sampled_from(["num_particles", "beta", "warmup", "alpha", "capacity", "x", ""]),
            st.one_of(numbers, texts),
        ),
        max_size=3,
    ),
)
def test_objectives(name, options):
    with answer_or_sentence():
        objectives.get(f"{name}:{','.join(options)}" if options else name, x_shape=(3,))


# Configs

plain = st.recursive(
    st.one_of(numbers.filter(lambda x: not isinstance(x, float) or x == x), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(keys, texts), inner, max_size=3)
    ),
    max_leaves=6,
)
described = st.fixed_dictionaries(
    {},
    optional={
        "model": st.one_of(plain, st.just("vae")),
        "guide": st.one_of(plain, st.just("mean_field")),
        "options": plain,
        "defaults": st.one_of(plain, st.just({"x_shape": [64]})),
        "sources": st.one_of(
            plain, st.just({"model": {"text": "vae"}, "guide": {"text": "mean_field"}})
        ),
    },
)
configs = st.fixed_dictionaries(
    {}, optional={"pair": st.one_of(described, plain), "command": plain, "changes": plain}
)


@many
@given(configs)
def test_configs_with_the_right_checksum(config):
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, "config.json"), config)
        with answer_or_sentence():
            pvae.load(folder)


@many
@given(st.dictionaries(st.one_of(st.sampled_from(["data", "epochs", "set", "seed"]), texts), plain))
def test_config_files(given_options):
    """TOML of any keys and values, and no TOML; the command is one that does not train."""

    def toml(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
        return json.dumps(value)

    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in given_options.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.toml")
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        command = ["train", "no_such_model", "--config", str(path), "--data", f"{folder}/no.npz"]
        result = CliRunner().invoke(main, command)
        assert result.exit_code in (1, 2)
        assert isinstance(result.exception, SystemExit), result.exception
        assert "Error" in result.output


# Logs


@many
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            plain.map(lambda value: json.dumps(value).encode()),
            st.fixed_dictionaries(
                {"epoch": numbers, "train_loss": numbers, "seconds": numbers}
            ).map(lambda row: json.dumps(row).encode()),
        ),
        max_size=6,
    )
)
def test_metrics(lines):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metrics.jsonl").write_bytes(b"\n".join(lines))
        run = Run(folder)
        rows = run.history()
        assert [row["epoch"] for row in rows] == sorted({row["epoch"] for row in rows})
        run.add_metrics({"epoch": 10**6, "train_loss": 0.0, "seconds": 0.0})
        assert Run(folder).history()[-1]["epoch"] == 10**6
