from __future__ import annotations

import landslip


def test_all_is_sorted_complete_and_loads() -> None:
    assert landslip.__all__ == sorted(landslip.__all__)
    assert set(landslip.__all__) == set(landslip._HOME)
    for name in landslip.__all__:
        item = getattr(landslip, name)
        assert item.__doc__, f"{name} has no docstring"
        assert item.__module__ == f"landslip.{landslip._HOME[name]}"


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(landslip, "train")
