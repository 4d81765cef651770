"""List identifiers and terms that the vocabulary of the design replaced.

    python tests/vocabulary.py

Print a line per hit, and exit with 1 if there is any.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Old names, as whole words of identifiers (split at underscores and capitals) or as full names.
WORDS = {
    "belongings", "adopt", "discover", "rehearse", "bare", "held", "neighbours", "undone", "weigh",
    "weighed", "tracker", "tracking", "waited", "budget", "suited", "unsuitable", "shared", "tidy",
    "watch", "scoped",
}  # fmt: skip
NAMES = {"Signature", "Progress", "DataSet", "UndefinedError", "stopped", "leapfrog"}
TERMS = re.compile(
    r"\b(belongings?|adopt(s|ed)?|rehears\w+|neighbours?|data meet|undone|weigh(s|ed|ing)?|waited|"
    r"budget|unsuit\w+|suited|DataSet|UndefinedError|Tracker|shared sites?)\b"
)
ALLOWED = {"held_out", "_held_out", "HELD_OUT_SEEDS"}  # held-out data


def words(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def identifiers(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.lineno, node.name))
        elif isinstance(node, ast.arg):
            found.append((node.lineno, node.arg))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.id))
    return found


def hits() -> list[str]:
    found = []
    for folder in ("pvae", "models", "guides"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text, where = path.read_text(), path.relative_to(ROOT)
            for line, name in identifiers(ast.parse(text)):
                if name not in ALLOWED and (words(name) & WORDS or name in NAMES):
                    found.append(f"{where}:{line}: {name}")
            for line, content in enumerate(text.splitlines(), 1):
                found += [f"{where}:{line}: {term[0]}" for term in TERMS.finditer(content)]
    return found


if __name__ == "__main__":
    lines = hits()
    print("\n".join(lines))
    sys.exit(bool(lines))
