"""Helmholtz machines on static binarized MNIST by every objective, beside published results.

    python tests/benchmarks/helmholtz.py belief_networks
    python tests/benchmarks/helmholtz.py gaussian_layers
    python tests/benchmarks/helmholtz.py ladder

Each command writes `results/<name>_cpu.json` beside this file, entry by entry; `--only vimco-1`
retrains one entry. The data are read from `$PVAE_DATA`. Test bounds of m samples are in nats per
datum; log p(x) is estimated by importance sampling.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import pvae
from pvae.cli.bench import machine
from pvae.evaluation import kl_by_site
from pvae.guides import BottomUp, Ladder
from pvae.models import HelmholtzMachine

RESULTS = Path(__file__).parent / "results"
PARTICLES = 500


@dataclass(frozen=True)
class Setting:
    """Options of one training run.

    Attributes:
        name: of the entry.
        machine: options of the model; the guide receives those that it names.
        objective: name of the objective and its options.
        guide: "bottom_up" or "ladder".
        epochs: passes through the 50,000 training data.
        learning_rate: initial learning rate of AdamW, with cosine decay to 0.
        betas: of AdamW.
        weight_decay: of AdamW.
        batch_size: data per step.
        warmup: epochs until the weight of latent sites reaches 1.
        published: published results and their training settings.
    """

    name: str
    machine: dict[str, object]
    objective: tuple[str, dict[str, object]]
    guide: str = "bottom_up"
    epochs: int = 40
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch_size: int = 100
    warmup: int = 0
    published: dict[str, object] = field(default_factory=dict)


def belief_networks() -> list[Setting]:
    """Linear sigmoid belief networks, 200 units per layer, by estimators for discrete latents."""
    ways: dict[str, tuple[str, dict[str, object]]] = {
        "reinforce": ("reinforce", {"num_particles": 10}),
        "wake_sleep": ("wake_sleep", {"num_particles": 1}),
        "rws": ("rws", {"num_particles": 10}),
        "vimco": ("vimco", {"num_particles": 10}),
    }
    courses: dict[int, dict[str, Any]] = {
        1: {"epochs": 80, "learning_rate": 0.005, "weight_decay": 0.02},
        2: {"epochs": 80, "learning_rate": 0.003, "weight_decay": 0.02, "betas": (0.9, 0.95)},
    }
    # A step with one particle takes a fifth of the time.
    course_of_one: dict[str, Any] = {"epochs": 200, "learning_rate": 0.02}
    # Negative bounds; the VIMCO bounds have as many samples as in training.
    papers: dict[tuple[str, int], dict[str, object]] = {
        ("reinforce", 1): {"without a baseline": 164.0, "NVIL": 113.1},
        ("reinforce", 2): {"without a baseline": 159.2, "NVIL": 99.8},
        ("wake_sleep", 1): {"m = 1": 120.8},
        ("wake_sleep", 2): {"m = 1": 107.7},
        ("vimco", 1): {"m = 5": 104.9, "m = 50": 104.2},
        ("vimco", 2): {"m = 5": 100.0, "m = 50": 99.4},
    }
    # From the code of REBAR (G. Tucker and others, 2017, https://arxiv.org/abs/1703.07370),
    # on these networks.
    schedule = {"schedule": "960 epochs of batches of 24, 2 million steps", "steps": 2_000_000}
    return [
        Setting(
            f"{way}-{layers}",
            {"dims": (200,) * layers, "latent": "bernoulli", "hidden": ()},
            objective,
            published=papers.get((way, layers), {}) | schedule,
            **(course_of_one if way == "wake_sleep" else courses[layers]),
        )
        for layers in (1, 2)
        for way, objective in ways.items()
    ]


def gaussian_layers() -> list[Setting]:
    """Two Gaussian layers, by the ELBO and by importance-weighted bounds."""
    ways: dict[str, tuple[str, dict[str, object]]] = {
        "elbo": ("elbo", {}),
        "iwae": ("iwae", {"num_particles": 5}),
        "dreg": ("dreg", {"num_particles": 5}),
    }
    schedule = "3280 epochs of batches of 20, 9.77 million steps"
    papers: dict[str, dict[str, object]] = {
        "elbo": {"m = 5000": 88.08, "schedule": schedule, "steps": 9_770_000},
        "iwae": {"m = 5000": 86.17, "schedule": schedule, "steps": 9_770_000},
        "dreg": {},
    }
    options: dict[str, object] = {"dims": (100, 50), "hidden": (200, 200)}
    return [
        Setting(way, options, objective, warmup=10, published=papers[way])
        for way, objective in ways.items()
    ]


def ladder() -> list[Setting]:
    """Five Gaussian layers with each of two guides, and one layer as baseline."""
    five: dict[str, object] = {
        "dims": (64, 32, 16, 8, 4),
        "hidden": (128,),
        "norm": "batch",
        "residual": True,
    }
    rest = {"epochs": 40, "batch_size": 250, "warmup": 20}
    elbo: tuple[str, dict[str, object]] = ("elbo", {"kl": "analytic"})
    return [
        Setting("ladder-5", five, elbo, guide="ladder", **rest),  # type: ignore[arg-type]
        Setting("bottom_up-5", five, elbo, **rest),  # type: ignore[arg-type]
        Setting("one layer", {**five, "dims": (64,)}, elbo, **rest),  # type: ignore[arg-type]
    ]


GROUPS = {group.__name__: group for group in (belief_networks, gaussian_layers, ladder)}


def trained(setting: Setting, data: pvae.data.Splits, seed: int) -> dict[str, object]:
    """Train and evaluate a setting, and return its entry."""
    torch.manual_seed(seed)
    model = HelmholtzMachine(**setting.machine)  # type: ignore[arg-type]
    if setting.guide == "ladder":
        own = {k: v for k, v in setting.machine.items() if k not in ("dims", "latent")}
        guide: torch.nn.Module = Ladder(model=model, **own)  # type: ignore[arg-type]
    else:
        guide = BottomUp(**setting.machine)  # type: ignore[arg-type]
    name, options = setting.objective
    epochs = setting.epochs
    fit = pvae.fit(
        model,
        guide,
        data.train,
        objective=pvae.objectives.get(name, x_shape=data.x_shape, **options),
        epochs=epochs,
        batch_size=setting.batch_size,
        optimizer=lambda parameters: torch.optim.AdamW(
            parameters,
            lr=setting.learning_rate,
            betas=setting.betas,
            weight_decay=setting.weight_decay,
            fused=True,
        ),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        warmup=setting.warmup,
        seed=seed,
        callback=lambda so_far: print(
            f"  epoch {len(so_far.history)}: loss {so_far.history[-1]['train_loss']:.2f}",
            file=sys.stderr,
        ),
    )
    seconds = sum(row["seconds"] for row in fit.history)
    steps = fit.history[-1]["step"]
    bounds = {
        f"m = {m}": -pvae.log_likelihood(fit.model, fit.guide, data.test, num_particles=m).mean
        for m in (1, 5, 50)
    }
    found = pvae.log_likelihood(fit.model, fit.guide, data.test, num_particles=PARTICLES)
    divergences = kl_by_site(fit.model, fit.guide, data.test)
    entry: dict[str, object] = {
        **asdict(setting),
        "seed": seed,
        "steps": steps,
        "training_seconds": round(seconds, 1),
        "engine": fit.engine,
        "negative_test_bound": {key: round(value, 2) for key, value in bounds.items()},
        "negative_log_likelihood": {
            "value": round(-found.mean, 2),
            "std_error": round(found.std_error, 2),
            "mc_error": round(found.mc_error, 4),
            "num_particles": PARTICLES,
        },
        "kl_by_layer": {name: round(kl.mean, 2) for name, kl in sorted(divergences.items())},
    }
    published = setting.published.get("steps")
    if isinstance(published, int):
        hours = published * seconds / steps / 3600
        entry["hours_for_published_schedule"] = round(hours, 1)
    return entry


def row(entry: dict[str, Any]) -> str:
    """The README's table row of an entry."""
    bounds, published = entry["negative_test_bound"], entry["published"]
    layers = ", ".join(f"{value:.1f}" for value in entry["kl_by_layer"].values())
    beside = ", ".join(
        f"{key}: {value}" for key, value in published.items() if isinstance(value, float)
    )
    cells = [
        entry["name"],
        *(f"{bounds[key]:.1f}" for key in ("m = 1", "m = 5", "m = 50")),
        f"{entry['negative_log_likelihood']['value']:.1f}",
        layers,
        str(entry["epochs"]),
        f"{entry['training_seconds'] / 60:.0f}",
        beside or "",
    ]
    return f"| {' | '.join(cells)} |"


