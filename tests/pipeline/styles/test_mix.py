"""What --style says, and which of several styles an image gets."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.errors import RequestError
from pipeline.styles.mix import Mix, choose, parse_style

NAMES = ("wave", "starry", "scream")
MIXES = parse_style("wave,starry,scream", NAMES)


def test_a_name_is_that_style() -> None:
    assert parse_style("wave", NAMES) == [Mix({"wave": 1.0})]


@pytest.mark.parametrize("expression", ["wave,starry", " wave , starry ", "wave:3,starry:0.1"])
def test_commas_offer_several_styles_in_their_order(expression: str) -> None:
    assert parse_style(expression, NAMES) == [Mix({"wave": 1.0}), Mix({"starry": 1.0})]


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("wave+starry", {"wave": 0.5, "starry": 0.5}),
        ("wave:0.7+starry:0.3", {"wave": 0.7, "starry": 0.3}),
        ("wave:7 + starry:3", {"wave": 0.7, "starry": 0.3}),
        ("wave:3+starry", {"wave": 0.75, "starry": 0.25}),
        ("wave:1+starry:2+scream:1", {"wave": 0.25, "starry": 0.5, "scream": 0.25}),
        ("wave+starry+wave", {"wave": 2 / 3, "starry": 1 / 3}),
    ],
)
def test_a_plus_blends_with_weights_that_sum_to_1(expression: str, parts: dict[str, float]) -> None:
    (mix,) = parse_style(expression, NAMES)
    assert mix.parts == pytest.approx(parts)
    assert sum(mix.parts.values()) == pytest.approx(1)


def test_blends_can_be_offered_too() -> None:
    first, second = parse_style("wave:0.7+starry:0.3,scream", NAMES)
    assert first.parts == pytest.approx({"wave": 0.7, "starry": 0.3})
    assert second == Mix({"scream": 1.0})


@pytest.mark.parametrize("expression", ["wave", "wave:0.7+starry:0.3", "wave:0.25+scream:0.75"])
def test_a_mix_is_written_as_it_was_asked_for(expression: str) -> None:
    (mix,) = parse_style(expression, NAMES)
    assert str(mix) == expression
    assert parse_style(str(mix), NAMES) == [mix]


@pytest.mark.parametrize(
    ("wrong", "meant"), [("wav", "wave"), ("stary", "starry"), ("Scream", "scream")]
)
def test_a_misspelled_style_gets_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_style(f"wave,{wrong}", NAMES)
    assert f"unknown style '{wrong}'" in str(caught.value)
    assert f"did you mean '{meant}'?" in str(caught.value)


@pytest.mark.parametrize("expression", ["monet", "", "wave,", "wave++starry", ":0.5"])
def test_an_unknown_style_gets_the_list(expression: str) -> None:
    with pytest.raises(RequestError, match="there are wave, starry, scream") as caught:
        parse_style(expression, NAMES)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-inf", "much", "0.5.1", "1:2"])
def test_a_weight_that_is_no_positive_number_is_refused(weight: str) -> None:
    with pytest.raises(RequestError, match="the weight of starry must be above 0"):
        parse_style(f"wave+starry:{weight}", NAMES)


def test_one_style_is_chosen_always() -> None:
    assert {str(choose(MIXES[:1], seed, "a.jpg", seed)) for seed in range(9)} == {"wave"}


def test_the_choice_is_the_same_on_any_day_and_machine() -> None:
    chosen = [str(choose(MIXES, 7, f"folder/{number}.jpg", 0)) for number in range(8)]
    scream_starry = ["scream", "starry"]
    assert chosen == ["wave", *scream_starry * 2, "starry", "scream", "scream"]


def test_styles_are_chosen_about_equally_often() -> None:
    counts = Counter(str(choose(MIXES, 0, f"{number}.jpg", 0)) for number in range(3000))
    assert set(counts) == set(NAMES)
    assert all(900 < count < 1100 for count in counts.values())


def test_another_seed_chooses_otherwise() -> None:
    ids = [f"{number}.jpg" for number in range(300)]
    same = sum(choose(MIXES, 0, row, 0) == choose(MIXES, 1, row, 0) for row in ids)
    assert 60 < same < 140


def test_successive_variants_take_successive_styles() -> None:
    for number in range(20):
        chosen = [choose(MIXES, 5, f"{number}.jpg", variant) for variant in range(6)]
        assert chosen[:3] == chosen[3:]
        first = MIXES.index(chosen[0])
        assert chosen[:3] == MIXES[first:] + MIXES[:first]


def test_ids_of_any_script_are_chosen_for() -> None:
    assert choose(MIXES, 0, "фото/☃.jpg", 0) in MIXES
