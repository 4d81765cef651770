"""Run Pyro's own examples with pvae's SVI in the place of Pyro's.

    python tests/pyro_examples.py CHECKOUT [EXAMPLE ...]

CHECKOUT is a checkout of Pyro, of the installed version, with its folder `examples`. Examples that
download data or need further packages are left out unless they are named. Print a line per example:
whether it ran, how many steps its SVIs took and replayed, and why not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = {
    "eight_schools/svi.py": "--num-epochs=300",
    "einsum.py": "",
    "inclined_plane.py": "--num-samples=1",
    "lda.py": "--num-steps=150 --num-words=50 --num-docs=40 --num-words-per-doc=8 --batch-size=8",
    "sparse_gamma_def.py": "--num-epochs=120 --eval-particles=2 --eval-frequency=60 --guide=custom",
    "toy_mixture_model_discrete_enumeration.py": "--num-steps=150",
    "minipyro.py": "--num-steps=150",
    "svi_torch.py": "--size=100 --num-epochs=3 --batch-size=10 --learning-rate=0.01",
    "contrib/gp/sv-dkl.py": "--epochs=1 --num-inducing=4 --batch-size=1000",
    "contrib/autoname/scoping_mixture.py": "-n 150",
    "contrib/autoname/mixture.py": "-n 150",
    "contrib/autoname/tree_data.py": "-n 150",
    "contrib/forecast/bart.py": "--num-steps=2 --train-window=2160 --max-test-window=24",
    "contrib/timeseries/gp_models.py": "-m imgp --test --num-steps=2",
    "capture_recapture/cjs.py": "--num-steps=120 -m 1",
    "neutra.py": "--num-steps=150 --num-samples=10",
    "vae/vae.py": "--num-epochs=1",
    "vae/ss_vae_M2.py": "--num-epochs=1",
    "cvae/main.py": "--num-epochs=1",
    "dmm.py": "--num-epochs=1",
    "hmm.py": "--num-steps=1 -m 0",
}
# These download data or need further packages.
ON_REQUEST = (
    "contrib/forecast/bart.py", "contrib/gp/sv-dkl.py", "contrib/timeseries/gp_models.py",
    "cvae/main.py", "dmm.py", "hmm.py", "minipyro.py", "neutra.py", "sparse_gamma_def.py",
    "vae/ss_vae_M2.py", "vae/vae.py",
)  # fmt: skip

# Runs in the process of an example, before it.
SWAP = """
import atexit, json, os, runpy, sys
import pyro, pyro.infer, pyro.infer.svi
import pvae

made = []

class SVI(pvae.SVI):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        made.append(self)

pyro.infer.SVI = pyro.infer.svi.SVI = SVI
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))

def report():
    found = {
        "steps": sum(svi.steps for svi in made),
        "replayed": sum(svi.replay.replayed for svi in made),
        "notes": sorted({note for svi in made for note in svi.notes}),
    }
    print("\\nPVAE " + json.dumps(found))

atexit.register(report)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(checkout, example):
    """The line of an example."""
    command = [sys.executable, "-c", SWAP, str(checkout / "examples" / example)]
    done = subprocess.run(
        [*command, *EXAMPLES.get(example, "").split()],
        capture_output=True,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": "", "CI": "1"},
    )
    report = [line[5:] for line in done.stdout.splitlines() if line.startswith("PVAE ")]
    found = json.loads(report[-1]) if report else {"steps": 0, "replayed": 0, "notes": []}
    said = "" if done.returncode == 0 else f"failed: {(done.stderr.splitlines() or [''])[-1][:100]}"
    return (
        f"{example:44} {found['replayed']:>6} of {found['steps']:>6}  "
        f"{'; '.join([*([said] if said else []), *found['notes']])}"
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    checkout = Path(sys.argv[1]).resolve()
    chosen = sys.argv[2:] or [name for name in EXAMPLES if name not in ON_REQUEST]
    print(f"{'example':44} {'steps replayed':>16}")
    for example in chosen:
        print(run(checkout, example), flush=True)
