"""How a training and the process of a candidate tell each other arrays: folders of `.npy` files, JSON lines between."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from models.interactions import Catalogue, Histories, Interactions, LiveCounts, Shown

Value = Interactions | Histories | LiveCounts


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    folder.mkdir()
    for name in ("ids", "titles", "genres"):
        np.save(folder / f"{name}.npy", getattr(catalogue, name), allow_pickle=False)
    (folder / "plain.json").write_text(json.dumps(catalogue.genre_names))


def read_catalogue(folder: Path) -> Catalogue:
    ids, titles, genres = (_read_only(folder / f"{name}.npy") for name in ("ids", "titles", "genres"))
    return Catalogue(ids, titles, genres, tuple(json.loads((folder / "plain.json").read_text())))


def write(folder: Path, value: Value, catalogue: Path) -> None:
    """Write one value, whose catalogue lies in another folder. What the arrays are views of stays behind."""
    folder.mkdir()
    plain: dict[str, Any] = {"catalogue": str(catalogue)}
    for name, part in _parts(value).items():
        if isinstance(part, Shown):
            for column in fields(part):
                np.save(folder / f"{name}.{column.name}.npy", getattr(part, column.name), allow_pickle=False)
        elif isinstance(part, np.ndarray):
            np.save(folder / f"{name}.npy", part, allow_pickle=False)
        else:
            plain[name] = list(part) if isinstance(part, list | tuple) else part
    (folder / "plain.json").write_text(json.dumps(plain))


def read(folder: Path, kind: type[Value], catalogues: dict[str, Catalogue]) -> Any:
    """Read one value back. Its arrays are read-only: a model that alters what it is given fails where it does so."""
    plain = json.loads((folder / "plain.json").read_text())
    place = plain.pop("catalogue")
    if place not in catalogues:
        catalogues[place] = read_catalogue(Path(place))
    if kind is LiveCounts:
        plain["half_lives_days"] = tuple(plain["half_lives_days"])
    parts: dict[str, Any] = {file.stem: _read_only(file) for file in folder.glob("*.npy")}
    if slates := {name: parts.pop(name) for name in list(parts) if "." in name}:
        parts["shown"] = Shown(**{name.partition(".")[2]: part for name, part in slates.items()})
    return kind(**parts, **plain, catalogue=catalogues[place])


def _parts(value: Value) -> dict[str, Any]:
    return {
        field.name: getattr(value, field.name) for field in fields(value) if field.name not in ("catalogue", "unrated")
    }


def _read_only(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    array.flags.writeable = False
    return array
