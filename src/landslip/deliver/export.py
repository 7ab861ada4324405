"""An inventory handed over, in a form and a schema that others ask for: the verb `export`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from landslip import __version__
from landslip.deliver import cems, coolr
from landslip.deliver.forms import SUFFIXES, require_form, write_file, write_folder
from landslip.deliver.reading import Deliverable, read_deliverable
from landslip.deliver.schemas import SCHEMAS
from landslip.geo.errors import DataError, UsageError
from landslip.geo.output import refuse_existing, whole_file, whole_folder
from landslip.inventory.event import Event, read_event

RECORD_FILE = "delivery.json"
"""Marks folders of deliveries, and says what they hold."""


@dataclass(frozen=True)
class Exported:
    """What was delivered."""

    out: Path
    files: tuple[Path, ...]
    """All that were written; one, or those of the folder `out`."""
    landslides: int
    rejected: int
    """Landslides that were left out, because a review rejected them."""
    notes: tuple[str, ...]
    """What people should know before they send it."""

    @property
    def text(self) -> str:
        """The result in words."""
        left = f", {self.rejected} rejected ones left out" if self.rejected else ""
        return f"{self.landslides} landslides{left}: {self.out}"


def export_inventory(
    inventory: str | Path,
    out: str | Path,
    *,
    form: str,
    schema: str | None = None,
    event: Event | str | Path | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write an inventory for others; landslides that a review rejected are left out.

    Args:
        inventory: Folder of a map, or its GeoPackage; it is only read.
        out: File, or folder for shapefiles and schemas; it appears whole or not at all.
        form: gpkg, geojson, parquet, kml or shp.
        schema: cems (Copernicus EMS Rapid Mapping) or coolr (NASA), in the form gpkg, geojson or
            shp; None: the columns that there are.
        event: What schemas need to know besides, or the event.toml that tells it; without a
            schema, it becomes columns.
        overwrite: Replace an older delivery.

    Raises:
        UsageError: No such form or schema, or `out` does not fit it.
        DataError: Mandatory fields of a schema are missing; all are named, nothing is written.
        InventoryError: The inventory cannot be read or placed.
        OutputError: `out` exists, or cannot be written.
        MissingExtraError: GeoParquet without pyarrow.
    """
    out = Path(out)
    _require_known("form", form, tuple(SUFFIXES))
    if schema is None:
        require_form(form, out)
    else:
        _require_known("schema", schema, SCHEMAS)
        _require_folder(form, schema, out)
    marker = RECORD_FILE if schema is not None or form == "shp" else None
    refuse_existing(out, overwrite=overwrite, marker=marker)
    told = read_event(event) if isinstance(event, str | Path) else event
    source = read_deliverable(inventory)
    if out.exists() and out.samefile(source.path):
        raise UsageError(
            f"Cannot write {out}: it is the inventory that is to be delivered. Name another output."
        )
    if schema is None:
        return _plain(source, out, form, told, overwrite)
    if told is None:
        raise UsageError(
            f"Cannot write the schema {schema}: it needs to know of the event. Name an event.toml."
        )
    return _in_schema(source, out, form, schema, told, overwrite)


def _plain(
    source: Deliverable, out: Path, form: str, event: Event | None, overwrite: bool
) -> Exported:
    if event is not None:
        for name, text in event.columns().items():
            source.landslides[name] = text
    if form == "shp":
        with whole_folder(out, RECORD_FILE, overwrite=overwrite) as folder:
            notes = write_folder(source, folder)
            _write_record(folder, source, form, None, notes)
        return _exported(source, out, notes)
    with whole_file(out, overwrite=overwrite) as partial:
        notes = write_file(form, source, partial)
    return _exported(source, out, notes)


def _in_schema(
    source: Deliverable, out: Path, form: str, schema: str, event: Event, overwrite: bool
) -> Exported:
    if schema == "cems":
        package = cems.build_package(source, event)
        missing = package.missing
    else:
        polygons, missing = coolr.build_catalogue(source, event)
    if missing:
        raise DataError(
            f"Cannot deliver {source.path} as {schema}: {len(missing)} mandatory fields are "
            f"missing: {'; '.join(missing)}. Add what gives them."
        )
    with whole_folder(out, RECORD_FILE, overwrite=overwrite) as folder:
        if schema == "cems":
            notes = cems.write_package(package, event, form, folder)
        else:
            notes = coolr.write_catalogue(polygons, form, folder)
        _write_record(folder, source, form, schema, notes)
    return _exported(source, out, notes)


def _write_record(
    folder: Path, source: Deliverable, form: str, schema: str | None, notes: list[str]
) -> None:
    record = {
        "landslip": __version__,
        "inventory": source.path.name,
        "form": form,
        "schema": schema,
        "landslides": len(source.landslides),
        "rejected": source.rejected,
        "notes": [*source.notes, *notes],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / RECORD_FILE).write_text(text, encoding="utf-8")


def _exported(source: Deliverable, out: Path, notes: list[str]) -> Exported:
    files = tuple(sorted(out.iterdir())) if out.is_dir() else (out,)
    return Exported(out, files, len(source.landslides), source.rejected, (*source.notes, *notes))


def _require_known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise UsageError(
            f"Cannot write the {what} '{name}': expected {', '.join(known)}. "
            f"Name {near[0] if near else 'one of them'}."
        )


def _require_folder(form: str, schema: str, out: Path) -> None:
    forms = cems.FORMS if schema == "cems" else coolr.FORMS
    if form not in forms:
        raise UsageError(
            f"Cannot write the schema {schema} as {form}: it comes as {', '.join(forms)}. "
            "Name one of them."
        )
    if out.suffix.lower() in {
        ending for endings in SUFFIXES.values() for ending in endings if ending
    }:
        raise UsageError(
            f"Cannot write the schema {schema} into {out}: it is several files. Name a folder."
        )