def line(entry: dict[str, Any]) -> str:
    """A one-line summary of an entry."""
    text = (
        f"{entry['name']}: -log p(x) {entry['negative_log_likelihood']['value']}, "
        f"bounds {entry['negative_test_bound']}, KL {entry['kl_by_layer']}, "
        f"{entry['epochs']} epochs in {entry['training_seconds']} s; published {entry['published']}"
    )
    if "hours_for_published_schedule" in entry:
        text += f"; its schedule would need {entry['hours_for_published_schedule']} hours here"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--only", nargs="*", help="entries to train; all, if not given")
    parser.add_argument("--epochs", type=int, help="instead of each setting's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="instead of results/<group>_cpu.json")
    options = parser.parse_args()
    path = options.json or RESULTS / f"{options.group}_cpu.json"
    data = pvae.data.load("binarized-mnist")
    for setting in GROUPS[options.group]():
        if options.only and setting.name not in options.only:
            continue
        if options.epochs:
            setting = Setting(**{**asdict(setting), "epochs": options.epochs})
        began = time.perf_counter()
        entry = trained(setting, data, options.seed)
        entry["total_seconds"] = round(time.perf_counter() - began, 1)
        entry["hardware"] = machine(torch.device("cpu"))
        print(line(entry), flush=True)
        # Read again: another process may have added an entry.
        results = json.loads(path.read_text()) if path.exists() else {}
        command = f"python tests/benchmarks/helmholtz.py {shlex.quote(options.group)}"
        results |= {"data": "binarized-mnist", "command": command, "units": "nats per datum"}
        results.setdefault("entries", {})[setting.name] = entry
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
