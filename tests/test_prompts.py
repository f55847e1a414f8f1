"""Prompts of class names, from the command line and from files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslshift.data.records.prompts import read_prompts
from sslshift.data.sources.labels import class_name


def test_prompts_of_a_list_and_of_a_file(tmp_path):
    assert read_prompts("cat;  big dog ;") == {"cat": ("a photo of a cat",), "big dog": ("a photo of a big dog",)}
    assert read_prompts("dog.txt;", ["{}"]) == {"dog.txt": ("dog.txt",)}
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeff# animals\r\n\r\ncat\r\ndog\ta dog; asleep\r\ndog | {} of a dog|s\r\n  # end\r\nÖl".encode())
    assert read_prompts(str(file), ["a {}", "{} and {}"]) == {
        "cat": ("a cat", "cat and cat"),
        "dog": ("a dog; asleep", "{} of a dog|s"),
        "Öl": ("a Öl", "Öl and Öl"),
    }


# Names as sources spell them; see test_class_names.py.
names = (
    st.text(st.characters(exclude_characters=";|\t#{}\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
    .map(str.strip)
    .map(class_name)
)


@given(st.lists(names.filter(bool), min_size=1, max_size=30, unique=True), st.integers(1, 3))
def test_every_class_gets_every_template(tmp_path_factory, classes, count):
    templates = [f"{i} {{}}." for i in range(count)]
    expected = {name: tuple(f"{i} {name}." for i in range(count)) for name in classes}
    assert read_prompts(";" + ";".join(classes), templates) == expected
    assert list(read_prompts(";".join(classes) + ";", templates)) == classes


@pytest.mark.parametrize(
    ("text", "templates", "message"),
    [
        ("cat; dog; cat", ["{}"], "The prompts: the class 'cat' occurs twice"),
        ("cat|a cat; cat|a cat", ["{}"], "the class 'cat' occurs twice"),
        ("cat|a cat; cat", ["a {}"], "the class 'cat' occurs twice"),
        ("", ["{}"], "The prompts: expected class names"),
        (" ; ;", ["{}"], "expected class names"),
        ("|a cat", ["{}"], "lacks its class name or its prompt"),
        ("cat|", ["{}"], "lacks its class name or its prompt"),
        ("cat", ["a photo"], "got 'a photo'"),
        ("cat", [], "Expected a template"),
        ("no/such.txt", ["{}"], "There is no text file no/such.txt"),
        ("FOLDER", ["{}"], "There is no text file"),
        ("FOLDER/empty.txt", ["{}"], "expected class names"),
        ("FOLDER/latin.txt", ["{}"], r"latin\.txt cannot be read as a text file in UTF-8"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path, text, templates, message):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "latin.txt").write_bytes("Öl".encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_prompts(text.replace("FOLDER", str(tmp_path)), templates)


def test_commas_do_not_separate_prompts(tmp_path):
    (tmp_path / "classes.csv").write_text("class,prompt\ncat,a cat\n")
    with pytest.raises(ValueError, match=r"classes\.csv has commas as separators, .*; write class\|prompt"):
        read_prompts(str(tmp_path / "classes.csv"))
    (tmp_path / "classes.csv").write_text("cat|a cat, asleep\ndog\n")
    assert list(read_prompts(str(tmp_path / "classes.csv"))) == ["cat", "dog"]
