"""The page that an evaluation ends in: made from `scores.json` and the pictures beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from landslip.assess.evaluation import (
    number_text,
    score_text,
    share_text,
    threshold_text,
)
from landslip.assess.report import Section, write_report
from landslip.geo.errors import DataError

SCORES_FILE = "scores.json"
REPORT_FILE = "report.html"
NAMES = {"precision": "Precision", "recall": "Recall", "f1": "F1", "iou": "IoU"}
"""Of scores, for people."""
Scores = dict[str, Any]


def write_evaluation_report(folder: Path, *, overwrite: bool = True) -> Path:
    """Write `report.html` from what lies in the folder of an evaluation.

    Args:
        folder: What `evaluate` wrote.
        overwrite: Replace an older page.

    Returns:
        The page.

    Raises:
        DataError: The folder holds no scores of this version of landslip.
        OutputError: The page exists, or cannot be written.
    """
    try:
        record: Scores = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        sections = _sections(folder, record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Cannot make a report of {folder}: it holds no {SCORES_FILE} that this version of "
            "landslip wrote. Evaluate again."
        ) from error
    maps = record["predictions"]
    names = ", ".join(scores["name"] for scores in maps)
    if names == "probability":  # as all maps of landslip are called; their folder tells more
        names = "/".join(Path(maps[0]["path"]).parts[-2:])
    page = folder / REPORT_FILE
    write_report(page, f"Landslides mapped and checked: {names}", sections, overwrite=overwrite)
    return page


def _sections(folder: Path, record: Scores) -> list[Section]:
    maps: list[Scores] = record["predictions"]
    ground = record["ground"]
    sections = [
        Section(
            heading="Result",
            paragraphs=[
                f"{number_text(ground['km2'])} km² were scored, {ground['landslide_share']:.2%} of "
                f"them landslide, against {Path(record['reference']).name}. "
                "Scores of the landslide class, pooled over pixels.",
                _blocks_text(maps, are_tiles=record.get("tiles", False)),
            ],
            table=_pixel_table(maps),
        ),
        *[
            section
            for scores in maps
            for section in _map_sections(
                folder,
                scores,
                f"{scores['name']}: " if len(maps) > 1 else "",
                are_tiles=record.get("tiles", False),
            )
        ],
        Section(
            heading="Landslide by landslide",
            paragraphs=[
                "A landslide counts as found from half of its pixels. Pixel scores hardly see "
                "small ones.",
            ],
            table=_object_table(maps),
        ),
        Section(
            heading="Merged and split",
            paragraphs=[
                "Landslides of the reference that lie with others in one mapped landslide, and "
                "those that are mapped as several, by their size.",
            ],
            table=_merged_table(maps),
        ),
        Section(
            heading="Outlines and areas",
            paragraphs=[
                "Boundary F1: outlines that agree within 2 and 4 pixels. Mapping error: what only "
                "one of the two inventories holds, as a share of what both hold together.",
            ],
            table=_outline_table(maps),
        ),
    ]
    if len(maps) > 1 and record.get("differences"):
        sections.append(_difference_section(record["differences"]))
        sections += _difference_pictures(folder, record["differences"])
    sections.append(
        Section(heading="What the figures do not say", paragraphs=_limits(record)),
    )
    return sections


def _blocks_text(maps: list[Scores], *, are_tiles: bool) -> str:
    blocks = maps[0]["blocks"]
    if blocks["why_no_interval"]:
        return str(blocks["why_no_interval"])
    what = "tiles" if are_tiles else "blocks"
    side = "" if are_tiles else f" of {number_text(blocks['side_m'])} m"
    medians = "; ".join(
        (f"{each['name']} " if len(maps) > 1 else "")
        + f"F1 {score(each['blocks']['medians']['f1'])}, "
        + f"recall {score(each['blocks']['medians']['recall'])}"
        for each in maps
    )
    return (
        f"Intervals hold 95 % of the draws of {blocks['drawn_from']} {what}{side} with landslides "
        "or false alarms: on ground of the same kind the score would lie there. Median over the "
        f"{blocks['with_landslides']} {what} with landslides: {medians}."
    )


def _pixel_table(maps: list[Scores]) -> list[list[str]]:
    head = ["Map", "Precision", "Recall", "F1", "IoU", "Commission", "Omission", "MCC", "Threshold"]
    rows = [head]
    for each in maps:
        pixels = each["pixels"]
        rows.append(
            [
                each["name"],
                *(_with_interval(pixels, name) for name in ("precision", "recall", "f1", "iou")),
                *(score(pixels[name]) for name in ("commission", "omission", "mcc")),
                threshold_text(each["threshold"]),
            ]
        )
    return rows


def _with_interval(pixels: Scores, name: str) -> str:
    between = pixels["intervals"][name]
    shown = score(pixels[name])
    return shown if between is None else f"{shown}\n{between[0]:.2f}–{between[1]:.2f}"


def _map_sections(folder: Path, scores: Scores, before: str, *, are_tiles: bool) -> list[Section]:
    """What is told of one map; `before` stands before its headings."""
    name = scores["name"]
    sections = []
    origin = scores.get("map")
    quicklook = folder / f"{name}_quicklook.png"
    if origin or quicklook.exists():
        sections.append(
            Section(
                heading=_heading(before, "what was mapped"),
                paragraphs=_origin_texts(origin or {}),
                picture=quicklook if quicklook.exists() else None,
            )
        )
    what = "tiles" if are_tiles else "blocks"
    apart = " Tiles stand in the order of their set, not as they lie on the ground."
    pictures = (
        (
            "errors", "right and wrong",
            f"Yellow: found. Red: missed. Blue: false alarm.{apart if are_tiles else ''}",
        ),
        (
            "worst", f"the worst {what}",
            f"The {what} with most wrong pixels, the worst first."
            + (" Counted from the top left above." if are_tiles else " White: not scored."),
        ),
        ("sizes", "by size", ""),
        ("pr", "thresholds", "Precision against recall at every threshold."),
        (
            "reliability", "can its scores be believed as probabilities",
            "Where the line lies below the diagonal, the map promises too much.",
        ),
    )  # fmt: skip
    for ending, heading, caption in pictures:
        picture = folder / f"{name}_{ending}.png"
        if picture.exists():
            shown = _heading(before, heading)
            sections.append(Section(heading=shown, picture=picture, caption=caption))
    return sections


def _heading(before: str, text: str) -> str:
    return f"{before}{text}" if before else f"{text[0].upper()}{text[1:]}"


def _origin_texts(origin: Scores) -> list[str]:
    texts = []
    if origin.get("models"):
        texts.append(
            f"Mapped by {', '.join(origin['models'])} from {', '.join(origin['scenes'])}, begun "
            f"{_time_text(origin.get('begun'))}."
        )
    unseen = origin.get("not_observed_km2") or {}
    if unseen:
        listed = ", ".join(f"{reason} {number_text(km2)} km²" for reason, km2 in unseen.items())
        texts.append(f"What was not mapped: {listed}.")
    elif origin:
        texts.append("All ground of the scene was seen.")
    return texts


def _time_text(begun: str | None) -> str:
    """A time as `run.json` holds it, to the minute."""
    if not begun:
        return "at an unknown time"
    date, _, clock = begun.partition("T")
    return f"{date}, {clock[:5]} UTC" if clock else begun


def _object_table(maps: list[Scores]) -> list[list[str]]:
    sizes = maps[0]["objects"]["detection"]["0.5"]["by_size"]
    rows = [["Size", "Landslides", *(f"{each['name']}: found" for each in maps)]]
    for size, counts in sizes.items():
        found = [each["objects"]["detection"]["0.5"]["by_size"][size] for each in maps]
        rows.append([size, f"{counts['reference']:,}", *(share(one["recall"]) for one in found)])
    every = [each["objects"]["detection"]["0.5"] for each in maps]
    rows.append(
        ["all", f"{every[0]['all']['reference']:,}", *(share(e["all"]["recall"]) for e in every)]
    )
    hints = [each["objects"]["detection"]["0.1"]["all"]["recall"] for each in maps]
    rows.append(["found from a tenth of their pixels", "", *map(share, hints)])
    alarms = [each["all"]["false_alarms_per_km2"] for each in every]
    rows.append(["false alarms a km²", "", *map(number, alarms)])
    rows.append(["half are found from (m²)", "", *(number(e["half_found_m2"]) for e in every)])
    for iou in ("0.25", "0.5"):
        paired = [each["objects"]["one_to_one"][iou]["f1"] for each in maps]
        rows.append([f"F1 of pairs with an IoU from {iou}", "", *map(score, paired)])
    return rows


def _merged_table(maps: list[Scores]) -> list[list[str]]:
    every = [each["objects"] for each in maps]
    rows = [["Size", "Landslides", *(each["name"] for each in maps)]]
    for size, counts in every[0]["detection"]["0.5"]["by_size"].items():
        found = [(one["merged_by_size"][size], one["split_by_size"][size]) for one in every]
        rows.append(
            [
                size,
                f"{counts['reference']:,}",
                *(f"{merged:,} merged, {split:,} split" for merged, split in found),
            ]
        )
    merges = [f"{one['merges']:,}" for one in every]
    rows.append(["mapped landslides that hold several", "", *merges])
    return rows


def _outline_table(maps: list[Scores]) -> list[list[str]]:
    rows = [["", *(each["name"] for each in maps)]]
    for distance in maps[0]["boundary"]:
        found = [score(each["boundary"][distance]["f1"]) for each in maps]
        rows.append([f"Boundary F1 within {distance.replace('_', ' ')}", *found])
    errors = [each["inventory"] for each in maps]
    rows.append(["Mapping error", *(score(each["mapping_error"]) for each in errors)])
    rows.append(
        [
            "Total area, against the reference",
            *(
                "–" if e["total_area_error"] is None else f"{e['total_area_error']:+.1%}"
                for e in errors
            ),
        ]
    )
    return rows


def _difference_section(differences: list[Scores]) -> Section:
    rows = [["Second against first", "Score", "Difference", "95 % interval", "p"]]
    for each in differences:
        for name, told in each["scores"].items():
            between = told["interval"]
            rows.append(
                [
                    f"{each['second']} – {each['first']}",
                    NAMES[name],
                    "–" if told["difference"] is None else f"{told['difference']:+.3f}",
                    "–" if between is None else f"{between[0]:+.3f} to {between[1]:+.3f}",
                    "–" if told["p"] is None else f"{told['p']:.3g}",
                ]
            )
    return Section(
        heading="Which map is better",
        paragraphs=[
            "Differences on the same blocks. An interval that holds 0, or a p above .05, says that "
            "chance alone may make such a difference.",
        ],
        table=rows,
    )


def _difference_pictures(folder: Path, differences: list[Scores]) -> list[Section]:
    found = []
    for each in differences:
        picture = folder / f"{each['first']}_{each['second']}_difference.png"
        if picture.exists():
            found.append(
                Section(
                    heading=f"Where {each['first']} and {each['second']} differ", picture=picture
                )
            )
    return found


def _limits(record: Scores) -> list[str]:
    noise = record["reference_shifted_f1"]
    texts = [
        f"{record['ground']['landslide_share']:.2%} of the ground is landslide. Precision, F1 and "
        "IoU fall with this share, so they compare only with those of ground with as many.",
        "The reference is taken for the truth. Moved by a single pixel, it would itself reach F1 "
        f"{score(noise)}: what lies above that says nothing about the map.",
        "Ground that the model learnt from, and ground beside it, flatters. These figures hold for "
        "ground like this in an image like this; elsewhere the best threshold moves and scores "
        "fall.",
        "The numbers of the map are model scores. They are probabilities only where the model was "
        "calibrated, and only for ground like that.",
    ]
    if record.get("reference_reviewed"):
        texts.insert(
            2,
            "The reference holds polygons that were edited from a model's outlines. It agrees with "
            "that model more than a reference drawn by hand would.",
        )
    return texts


def score(value: float | None) -> str:
    """A score of a record for people."""
    return score_text(_known(value))


def share(value: float | None) -> str:
    """A share of a record for people."""
    return share_text(_known(value))


def number(value: float | None) -> str:
    """A number of a record for people."""
    return number_text(_known(value))


def _known(value: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if value is None else value
