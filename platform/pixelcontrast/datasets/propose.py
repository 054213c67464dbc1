"""Write a ``dataset.toml`` for a folder of images and masks, from what lies there; a person then edits it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from shlex import quote
from typing import Any

from pixelcontrast.datasets.dataset_file import FILE_NAME, MAX_CLASSES, check_pattern
from pixelcontrast.datasets.files import IMAGE_ENDINGS
from pixelcontrast.datasets.folder import fixed_folder, matching
from pixelcontrast.datasets.labels import Color, voc_color
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.scan import MaskValues, scan_masks
from pixelcontrast.datasets.splits import TEST, TRAIN, VAL, find_lists, lacks_val, split_images
from pixelcontrast.words import count

_IMAGES = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos")
_MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "segmentations", "gt", "gtfine"),
    "segmentationclass",
)
_BESIDE = ("annot", "_labels", "_masks", "_label", "_mask", "_annotations", "_gt")
_CHUNK = 32


@dataclass
class Plan:
    """What a ``dataset.toml`` will say of the files."""

    images: str
    masks: str
    lists: str | None = None
    train: str = "train"
    val: str = "val"
    test: str | None = None
    """None: there is no such folder."""
    splits: dict[str, list[str]] = field(default_factory=dict)
    """Split → the names in the list to be written of it; empty where none is to be written."""
    notes: list[str] = field(default_factory=list)
    """What a person should know, one sentence each."""


def init(
    root: Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    processes: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Write ``dataset.toml`` and, where no pattern tells the splits, the lists ``train.txt`` and ``val.txt``.

    Every mask is read for the ids or colours that occur. Images in folders called val or test are listed
    there. Without val, one in ten of the others is for validation, by a hash of its name: more images do not
    change the split of those that are there.

    Args:
        root: the data set's folder.
        images: a folder or pattern, as in ``dataset.toml``; None: looked for under usual names.
        masks: likewise.
        processes: that read at the same time.
        on_progress: called with the masks read and their number.

    Returns:
        What a person should know, one sentence each.

    Raises:
        ValueError: there is a ``dataset.toml`` already, nothing is found, or the masks cannot be read or
            hold no classes.
    """
    path = root / FILE_NAME
    if path.exists():
        raise ValueError(f"{path}: is there already; edit it, or delete it to have it written anew")
    plan = find_files(root, images, masks)
    paths = sorted(set(_matching(root, plan, plan.masks, (".png",)).values()))
    values = MaskValues()
    chunks = (paths[first : first + _CHUNK] for first in range(0, len(paths), _CHUNK))
    for found in in_processes(scan_masks, chunks, processes=processes if len(paths) > 2 * _CHUNK else 1):
        values.add(found)
        if on_progress is not None:
            on_progress(values.num_masks, len(paths))
    classes = _classes(plan, values)
    for split, names in plan.splits.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    temporary = path.with_name(f".{FILE_NAME}.tmp")
    temporary.write_text(_head(plan, values) + classes, encoding="utf-8")
    temporary.replace(path)
    return tuple(plan.notes)


