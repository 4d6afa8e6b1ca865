"""A failing assert is told in moments, whatever it compares."""

import pytest


@pytest.mark.parametrize("kind", [list, dict])
def test_big_values_that_differ_are_told_by_their_first_difference(kind, request, monkeypatch):
    """Lines, not seconds: all that differs, `difflib.ndiff` of it, would be hundreds of lines, and with more rows
    minutes."""
    monkeypatch.setenv("CI", "true")
    rows = [{"example_id": str(n), "weak_probs": [[n / 7, 1 - n / 7]]} for n in range(100)]
    other = [row | {"weak_probs": [[n / 9, 1 - n / 9]]} for n, row in enumerate(rows)]
    if kind is dict:
        rows, other = ({name: [row[name] for row in part] for name in part[0]} for part in (rows, other))
    with pytest.raises(AssertionError) as found:
        assert rows == other
    told = str(found.value).splitlines()
    assert "At index 1 diff" in str(found.value) or "Differing items" in str(found.value)
    assert len(told) < 20 or request.config.get_verbosity() > 1
