import operator
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from landslip.geo.errors import DataError, LandslipError, UsageError
from landslip.inventory.rules import Rule, flags, parse_rules, read_rules, require_columns


def rule(text: str) -> Rule:
    (only,) = parse_rules(f"{text} -> flag", "rules.txt")
    return only


def fires(condition: str, **columns: Any) -> list[bool]:
    found: list[bool] = rule(condition).fires(pd.DataFrame(columns)).tolist()
    return found


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as error:
        parse_rules(text, "rules.txt")
    return str(error.value)


# Against a slow evaluator, row by row

Tree = tuple[Any, ...]
Row = dict[str, Any]

SIGNS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
numbers = st.integers(-3, 3).map(float) | st.sampled_from([0.5, -2.25, 1e3])
texts = st.sampled_from(["", "a", "b", "B", "a#b", "x -> y", "Straße"])
dates = st.sampled_from([datetime(2024, 1, 2), datetime(2023, 12, 31, 12, 30)])
COLUMNS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "number": {"slope": numbers, "area_m2": numbers, "count": st.integers(-3, 3)},
    "text": {"name": texts, "class_": texts, "größe": texts},
    "boolean": {"crosses_road": st.booleans(), "split": st.booleans()},
    "date": {"seen": dates, "event": dates},
}
DTYPES = {"count": "Int64", "split": "boolean", "class_": "category", "seen": "datetime64[ns]"}
LITERALS = {
    "number": numbers.map(lambda value: ("literal", value, repr(value))),
    "text": texts.map(lambda value: ("literal", value, f"'{value}'")),
    "boolean": st.booleans().map(lambda value: ("literal", value, str(value).lower())),
    "date": dates.map(lambda value: ("literal", value, f'"{value.isoformat()}"')),
}
names = {kind: st.sampled_from(sorted(own)) for kind, own in COLUMNS.items()}


@st.composite
def comparisons(draw: st.DrawFn) -> Tree:
    kind = draw(st.sampled_from(sorted(COLUMNS)))
    column = ("column", draw(names[kind] | st.just("empty")))
    other = draw(LITERALS[kind] | names[kind].map(lambda name: ("column", name)))
    pair = draw(st.permutations([column, other]))
    return ("compare", pair[0], draw(st.sampled_from(sorted(SIGNS))), pair[1])


alone = names["boolean"].map(lambda name: ("column", name))
trees = st.recursive(
    st.one_of(comparisons(), alone, LITERALS["boolean"]),
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)
rows = st.lists(
    st.fixed_dictionaries(
        {name: st.none() | own for kind in COLUMNS.values() for name, own in kind.items()}
    ),
    max_size=5,
)
TIGHTNESS = {"or": 1, "and": 2, "not": 3}


def written(tree: Tree, around: int = 0) -> str:
    """A tree as text, with parentheses only where they are needed."""
    if tree[0] == "column":
        return str(tree[1])
    if tree[0] == "literal":
        return str(tree[2])
    if tree[0] == "compare":
        return f"{written(tree[1])}{tree[2]}{written(tree[3])}"
    own = TIGHTNESS[tree[0]]
    text = (
        f"not {written(tree[1], own)}"
        if tree[0] == "not"
        # One within another of the same kind keeps its parentheses: they must do no harm.
        else f" {tree[0]} ".join(written(part, own + 1) for part in tree[1])
    )
    return f"({text})" if own < around else text


def truth(tree: Tree, row: Row) -> Any:
    """Value of a tree in one row; None is unknown."""
    if tree[0] == "column":
        return row.get(tree[1])
    if tree[0] == "literal":
        return tree[1]
    if tree[0] == "compare":
        left, right = truth(tree[1], row), truth(tree[3], row)
        return None if left is None or right is None else SIGNS[tree[2]](left, right)
    if tree[0] == "not":
        inner = truth(tree[1], row)
        return None if inner is None else not inner
    parts = [truth(part, row) for part in tree[1]]
    decided = tree[0] == "or"
    if decided in parts:
        return decided
    return None if None in parts else not decided


