import numpy as np
import pytest

from sweeper.errors import ConfigError
from sweeper.expressions import MAX_ITEMS, clauses, compile_expression, holds, opened, select


def value(text, **names):
    return compile_expression(text)(names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("7 // 2 + 7 % 4", 6),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("1e-3", 1e-3),
        ("1_000", 1000),
        ("3 if 2 > 1 else 4", 3),
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),
        ("not true or false", False),
        ("2 in [1, 2]", True),
        ("'moe' not in ['dense']", True),
        ("[1, 2] + [3]", [1, 2, 3]),
        ("range(32, 129, 32)", [32, 64, 96, 128]),
        ("range(3)", [0, 1, 2]),
        ("range(5, 1, -2)", [5, 3]),
        ("geom(5e-3, 0.16, 6)", [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]),
        ("geom(8, 1, 4)", [8.0, 4.0, 2.0, 1.0]),
        ("around(0.04, 2, 3)", [0.02, 0.04, 0.08]),
        ("around(0.04, 4, 2)", [0.02, 0.08]),
        ("min(3, 1)", 1),
        ("max([3, 1])", 3),
        ("round(2.567, 1)", 2.6),
        ("floor(2.5) + ceil(2.5) + abs(-1)", 6),
        ("sqrt(16) + exp(0) + log(1)", 5.0),
    ],
)
def test_an_expression_has_the_value_that_mathematics_gives_it(text, expected):
    assert value(text) == expected


def test_names_are_read_from_the_scope_also_with_dots():
    assert value("50 * params", params=3) == 150
    assert compile_expression("model.width / 2")({"model.width": 64}) == 32


def test_an_expression_knows_the_names_it_reads_as_resolved():
    expression = compile_expression("width * log(depth)", resolve=lambda name: f"model.{name}")
    assert expression.names == {"model.width", "model.depth"}
    assert expression({"model.width": 8, "model.depth": 1}) == 0


def test_points_of_a_grid_have_six_significant_digits_and_exact_ends():
    points = value("geom(0.0012345678, 1, 4)")
    assert points[0] == 0.0012345678
    assert points[-1] == 1
    assert all(float(f"{point:.6g}") == point for point in points[1:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9**9**9", "beyond 1e308"),
        ("2.0**99999", "beyond 1e308"),
        ("exp(1e9)", "has no value"),
        ("range(1e12)", f"more than {MAX_ITEMS} items"),
        ("geom(1, 2, 1e9)", f"2 to {MAX_ITEMS} points"),
        ("'a' * 1000000000", "needs a number"),
        ("[0] * 1000000000", "needs a number"),
        ("(" * 250 + "1" + ")" * 250, "parentheses"),
        ("-" * 5000 + "1", "simplify"),
        ("1+" * 6000 + "1", "the limit is"),
        ("+".join(["1"] * 100), "inside one another"),
    ],
)
def test_abuse_ends_in_a_sentence_instead_of_memory_or_time(text, said):
    with pytest.raises(ConfigError, match=said):
        value(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(1).__class__",
        "x.__class__.__bases__",
        "[x for x in y]",
        "lambda: 1",
        "f'{1}'",
        "open('/etc/passwd')",
        "x[0]",
        "(x := 1)",
        "{1: 2}",
        "max(*[1])",
        "round(1.5, digits=1)",
        "1 if",
        "b'1'",
        "x is y",
        "~1",
    ],
)
def test_what_is_outside_the_grammar_is_refused(text):
    with pytest.raises(ConfigError):
        compile_expression(text)({"x": 1, "y": [1]})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rnage(3)", "axes.lr: no function 'rnage'; did you mean 'range'? (character 1 of 'rnage(3)')"),
        ("2 * parms", "axes.lr: unknown name 'parms' in '2 * parms'; did you mean 'params'?"),
        ("1 / 0", "axes.lr: division by zero in '1 / 0'"),
        ("log(-1)", "axes.lr: log(-1) has no value in 'log(-1)'"),
        ("geom(1, 2)", "axes.lr: geom(low, high, count) takes 3 numbers, got 2 in 'geom(1, 2)'"),
        ("geom(0, 2, 3)", "axes.lr: geom needs a positive low, got 0 in 'geom(0, 2, 3)'"),
        ("(-8)**0.5", "axes.lr: a negative number, -8, has no power 0.5 in '(-8)**0.5'"),
        ("1 < 'a'", "axes.lr: < cannot compare 1 with 'a' in \"1 < 'a'\""),
        ("", "axes.lr: the expression is empty; give a value"),
    ],
)
def test_an_error_names_the_place_the_value_and_the_next_step(text, sentence):
    with pytest.raises(ConfigError) as error:
        compile_expression(text, "axes.lr")({"params": 1})
    assert str(error.value) == sentence


def test_select_judges_each_row_of_columns_of_lists_and_arrays():
    columns = {"depth": np.array([8, 16, 16]), "state": ["failed", "failed", "done"], "loss": [None, 2.5, 2.0]}
    assert select("depth == 16 and state == 'failed'", columns) == [False, True, False]
    assert select("loss < 3", columns) == [False, True, True]


def test_select_suggests_the_nearest_column():
    with pytest.raises(ConfigError, match=r"unknown column 'dept' in 'dept == 16'; did you mean 'depth'\?"):
        select("dept == 16", {"depth": [8]})


def test_a_condition_must_be_true_or_false():
    with pytest.raises(ConfigError, match="'width' is 3, not true or false; write a comparison"):
        holds(compile_expression("width", "where"), {"width": 3})


def test_nested_mappings_open_to_the_texts_of_their_leaves():
    assert opened("{width: [32, 64], model.depth: geom(2, 8, 3)}") == {
        "width": "[32, 64]",
        "model.depth": "geom(2, 8, 3)",
    }
    assert opened("[{axes: {lr: [1]}}]") == [{"axes": {"lr": "[1]"}}]
    assert opened("geom(1, 2, 3)") == "geom(1, 2, 3)"


def test_a_list_of_conditions_gives_each_its_own():
    assert clauses("[width > 1, 'depth < 2']") == ("width > 1", "depth < 2")
    assert clauses("width > 1") == ("width > 1",)
