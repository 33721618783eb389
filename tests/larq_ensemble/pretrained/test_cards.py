from larq_ensemble.pretrained.cards import _built_on


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