def find_files(root: Path, images: str | None, masks: str | None) -> Plan:
    """Where images, masks and splits are; nothing is written."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    if (images is None) != (masks is None):
        raise ValueError("images, masks: give both, or none to have them looked for")
    for key, pattern in (("images", images), ("masks", masks)):
        check_pattern(key, pattern or "")
    plan = next(_usual_places(root), None) if images is None or masks is None else _given(root, images, masks)
    if plan is None:
        raise ValueError(
            lacks_val(root)
            or f"{root}: no images and masks under usual names, such as images/train and masks/train, train "
            "and trainannot, images and masks; say where they are: --images 'photos/{split}' "
            "--masks 'gt/{split}/*.png'"
        )
    found = _matching(root, plan, plan.images, IMAGE_ENDINGS)
    labels = _matching(root, plan, plan.masks, (".png",))
    if any(labels.get(key) == path for key, path in found.items()):
        found = _told_from_masks(found, labels)
        labels = {key: path for key, path in labels.items() if key not in found}
        if not found:
            raise ValueError(
                f"{root}: images at {plan.images} and masks at {plan.masks} are the same files; tell them "
                "apart, as in --images 'photos/*_rgb.png' --masks 'photos/*_labels.png'"
            )
    if not found.keys() & labels.keys():
        plan.masks, labels = _with_suffix(root, plan, found, labels)
        plan.images = _without_masks(plan, found, labels)
    plan.notes += _unpaired(root, found, labels)
    if "{split}" not in plan.images:
        found_lists = find_lists(root)
        plan.lists = found_lists or "{split}.txt"
        if found_lists is None:
            plan.splits, notes = split_images(root, sorted(found.keys() & labels.keys()))
            plan.notes += notes
    return plan


def _given(root: Path, images: str, masks: str) -> Plan:
    """Patterns that a person gave, with the first usual names of the splits that folders there have."""
    patterns = [pattern for pattern in (images, masks) if "{split}" in pattern]
    for train, val in product(TRAIN, VAL):
        places = [pattern.replace("{split}", split) for pattern in patterns for split in (train, val)]
        if all(fixed_folder(root, place).is_dir() for place in places):
            tests = ((name, pattern.replace("{split}", name)) for pattern in patterns for name in TEST)
            test = next((name for name, place in tests if fixed_folder(root, place).is_dir()), None)
            return Plan(images, masks, train=train, val=val, test=test)
    return Plan(images, masks)


def _usual_places(root: Path) -> Iterator[Plan]:
    """Folders under usual names, in capitals too; those with splits first."""

    def folders(place: Path) -> dict[str, str]:
        visible = (entry.name for entry in sorted(place.iterdir()) if entry.is_dir() and entry.name[0] != ".")
        return {name.lower(): name for name in visible}

    top = folders(root)
    for train, val in product(TRAIN, VAL):
        if train in top and val in top:
            inner, names = folders(root / top[train]), _split_names(top, train, val)
            for image, mask in product(_IMAGES, _MASKS):
                if image in inner and mask in inner:
                    yield Plan(f"{{split}}/{inner[image]}", f"{{split}}/{inner[mask]}", **names)
            for beside in _BESIDE:
                if train + beside in top:
                    yield Plan("{split}", f"{{split}}{top[train + beside][len(train) :]}", **names)
    for image, mask in product(_IMAGES, _MASKS):
        if image in top and mask in top:
            inner = folders(root / top[image])
            for train, val in product(TRAIN, VAL):
                if train in inner and val in inner:
                    parts = f"{top[image]}/{{split}}", f"{top[mask]}/{{split}}"
                    yield Plan(*parts, **_split_names(inner, train, val))
            yield Plan(top[image], top[mask])


def _split_names(folders: Mapping[str, str], train: str, val: str) -> dict[str, Any]:
    """The splits' own names, of folders by their names in small letters."""
    test = next((folders[name] for name in TEST if name in folders), None)
    return {"train": folders[train], "val": folders[val], "test": test}


def _matching(root: Path, plan: Plan, pattern: str, endings: Sequence[str]) -> dict[str, Path]:
    """The files of both splits by key; with the split's name before it, where images are told apart by it."""
    files: dict[str, Path] = {}
    prefixes = (
        {f"{split}/": split for split in (plan.train, plan.val)} if "{split}" in plan.images else {"": ""}
    )
    for prefix, split in prefixes.items():
        place = pattern.replace("{split}", split)
        found = matching(root, place, endings, expected=place)
        files |= {f"{prefix}{key}": path for key, path in found.items()}
    if not files:
        allowed = " or ".join(endings)
        raise ValueError(f"{root}: no {allowed} files at {pattern}; convert pictures of other formats")
    return files