def frame_of(found: list[Row]) -> pd.DataFrame:
    kinds = [name for own in COLUMNS.values() for name in own]
    frame = pd.DataFrame(
        {
            name: pd.Series([row[name] for row in found], dtype=DTYPES.get(name, object))
            for name in kinds
        }
    )
    frame["slope"] = frame["slope"].astype(float)
    return frame.assign(empty=pd.Series([None] * len(found), dtype=object))


@given(tree=trees, found=rows)
def test_against_row_by_row(tree: Tree, found: list[Row]) -> None:
    text = written(tree)
    expected = [truth(tree, row) is True for row in found]
    assert rule(text).fires(frame_of(found)).tolist() == expected
    opposite = [truth(tree, row) is False for row in found]
    assert rule(f"not ({text})").fires(frame_of(found)).tolist() == opposite


@given(tree=trees)
def test_columns_are_those_in_it(tree: Tree) -> None:
    def named(tree: Tree) -> list[str]:
        if tree[0] == "column":
            return [tree[1]]
        inner = {"literal": (), "compare": (tree[1], tree[-1]), "not": tree[1:]}.get(tree[0])
        return [name for part in (tree[1] if inner is None else inner) for name in named(part)]

    assert rule(written(tree)).columns == tuple(dict.fromkeys(named(tree)))


# The language


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_bytes(
        "\ufeff# What is flat is no landslide.\r\n"
        "\r\n"
        "  slope < 5 and area_m2 < 500 -> likely_not_landslide  # small, too\r\n"
        "\tname == 'a # b' -> 2nd-look\r\n".encode()
    )
    flat, named = read_rules(path)
    assert flat.flag == "likely_not_landslide"
    assert flat.text == "slope < 5 and area_m2 < 500 -> likely_not_landslide"
    assert flat.columns == ("slope", "area_m2")
    assert (named.flag, named.place) == ("2nd-look", f"line 4 of {path}")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a < 2", [True, False, False]),
        ("2 > a", [True, False, False]),
        ("a<=2", [True, True, False]),
        ("a != 2.0", [True, False, True]),
        ("a > -1.5e0", [True, True, True]),
        ("a > +.5", [True, True, True]),
        ("a < 1e1 and not a == 2", [True, False, True]),
        ("NOT a == 2 AND True", [True, False, True]),
        ("not not a == 2", [False, True, False]),
        ("a == 1 or a == 2 and a == 3", [True, False, False]),
        ("(a == 1 or a == 2) and a < 3", [True, True, False]),
        ("not (a == 1 or a == 2)", [False, False, True]),
        ("true", [True, True, True]),
        ("false or a == 1", [True, False, False]),
    ],
)
def test_conditions(condition: str, expected: list[bool]) -> None:
    assert fires(condition, a=[1, 2, 3]) == expected


def test_what_is_missing_is_unknown() -> None:
    slope = [1.0, np.nan, 9.0]
    assert fires("slope < 5", slope=slope) == [True, False, False]
    assert fires("not slope < 5", slope=slope) == [False, False, True]
    assert fires("slope == slope", slope=slope) == [True, False, True]
    assert fires("slope < 5 or true", slope=slope) == [True, True, True]
    assert fires("not (slope < 5 and false)", slope=slope) == [True, True, True]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([True, False, None], dtype=object),
        pd.Series([True, False, None], dtype="boolean"),
    ],
)
def test_columns_of_true_and_false(column: Any) -> None:
    assert fires("crosses_road", crosses_road=column) == [True, False, False]
    assert fires("not crosses_road", crosses_road=column) == [False, True, False]
    assert fires("crosses_road == false", crosses_road=column) == [False, True, False]


