from larq_ensemble.progress import listening, tracked, working


def test_nobody_listens_by_default():
    assert list(tracked(iter("ab"), "spelling", unit="letter")) == ["a", "b"]


def test_each_part_is_told_when_it_is_done():
    told = []

    def listen(work):
        told.append((work.what, work.done, work.total, work.ended))

    with listening(listen):
        parts = tracked([[1, 2], [3]], "counting", unit="number", total=3, size=len)
        assert next(parts) == [1, 2]
        assert told == [("counting", 0, 3, False)]
        assert list(parts) == [[3]]
    assert told[1:] == [
        ("counting", 2, 3, False),
        ("counting", 3, 3, False),
        ("counting", 3, 3, True),
    ]


def test_work_within_work_knows_what_it_is_part_of():
    outer_of = {}

    def listen(work):
        outer_of[work.what] = work.outer and work.outer.what

    with listening(listen):
        for _ in tracked(range(2), "outer", unit="part"):
            with working("inner", 1, unit="part") as inner:
                inner.advance(1)
    assert outer_of == {"outer": None, "inner": "outer"}
    # What comes after is part of nothing.
    with working("later", 1, unit="part") as later:
        assert later.outer is None


def test_work_that_is_left_early_has_ended():
    told: list[tuple[str, bool]] = []
    with listening(lambda work: told.append((work.what, work.ended))):
        for _ in tracked(range(5), "searching", unit="place"):
            break
        try:
            with working("failing", 1, unit="try"):
                raise KeyError
        except KeyError:
            pass
    assert told == [
        ("searching", False),
        ("searching", True),
        ("failing", False),
        ("failing", True),
    ]
