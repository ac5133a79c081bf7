import pandas as pd
import pytest

from sweeper.errors import ConfigError, TableError
from sweeper.table import read_foreign, where
from sweeper.table.mapping import extracted, mapped, pairs


def table(**columns):
    return pd.DataFrame(columns)


def test_an_expression_computes_a_column_beside_those_it_reads():
    made = mapped(table(bs=[2, 4], ti=[10, 10]), {"tokens": "bs * 2048 * ti"})
    assert made.to_dict("list") == {"bs": [2, 4], "ti": [10, 10], "tokens": [40960, 81920]}


def test_several_mappings_may_read_the_same_column():
    made = mapped(table(N=[1e6], D=[2e9]), {"tokens": "D", "params": "N", "flops": "6*N*D", "budget": "D"})
    assert made.to_dict("list") == {"params": [1e6], "tokens": [2e9], "budget": [2e9], "flops": [1.2e16]}


def test_an_expression_may_replace_the_column_it_reads_but_no_other():
    assert list(mapped(table(tokens=[1.5]), {"tokens": "tokens*1e9"}).tokens) == [1.5e9]
    with pytest.raises(TableError, match="a column 'tokens' is there already, so 'D\\*1e9' cannot take its name"):
        mapped(table(tokens=[1.5], D=[1]), {"tokens": "D*1e9"})


def test_two_columns_may_change_places():
    made = mapped(table(lr=[1], loss=[2]), {"lr": "loss", "loss": "lr"})
    assert made.to_dict("list") == {"loss": [1], "lr": [2]}


@pytest.mark.parametrize("name", ["smooth loss", "val/loss", "lambda", "a`b", "2x", "D*1e9", "optimizer.lr", "None"])
def test_a_right_side_that_is_the_name_of_a_column_is_that_column(name):
    assert list(mapped(pd.DataFrame({name: [7]}), {"loss": name}).loss) == [7]


@pytest.mark.parametrize("name", ["smooth loss", "val/loss", "lambda", "2x", "None", "D*1e9"])
def test_expressions_and_conditions_name_any_column_in_backquotes(name):
    rows = pd.DataFrame({name: [7, 8], "text": ["`x`", "y"]})
    assert list(mapped(rows, {"loss": f"`{name}` / 2"}).loss) == [3.5, 4]
    assert list(where(rows, f"`{name}` > 6 and text == '`x`'")[name]) == [7]


def test_a_row_that_misses_what_an_expression_reads_misses_its_result():
    made = mapped(table(D=[1.0, None], name=["a", None]), {"tokens": "D*1e9", "arm": "name"})
    assert made.tokens.isna().tolist() == [False, True]


def test_an_expression_may_give_text_or_a_constant():
    made = mapped(table(D=[1, 2]), {"arm": "'muon'", "size": "'big' if D > 1 else 'small'"})
    assert made.to_dict("list") == {"D": [1, 2], "arm": ["muon", "muon"], "size": ["small", "big"]}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("d", "no column 'd'"),
        ("d*2", "--map tokens: unknown column 'd' in 'd\\*2'; did you mean 'D'|unknown column 'd'"),
        ("val/los", "did you mean 'val/loss'"),
        ("2*val/loss", "write a column whose name is no word in backquotes: `val/loss`"),
        ("smooth loss * 2", "invalid syntax .*; write a column whose name is no word in backquotes: `smooth loss`"),
        ("`none` + 1", "unknown column 'none'"),
        ("`val/loss` +", "--map tokens: .*`val/loss`"),
        ("D/0", "division by zero in 'D/0' at D 1"),
        ("[D, D]", "gives a list"),
        ("D + name", "needs a number, got 'a' in 'D \\+ name' at D 1, name 'a'"),
        ("__import__('os')", "no function '__import__'"),
        ("(lambda: 1)()", "--map tokens"),
    ],
)
def test_a_mapping_that_cannot_be_followed_is_one_sentence(theirs, message):
    rows = pd.DataFrame({"D": [1], "val/loss": [2.0], "smooth loss": [2.0], "name": ["a"]})
    with pytest.raises((ConfigError, TableError), match=message) as caught:
        mapped(rows, {"tokens": theirs})
    assert "column_in_backquotes" not in str(caught.value)


def test_conditions_are_evaluated_once_per_distinct_row_and_keep_the_order():
    rows = table(lr=[0.1, None, 0.1, 0.2, None], arm=["a", "a", "b", "a", None])
    assert list(where(rows, "lr == 0.1 or arm == None").index) == [0, 2, 4]
    assert list(where(rows, "lr == None").index) == [1, 4]


# Hyperball's names (WhenWen/Hyperball on Hugging Face, MIT): learning rate and billions of tokens.
NAMES = ["muon-lr2.00e-2-8B-accc00", "muonh-lr1.41e-2-2B-fe9661", "resumed"]


def test_named_groups_of_a_pattern_become_columns_of_numbers():
    made, warnings = extracted(table(name=NAMES[:2]), "name", r"^(?P<arm>\w+)-lr(?P<lr>[0-9.e-]+)-(?P<tokens>\d+)B")
    assert made.drop(columns="name").to_dict("list") == {
        "arm": ["muon", "muonh"],
        "lr": [0.02, 0.0141],
        "tokens": [8, 2],
    }
    assert warnings == ()


def test_rows_that_a_pattern_does_not_match_are_counted_and_named():
    made, warnings = extracted(table(name=NAMES), "name", r"-(?P<tokens>\d+)B")
    assert made.tokens.isna().tolist() == [False, False, True]
    assert warnings == ("--pattern name: 1 of 3 rows do not match and miss its columns: 'resumed'",)


def test_a_group_that_matches_nothing_is_missing():
    made, _ = extracted(table(name=["lr1", "lr1x2"]), "name", r"lr(?P<lr>\d)(?:x(?P<width>\d))?")
    assert made.width.isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("lr(?P<lr>[0-9", "--pattern name: invalid regular expression: missing ]"),
        ("lr(.*)", "a group without a name"),
        ("lr", "no named group"),
        ("(?<=lr)(?P<lr>.*)", "lookaround and backreferences are not known"),
        ("(?P<lr>x)(?P<lr>y)", "'lr' is twice|duplicate"),
        ("(?P<name>.*)", "the group 'name' is a column already"),
        ("nothing(?P<lr>.)", "no row matches .*; the first value is 'muon-lr2.00e-2-8B-accc00'"),
    ],
)
def test_a_bad_pattern_is_one_sentence(pattern, message):
    with pytest.raises(TableError, match=message):
        extracted(table(name=NAMES), "name", pattern)


@pytest.mark.timeout(10)
def test_a_pattern_that_backtracks_forever_elsewhere_ends():
    made, _ = extracted(table(name=["a" * 5000 + "!", "aab"]), "name", r"^(?P<x>(?:a+)+)b$")
    assert made.x.isna().tolist() == [True, False]


def test_patterns_are_read_before_the_mapping(tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame({"run": NAMES, "loss": [3.3, 3.5, 3.4]}).to_csv(path, index=False)
    found = read_foreign(path, {"tokens": "tokens*1e9"}, [("run", r"lr(?P<lr>[0-9.e-]+)-(?P<tokens>\d+)B")])
    assert found.table.tokens.tolist()[:2] == [8e9, 2e9]
    assert "1 of 3 rows do not match" in found.warnings[0]


@pytest.mark.parametrize("text", ["tokens", "=D", "tokens=", " = "])
def test_a_pair_without_its_sides_is_refused(text):
    with pytest.raises(TableError, match="expected a name, an equals sign"):
        pairs([text], "--map", "tokens=D")