def test_dates() -> None:
    naive = pd.to_datetime(["2024-01-01", "2024-06-01T12:00", None], format="ISO8601")
    for column in (naive, naive.tz_localize("UTC"), list(naive.date)):
        assert fires("seen >= '2024-03-01'", seen=column) == [False, True, False]
    assert fires("'2024-06-01T14:00+02:00' == seen", seen=naive) == [False, True, False]
    with pytest.raises(UsageError, match="'June' is no date and is compared with dates"):
        fires("seen > 'June'", seen=naive)


def test_flags_in_the_order_of_the_file() -> None:
    text = "a > 2 -> large\na < 9 -> odd\na == 1 -> large\na == 5 -> odd\n"
    rules = parse_rules(text, "rules.txt")
    found = flags(pd.DataFrame({"a": [1.0, 2.0, 5.0, 9.0, np.nan]}), rules)
    assert found.tolist() == ["large, odd", "odd", "large, odd", "large", ""]
    assert found.dtype == object


def test_flags_of_a_frame_with_another_index() -> None:
    frame = gpd.GeoDataFrame(
        {"a": [1, 2, 3]}, geometry=[shapely.box(0, 0, 1, 1)] * 3, index=[7, 7, 2]
    )
    assert flags(frame, parse_rules("a >= 2 -> x", "rules.txt")).tolist() == ["", "x", "x"]
    assert flags(frame[:0], parse_rules("a >= 2 -> x", "rules.txt")).tolist() == []


# What cannot be read


@pytest.mark.parametrize(
    ("line", "at", "message"),
    [
        (
            "slope_mean_deg < -> flat",
            18,
            "expected a number, a quoted text or a column after '<', found '->'. Correct it:",
        ),
        ("a < 5", 6, "expected 'and', 'or' or '->' after '5', found the end of the line."),
        ("a < 5m -> x", 6, "expected 'and', 'or' or '->' after '5', found 'm'."),
        ("a = 5 -> x", 3, "expected 'and', 'or' or '->' after 'a', found '='. Write == instead:"),
        ("a < 5 & b -> x", 7, "found '&'. Write and instead:"),
        ("a == “b” -> x", 6, "found '“'. Write \" instead:"),
        ("a == 'b -> x", 6, "found '''. End the quoted text with ':"),
        ("-> x", 1, "expected a condition, found '->'."),
        ("a < 5 and -> x", 11, "expected a condition after 'and', found '->'."),
        ("(a < 5 -> x", 8, "expected 'and', 'or' or ')' after '5', found '->'."),
        ("a < 5) -> x", 6, "expected 'and', 'or' or '->' after '5', found ')'."),
        ("5 -> x", 3, "expected a comparison after '5', found '->'."),
        ("1 < 2 -> x", 1, "no column is compared. Name one:"),
        ("1 < a < 3 -> x", 7, "comparisons cannot be chained. Write 1 < a and a < ...:"),
        ("a == not b -> x", 6, "expected a number, a quoted text or a column after '=='"),
        ("a - 5 < 3 -> x", 3, "expected 'and', 'or' or '->' after 'a', found '-'."),
        ("a ->  # nothing", 7, "expected the name of a flag (letters, digits, _ and -) after '->'"),
        ("a -> -x", 6, "expected the name of a flag"),
        ("a -> 'x'", 6, "expected the name of a flag"),
        ("a -> x y", 8, "expected the end of the line after 'x', found 'y'."),
        ("a -> x, y", 7, "expected the end of the line after 'x', found ','."),
        ("a < 5 -> x -> y", 12, "expected the end of the line after 'x', found '->'."),
    ],
)
def test_what_cannot_be_read(line: str, at: int, message: str) -> None:
    found = refusal(f"\n# a comment\n{line}\n")
    assert found.startswith(f"Cannot read line 3 of rules.txt, at character {at}: ")
    assert message in found
    shown, caret = found.splitlines()[1:]
    assert shown == f"  {line}".rstrip()
    assert caret == " " * (at + 1) + "^"


