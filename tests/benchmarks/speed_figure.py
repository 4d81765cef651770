"""Draw the README's picture of speed from the results of steps.py.

    python tests/benchmarks/speed_figure.py

Writes tutorials/pictures/speed.png.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
WAYS = {
    "Pyro, no validation": "Pyro's SVI, validation off",
    "by hand, compiled": "PyTorch by hand, torch.compile",
    "pvae recorded": "pvae, recorded",
    "pvae captured": "pvae, captured",
}
COLOURS = ("#bbbbbb", "#777777", "#9ecae1", "#1f77b4")


def draw() -> Figure:
    results = json.loads((HERE / "results" / "steps_cpu.json").read_text())["results"]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(WAYS)
    for number, ((name, label), colour) in enumerate(zip(WAYS.items(), COLOURS, strict=True)):
        base = [result["milliseconds"]["by hand, compiled"]["median"] for result in results]
        values = [result["milliseconds"][name]["median"] for result in results]
        ratios = np.array(values) / np.array(base)
        centres = np.arange(len(results)) + (number - (len(WAYS) - 1) / 2) * width
        bars = axes.bar(centres, ratios, width, color=colour, label=label)
        axes.bar_label(bars, [f"{v:.2g} ms" for v in values], fontsize=6, padding=1)
    sizes = [result["title"].partition(" = ")[2].strip("()") for result in results]
    axes.set_xticks(range(len(results)), sizes)
    axes.set(
        xlabel="batch, latent dimensions, hidden units",
        ylabel="time of a step, hand-written = 1",
        title="gradient steps of a VAE with 784 pixels on two AMD EPYC cores",
    )
    axes.title.set_fontsize(10)
    axes.axhline(1, color="#444444", lw=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    draw().savefig(HERE.parents[1] / "tutorials" / "pictures" / "speed.png", dpi=150)
