"""The house keeps its shape: sizes of files and functions, one meaning for each name, and the rules of the prose.

`test_spelling.py` holds the spelling; the import contracts are in pyproject.toml.
"""

import ast
import collections
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("sslshift", "tools", "experiments") for path in (ROOT / room).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
TEXTS = [ROOT / "README.md", ROOT / "tools/README.md", ROOT / "experiments/README.md"]

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
# A room of more files than these has too many small ones around one concept.
MOST_FILES = {"study": 25, "shift": 20, "data/curation": 8}

# A docstring begins with what is returned or done, and not with a word that makes the reader wait for it.
LATE_BEGINNINGS = frozenset(
    ["What", "How", "Where", "Who", "Whether", "Of", "By", "In", "From", "When", "Which", "Why", "As", "At", "With", "For"]
)

# Words that the vocabulary of the project has another word for; see the table in the message.
UNWANTED = {
    r"\b(un)?judg(e|es|ed|ing)\b": "evaluated",
    r"\brungs?\b": "level",
    r"\bboots\b": "bootstrap replicates",
    r"\bleft out\b": "excluded",
    r"\bcannot be told\b": "is indistinguishable from",
    r"\bis unknown; there is\b": "expected one of A, B, got 'x'",
    r"\b(is|are|was|were) told\b": "reported",
    r"\bso many\b": "give the number",
    r"\bnobody's\b": "say what belongs to what",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.Module):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def prose(text: str) -> str:
    """A text without its code: what stands between backticks, indented examples, and lines of a doctest."""
    kept = [line for line in text.splitlines() if not re.match(r"\s*(>>>|\.\.\. )|\s{8,}\S+\(|    \S*python |\| ", line)]
    return re.sub(r"`[^`]*`|https?://\S+|--\w+|\b\w+[_.=/:]\w+\S*", " ", "\n".join(kept))


def sentences(path: Path) -> list[tuple[int, str]]:
    """(line, text) of the docstrings and comments of a file."""
    found = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node, clean=False)
            found += [(getattr(node, "lineno", 1), text)] if text else []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("# "):
            found.append((number, line.lstrip()[2:]))
    return found


def test_the_top_level_is_fixed():
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and path.suffix != ".egg-info"}
    # What a build leaves, and where commands write by default.
    there -= {"build", "dist", "results"}
    assert there == {"LICENSE", "README.md", "experiments", "pyproject.toml", "sslshift", "tests", "tools"}


def test_files_and_functions_are_of_a_readable_size():
    long = [f"{name(path)} has {count} lines" for path in FILES if (count := path.read_text().count("\n")) > LONGEST_FILE]
    for path, tree in TREES.items():
        for node in functions(tree):
            count = node.end_lineno - node.lineno + 1
            if count > LONGEST_FUNCTION:
                long.append(f"{name(path)}:{node.lineno} {node.name} has {count} lines")
    assert not long, "\n".join(long)


@pytest.mark.parametrize("room", MOST_FILES)
def test_a_room_has_no_more_files_than_concepts(room):
    assert len(list((ROOT / "sslshift" / room).rglob("*.py"))) <= MOST_FILES[room]


def test_a_public_class_has_a_name_of_its_own():
    places = collections.defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{name(path)}:{node.lineno}")
    twice = {each: where for each, where in places.items() if len(where) > 1}
    assert not twice, twice


def test_an_assignment_is_one_statement():
    """`a, b = x, y` is for values that change together, such as a swap."""
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            pair = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
            if pair and not any(isinstance(each, ast.Starred) for each in (*node.targets[0].elts, *node.value.elts)):
                targets = {ast.unparse(each) for each in node.targets[0].elts}
                used = {ast.unparse(each) for each in ast.walk(node.value) if isinstance(each, ast.expr)}
                found += [] if targets & used else [f"{name(path)}:{node.lineno}"]
    assert not found, found


def test_docstrings_begin_with_what_they_describe():
    late = [
        f"{name(path)}:{line} {text.strip().splitlines()[0]}"
        for path in FILES
        for line, text in sentences(path)
        if text.strip().split(None, 1)[0].strip(",.:") in LATE_BEGINNINGS and not is_comment(path, line)
    ]
    assert not late, "\n".join(late)


def is_comment(path: Path, line: int) -> bool:
    return path.read_text(encoding="utf-8").splitlines()[line - 1].lstrip().startswith("#")


def test_prose_uses_the_words_of_the_project():
    found = []
    for where, text in texts():
        for pattern, better in UNWANTED.items():
            found += [f"{where}: {match[0]!r} (rather: {better})" for match in re.finditer(pattern, prose(text))]
    assert not found, "\n".join(found)


def texts() -> list[tuple[str, str]]:
    found = [(f"{name(path)}:{line}", text) for path in FILES for line, text in sentences(path)]
    return [*found, *((name(path), path.read_text(encoding="utf-8")) for path in TEXTS)]


def test_the_rules_find_what_they_are_for():
    assert "judged" not in prose("`judged` is a name in code")
    assert any(re.search(pattern, "pairs that are left out") for pattern in UNWANTED)