def test_the_caret_stands_below_the_character_behind_tabs() -> None:
    assert refusal("\ta\t< -> x").splitlines()[1:] == ["  \ta\t< -> x", "  \t \t  ^"]


def test_parentheses_have_an_end() -> None:
    assert "more than 50 parentheses" in refusal("(" * 2000 + "a" + ")" * 2000 + " -> x")
    assert fires("(" * 50 + "a" + ")" * 50, a=[True]) == [True]
    assert fires("not " * 2001 + "a", a=[True]) == [False]
    assert fires("a or " * 2000 + "a", a=[True]) == [True]


@given(
    st.lists(
        st.sampled_from(
            [
                *SIGNS,
                "and",
                "or",
                "not",
                "(",
                ")",
                "->",
                "a",
                "5",
                "'t'",
                "true",
                "#",
                "=",
                '"',
                "-",
            ]
        )
        | st.text(max_size=3),
        max_size=12,
    ).map(" ".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        rules = parse_rules(text, "rules.txt")
    except UsageError as error:
        assert re.match("Cannot (read line|use rules.txt)", str(error))
    else:
        again = parse_rules("\n".join(each.text for each in rules), "rules.txt")
        assert [each.condition for each in again] == [each.condition for each in rules]
        assert all(re.fullmatch(r"\w[\w-]*", each.flag) for each in rules)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment"])
def test_no_rule(text: str) -> None:
    assert refusal(text).startswith("Cannot use rules.txt: it holds no rule. Write one a line, as:")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rules .*none.txt: there is no such file. Check its name"):
        read_rules(tmp_path / "none.txt")
    with pytest.raises(DataError, match="Cannot open rules"):
        read_rules(tmp_path)
    path = tmp_path / "latin.txt"
    path.write_bytes("größe < 5 -> x".encode("latin-1"))
    with pytest.raises(DataError, match="not text in UTF-8"):
        read_rules(path)


# What cannot be applied


def test_unknown_columns() -> None:
    rules = parse_rules("area_m2 < 5 -> x\nslope_deg < 5 -> x", "rules.txt")
    names = ["area_m2", "slope_mean_deg", "slope_max_deg"]
    message = re.escape(
        "Cannot apply line 2 of rules.txt (slope_deg < 5 -> x): the inventory has no column "
        "slope_deg. Name one that it has: slope_max_deg, slope_mean_deg."
    )
    with pytest.raises(UsageError, match=message):
        require_columns(rules, names)
    with pytest.raises(UsageError, match=message):
        flags(pd.DataFrame({name: [1.0] for name in names}), rules)
    with pytest.raises(UsageError, match=r"Name one that it has: area_m2, lon\."):
        require_columns(rules, ["lon", "area_m2"])
    require_columns(rules[:1], names)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("slope < 'steep'", r"slope (numbers) is compared with 'steep' (text). Compare like"),
        ("5 == name", r"5 (numbers) is compared with name (text)."),
        ("name == slope", r"name (text) is compared with slope (numbers)."),
        ("road == 1", r"road (true or false) is compared with 1 (numbers)."),
        ("slope", r"slope (numbers) stands alone, where only true or false can."),
        ("not name", r"name (text) stands alone"),
        ("geometry == 'x'", r"geometry holds neither numbers, text, dates nor true or false."),
        ("mixed == 'x'", r"mixed holds neither"),
    ],
)
def test_what_cannot_be_compared(condition: str, message: str) -> None:
    columns = {"slope": [1.0], "name": ["a"], "road": [True], "mixed": [1]}
    frame = gpd.GeoDataFrame(columns, geometry=[shapely.box(0, 0, 1, 1)])
    frame = pd.concat([frame, frame.assign(mixed="a")], ignore_index=True)
    with pytest.raises(LandslipError) as error:
        rule(condition).fires(frame)
    assert str(error.value).startswith(f"Cannot apply line 1 of rules.txt ({condition} -> flag): ")
    assert message in str(error.value)
