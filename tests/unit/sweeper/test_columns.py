import pytest

from sweeper.columns import law_sides
from sweeper.spec import FIGURE_NAMES


def test_a_law_has_two_sides():
    assert law_sides(" lr_peak~tokens ") == ("lr_peak", "tokens")


@pytest.mark.parametrize("law", ["loss", "loss flops", "a ~ b ~ c", "~ b", "a ~ b + c"])
def test_what_is_no_law_is_shown_with_an_example(law):
    with pytest.raises(ValueError, match="write two columns, such as 'lr_peak ~ tokens'"):
        law_sides(law)


def test_a_question_may_ask_for_every_figure():
    from sweeper.figures import FIGURES

    assert tuple(FIGURES) == FIGURE_NAMES