def _told_from_masks(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """The images where both lie in one folder, in which a mask is an image's file as well."""
    alone = {key: path for key, path in images.items() if masks.get(key) != path}
    # If images are PNGs, too, those whose name a mask's begins with: in order it comes next.
    begun = {key for key, following in pairwise(sorted(images)) if following.startswith(key)}
    return alone or {key: images[key] for key in images if key in begun}


def _with_suffix(
    root: Path, plan: Plan, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> tuple[str, dict[str, Path]]:
    """The masks' pattern where their names are the images' with something added, such as ``x_mask.png``."""
    names = sorted(images)[:50]
    rests = Counter(
        key[len(name) :] for name in names for key in masks if key.startswith(name) and key != name
    )
    # More than half: single masks may be missing, and are told as those without a suffix.
    fits = [rest for rest in rests if 2 * sum(f"{name}{rest}" in masks for name in names) > len(names)]
    patterns = [] if "*" in plan.masks else [f"{plan.masks}/**/*{rest}.png" for rest in fits]
    if len(patterns) == 1:
        return patterns[0], _matching(root, plan, patterns[0], (".png",))
    if patterns:
        raise ValueError(
            f"{root}: {' and '.join(patterns)} are all masks of the images at {plan.images}; choose one, as "
            f"in --images {quote(plan.images)} --masks {quote(patterns[0])}"
        )
    raise ValueError(
        f"{root}: no mask at {plan.masks} has the name of an image at {plan.images} (the first are "
        f"{next(iter(masks))} and {next(iter(images))}); say how they belong together, as in --images "
        "'photos/*_rgb.jpg' --masks 'photos/*_labels.png'"
    )


def _without_masks(plan: Plan, images: Mapping[str, Path], masks: Mapping[str, Path]) -> str:
    """The images' pattern, by their ending where they lie beside the masks and only so are told from them."""
    endings = {path.suffix for path in images.values()}
    beside = {path.parent for path in images.values()} & {path.parent for path in masks.values()}
    if beside and "*" not in plan.images and len(endings) == 1 and not endings <= {".png", ".PNG"}:
        return f"{plan.images}/**/*{endings.pop()}"
    return plan.images


def _unpaired(root: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[str]:
    """A note of images without mask and masks without image, if there are any."""
    paired = {file for key in images.keys() & masks.keys() for file in (images[key], masks[key])}
    parts = []
    for kind, files, partner in (("image", images, "a mask"), ("mask", masks, "an image")):
        lone = sorted({*files.values()} - paired)
        if lone:
            first = lone[0].relative_to(root).as_posix()
            parts.append(f"{count(len(lone), kind)} without {partner}, the first {first}")
    images_are = f"{', '.join(IMAGE_ENDINGS[:-1])} or {IMAGE_ENDINGS[-1]}"
    remedy = f"Correct their names, or add what is missing: images are {images_are} files, masks .png"
    return [f"Unpaired: {'; '.join(parts)}. {remedy}."] if parts else []


def _head(plan: Plan, values: MaskValues) -> str:
    lines = [
        "# Written by `pixelcontrast data init`: name the classes, then run `pixelcontrast data check` here.",
        "# Paths are below this folder: a folder, or a pattern with * and **; {split} stands for the split.",
        f"images = {_text(plan.images)}",
        f"masks = {_text(plan.masks)}",
    ]
    if plan.lists is not None:
        lines.append(f"lists = {_text(plan.lists)}")
    names = {"train": plan.train, "val": plan.val} | ({} if plan.test is None else {"test": plan.test})
    if any(split != name for split, name in names.items()):
        texts = ", ".join(f"{split} = {_text(name)}" for split, name in names.items())
        lines.append(f"split_names = {{ {texts} }}")
    if values.are_colors:
        lines += ['mask_values = "colors"', "ignored_colors = []  # move colours that no class has here"]
    else:
        ignored = "255" if _ignores_255(values) else ""
        lines.append(f"ignored_ids = [{ignored}]  # move ids that no class has here")
    return "\n".join(lines) + "\n"


def _ignores_255(values: MaskValues) -> bool:
    """255 is the field's mark for ignored pixels, except in masks of 0 and 255 only."""
    return 255 in values.id_pixels and not set(values.id_pixels) <= {0, 255}


def _classes(plan: Plan, values: MaskValues) -> str:
    """The table of classes, in the order of ids or of frequency."""
    if values.faults and len(values.faults) == values.num_masks:
        raise ValueError(f"{plan.masks}: none of {values.num_masks} masks can be read; {values.faults[0]}")
    if values.faults:
        plan.notes.append(
            f"{count(len(values.faults), 'mask')} could not be read, the first: {values.faults[0]}. "
            "`pixelcontrast data check` lists what is wrong."
        )
    if values.are_colors:
        entries = [
            (f"color_{'_'.join(map(str, color))}", color, None, color)
            for color, _ in values.color_pixels.most_common()
        ]
    else:
        ids = [raw_id for raw_id in sorted(values.id_pixels) if raw_id != 255 or not _ignores_255(values)]
        entries = [(f"class_{raw_id}", values.color_of(raw_id), raw_id, raw_id) for raw_id in ids]
    if not 1 <= len(entries) <= MAX_CLASSES:
        raise ValueError(
            f"{plan.masks}: {len(entries)} different values in {values.num_masks} masks; allowed are 1 to "
            f"{MAX_CLASSES} classes. Are these masks? Pictures, and masks that were scaled or "
            "saved as JPEG, have more"
        )
    if set(values.id_pixels) == {0, 255} and not values.are_colors:
        plan.notes.append("The masks hold 0 and 255 only: 255 was taken for a class, not for ignored pixels.")
    if values.are_colors and values.num_grey:
        others = f"such as {values.first_rgb}" if values.first_rgb else "in palettes"
        plan.notes.append(
            f"{values.num_grey} of {values.num_masks} masks are grey, the first {values.first_grey}, and "
            f"others hold colours, {others}: a grey value g was taken for the colour (g, g, g). If it is an "
            f"id, save all masks in one way, delete {FILE_NAME} and rerun."
        )
    if values.palettes_differ:
        plan.notes.append(
            "Palette masks in which one number has several colours: the colours were taken for the classes."
        )
    return "".join(_entry(values, *entry) for entry in entries)


def _entry(values: MaskValues, name: str, color: Color | None, raw_id: int | None, key: int | Color) -> str:
    pixels = values.color_pixels[key] if isinstance(key, tuple) else values.id_pixels[key]
    masks = values.color_masks[key] if isinstance(key, tuple) else values.id_masks[key]
    comment = (
        f"# {pixels / max(1, values.num_pixels):.2%} of the pixels, in {masks} of {values.num_masks} masks"
    )
    color = color or voc_color(1 + (raw_id or 0))
    ids = "" if raw_id is None else f"ids = [{raw_id}]\n"
    return f"\n[[classes]]  {comment}\nname = {_text(name)}\ncolor = {list(color)}\n{ids}"


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's, too."""
    return json.dumps(value, ensure_ascii=False)
