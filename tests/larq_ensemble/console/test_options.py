import click
import pytest

from larq_ensemble.console.options import ImageSize, member_counts, names, numbers


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (numbers, "1,4,9", (1.0, 4.0, 9.0)),
        (numbers, "2,-0.5,2", (2.0, -0.5, 2.0)),
        (names, "voting,fusion,voting", ("voting", "fusion")),
        (member_counts, "4,1,4", (1, 4)),
        (member_counts, "7", (7,)),
        (ImageSize(), "64x48", (64, 48)),
        (ImageSize(), "32", (32, 32)),
    ],
)
def test_values_with_commas_between(kind, text, expected):
    assert kind.convert(text, None, None) == expected
    # click converts a default that is converted already.
    assert kind.convert(expected, None, None) == expected


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (numbers, "1,many", "'1,many' is not a list of numbers such as 1,4,9."),
        (numbers, "", "'' is not a list of numbers such as 1,4,9."),
        (member_counts, "2,0", "'2,0' is not a list of whole numbers from 1 on such as 2,4."),
        (member_counts, "1.5", "'1.5' is not a list of whole numbers from 1 on such as 2,4."),
        *(
            (ImageSize(), text, f"{text!r} is not a size such as 64x48 (height x width) or 64.")
            for text in ("", "x", "64x", "0x8", "1x2x3", "-4", "4.5", "²")
        ),
    ],
)
def test_others_are_refused(kind, text, message):
    with pytest.raises(click.BadParameter) as error:
        kind.convert(text, None, None)
    assert error.value.message == message
