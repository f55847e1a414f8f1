"""Spelling is British in READMEs and docstrings; names in code follow JAX and optax."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = [ROOT / name for name in ("README.md", "experiments/README.md", "tools/README.md")]
ROOMS = ("sslshift", "experiments", "tools")
# Beginnings of American spellings, and what prose here writes in their place. Verbs in -ize are those that prose needs.
BRITISH = {
    "analyz": "analys",
    "behavior": "behaviour",
    "center": "centre",
    "color": "colour",
    "favor": "favour",
    "gray": "grey",
    "initializ": "initialis",
    "labeled": "labelled",
    "license": "licence (noun)",
    "minimiz": "minimis",
    "modeling": "modelling",
    "neighbor": "neighbour",
    "normaliz": "normalis",
    "optimizer": "optimiser",
    "standardiz": "standardis",
    "summariz": "summaris",
}
# Code in prose: blocks, examples, names in backticks, flags, addresses, and names at the start of an entry of Args.
CODE = re.compile(
    r"```[\s\S]*?```|(?<=\n\n)(?: {4}.*(?:\n|\Z))+|^\s*>>>.*$|``?[^`]+``?|https?://\S+|--\w+|^\s+\w+(?:, \w+)*:", re.MULTILINE
)


def american(text: str) -> list[str]:
    """Returns every American spelling in a text outside of code, with its British one."""
    words = re.findall(rf"\b(?:{'|'.join(BRITISH)})\w*", CODE.sub("", text), re.IGNORECASE)
    return [f"{word}: write {next(new for old, new in BRITISH.items() if word.lower().startswith(old))}" for word in words]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_spelling_of_readmes(readme):
    assert american(readme.read_text()) == []


@pytest.mark.parametrize("room", ROOMS)
def test_spelling_of_docstrings(room):
    wrong = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                words = american(ast.get_docstring(node) or "")
                if words:
                    wrong[f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"] = words
    assert wrong == {}


def test_american_spellings_are_found_outside_of_code_alone():
    assert american("The color of the optimizer.") == ["color: write colour", "optimizer: write optimiser"]
    assert american("Runs `normalize` and --center:\n\n    x = center(x)\n\n  center: the centre.\n  >>> gray = 1\n") == []
