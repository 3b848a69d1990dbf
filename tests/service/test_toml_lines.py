"""The scanner finds the line of every key that tomllib finds."""

import tomllib

import pytest
from helpers.properties import given, st

from ktlsgate.service.toml_lines import key_lines


def paths_of(value, path=()):
    """Every path of a parsed document."""
    if path:
        yield path
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from paths_of(child, (*path, key))


def lines_of(text):
    """The scanner's answer, after checking that it names exactly tomllib's paths."""
    lines = key_lines(text)
    assert set(lines) == set(paths_of(tomllib.loads(text)))
    return lines


def test_empty_document_has_no_lines():
    assert lines_of("") == {}
    assert lines_of("# only this") == {}


def test_key_has_its_line_and_its_table_the_line_of_the_header():
    assert lines_of("a = 1\n\n# x = 2\n[t] # note\nb = 2\n") == {
        ("a",): 1,
        ("t",): 4,
        ("t", "b"): 5,
    }


def test_each_element_of_an_array_of_tables_has_its_own_lines():
    text = "[[a]]\nx = 1\n[[a]]\n\nx = 2\n"
    assert lines_of(text) == {
        ("a",): 1,
        ("a", 0): 1,
        ("a", 0, "x"): 2,
        ("a", 1): 3,
        ("a", 1, "x"): 5,
    }


def test_header_below_an_array_of_tables_belongs_to_its_newest_element():
    text = "[[a]]\n[[a.b]]\nx = 1\n[[a]]\n[[a.b]]\nx = 2\n[a.c]\ny = 3\n[[a.b]]\n"
    lines = lines_of(text)
    assert lines[("a", 0, "b", 0, "x")] == 3
    assert lines[("a", 1, "b", 0, "x")] == 6
    assert lines[("a", 1, "c", "y")] == 8
    assert lines[("a", 1, "b", 1)] == 9


def test_inline_tables_are_entered():
    text = 'a = { b = 1, c = { d = "}", "e.f" = 2 } }\ng = {}\n'
    assert lines_of(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("a", "c"): 1,
        ("a", "c", "d"): 1,
        ("a", "c", "e.f"): 1,
        ("g",): 2,
    }


def test_inline_tables_in_an_array_count_as_its_elements():
    text = 'listen = [\n  { address = ":1" },\n  # more\n  { address = ":2" },\n]\nx = 1\n'
    lines = lines_of(text)
    assert lines[("listen", 0, "address")] == 2
    assert lines[("listen", 1, "address")] == 4
    assert lines[("x",)] == 6


def test_dotted_keys_name_every_table_on_the_way():
    text = "a . b.\t'c d' = 1\na.e = 2\n"
    assert lines_of(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("a", "b", "c d"): 1,
        ("a", "e"): 2,
    }


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ('"a.b"', "a.b"),
        ("'a.b'", "a.b"),
        ('"a\\"]b"', 'a"]b'),
        ("'a\\'", "a\\"),
        ('"\\u00e9 = #"', "é = #"),
        ('""', ""),
        ("1234", "1234"),
    ],
)
def test_quoted_keys_are_one_key(written, key):
    text = f"[t.{written}]\nx = 1\n[[l.{written}]]\ny = 2\n"
    lines = lines_of(text)
    assert lines[("t", key, "x")] == 2
    assert lines[("l", key, 0, "y")] == 4


def test_elements_of_a_multi_line_array_have_their_own_lines():
    text = 'a = [ "x", # "no", ]\n\n  "y",\n  [\n    1,\n  2], ]\nb = 1\n'
    assert lines_of(text) == {
        ("a",): 1,
        ("a", 0): 1,
        ("a", 1): 3,
        ("a", 2): 4,
        ("a", 2, 0): 5,
        ("a", 2, 1): 6,
        ("b",): 7,
    }


@pytest.mark.parametrize(
    "value",
    [
        '"""\n[x]\ny = 1\n"""',
        "'''\n[x]\ny = 1\n'''",
        '"""\na\\\n  """',
        '"""\n\\""" = 1\n"""',
        '"""\n""\n"""""',
        "'''\n''\n'''''",
        '"""\r\n[[x]]\r\n"""',
    ],
)
def test_multi_line_string_hides_what_looks_like_keys(value):
    text = f"a = {value}\nb = 1\n"
    assert lines_of(text) == {("a",): 1, ("b",): text.count("\n")}


@pytest.mark.parametrize(
    "value",
    [
        '""',
        "''",
        '""""""',
        "''''''",
        '"# = ]"',
        "'\\'",
        '"\\""',
        '"\\\\"',
        "-1_000",
        "1e-3",
        "inf",
        "true",
        "2026-11-20 12:00:00.5+01:00",
        "07:32:00",
        "0xdead",
    ],
)
def test_scalar_ends_where_tomllib_ends_it(value):
    text = f"a = [{value}, {value} ] # [x]\nb = {{ c = {value} }}\nd = {value}# e = 1\nf = 1"
    lines = lines_of(text)
    assert (lines[("b", "c")], lines[("d",)], lines[("f",)]) == (2, 3, 4)


def test_carriage_returns_do_not_count_as_lines():
    assert lines_of("a = 1\r\n\r\nb = 2\r\n[t]\r\nc = 3") == {
        ("a",): 1,
        ("b",): 3,
        ("t",): 4,
        ("t", "c"): 5,
    }


def test_table_written_after_its_children_has_the_line_of_its_own_header():
    assert lines_of("[a.b]\n[a]\nc = 1\n")[("a",)] == 2


KEYS = st.sampled_from(["a", "b-1", '"c.d"', "'e]'", '"\\t#"', "f . g", '"" . x'])
SCALARS = st.sampled_from(
    ["1", '"s"', "'l'", '"""\nm\n[x]"""', "'''n\n'''", "2026-01-01", '"\\"]"', "true"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",# ]\n".join(items) + "\n]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{k} = {v}" for k, v in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)
STATEMENTS = st.one_of(
    st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    KEYS.map(lambda key: f"[{key}]"),
    KEYS.map(lambda key: f"[[ {key} ]]"),
    st.tuples(KEYS, KEYS).map(lambda pair: f"[{pair[0]}.{pair[1]}]"),
    st.just("# [comment]"),
)


@given(st.lists(STATEMENTS, max_size=8))
def test_every_path_of_any_document_is_found(statements):
    """Statements that make the document invalid are left out, as tomllib decides."""
    text = ""
    for statement in statements:
        try:
            tomllib.loads(text + statement + "\n")
        except tomllib.TOMLDecodeError:
            continue
        text += statement + "\n"
    lines = lines_of(text)
    assert all(1 <= line <= text.count("\n") for line in lines.values())
