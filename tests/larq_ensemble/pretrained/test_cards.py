import copy
import re

from larq_ensemble import pretrained
from larq_ensemble.pretrained.cards import _built_on, markdown


def test_what_a_stage_builds_on_is_told_by_its_number() -> None:
    numbers = {"a": 1, "b": 2}
    taught = {"teacher": "a", "weight": 0.9, "temperature": 4.0}
    assert _built_on({"transfer": {}, "ensemble": {}}, numbers) == ""
    assert _built_on({"transfer": {**taught, "from_real": "a"}, "ensemble": {}}, numbers) == (
        "Starts from 1; learns from 1 (weight 0.9, temperature 4). "
    )
    members = {"backbone": "b", "keep_pretrained": True, "mirror": True}
    assert _built_on({"transfer": taught, "ensemble": members}, numbers) == (
        "Shares the filters of 2, which is member 0, untouched; every second member sees the image "
        "mirrored; learns from 1 (weight 0.9, temperature 4). "
    )
    both = {"backbone": "b", "keep_pretrained": 2}
    assert _built_on({"transfer": {}, "ensemble": both}, numbers) == (
        "Shares the filters of 2, which is members 0 and 1, untouched. "
    )
    assert _built_on({"transfer": {}, "ensemble": {"backbone": "a"}}, numbers) == (
        "Shares the filters of 1. "
    )
    nested = {"backbone": "a", "prefix_weights": [1.0, 16.0]}
    assert _built_on({"transfer": {}, "ensemble": nested}, numbers) == (
        "Shares the filters of 1; prefix weights 1, 16. "
    )


def test_bytes_by_members_and_the_commands_that_cut() -> None:
    card = copy.deepcopy(pretrained.shipped("cifar100-deploynet8-w0.75-nested4").card)
    card["files"]["tflite"]["cut"] = {"bytes": [1001, 1002, 1003, 1004], "date": "2001-02-03"}
    page = markdown(card)
    rows = re.findall(r"^\| ([1-4]) \| ([\d,]+) \|", page, re.MULTILINE)
    assert rows == [("1", "1,001"), ("2", "1,002"), ("3", "1,003"), ("4", "1,004")]
    assert "(measured on 2001-02-03)" in page
    assert f"    larq-ensemble convert {card['name']} --members 2 --out two.tflite\n" in page
    assert "--members" not in markdown(pretrained.shipped("cifar100-resnet20").card)
