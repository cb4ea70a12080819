"""Compiled OpenVINO graphs, kept on the machine: a ViT-B/32 takes seconds to compile, and a tenth of that to read.

They lie in $XDG_CACHE_HOME/catalens (default ~/.cache/catalens), a file for each graph, set of options, processor and
release of OpenVINO; what was not used for KEPT_DAYS is removed, and the oldest beyond KEPT_BYTES. All of it may be
deleted at any time.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_jobs.artefacts import replacing, sha256

KEPT_DAYS, KEPT_BYTES = 30, 8_000_000_000
_DIGEST_BYTES = 32

_log = logging.getLogger(__name__)


def compiled(core: Any, graph: Path, options: Mapping[str, Any]) -> Any:
    """The graph in `graph` (.xml, with its .bin beside it) as openvino.CompiledModel for the CPU.

    A kept one is read only if every byte of it is as it was written: OpenVINO itself would take any.
    """
    place = _place(core, graph, options)
    try:
        with place.open("rb") as file:
            digest, data = file.read(_DIGEST_BYTES), file.read()
        if hashlib.sha256(data).digest() == digest:
            with contextlib.suppress(OSError):  # others' may be read only
                os.utime(place)  # used lately
            return core.import_model(data, "CPU", dict(options))
    except (OSError, RuntimeError) as error:  # there is none, or OpenVINO cannot read it
        _log.debug("%s is compiled anew: %s", graph, error)
    made = core.compile_model(core.read_model(graph), "CPU", dict(options))
    try:
        _keep(made, place)
    except (OSError, RuntimeError) as error:
        _log.warning("%s is compiled at every start, since it cannot be kept: %s", graph, error)
    return made


def _keep(made: Any, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    data = made.export_model().getbuffer()
    with replacing(place) as aside, aside.open("wb") as file:
        file.write(hashlib.sha256(data).digest())
        file.write(data)
    with contextlib.suppress(OSError):  # another process tidies as well
        _tidy(place.parent)


def _place(core: Any, graph: Path, options: Mapping[str, Any]) -> Path:
    facts = [
        *(sha256(graph), sha256(graph.with_suffix(".bin"))),
        *sorted((name, str(value)) for name, value in options.items()),
        *(core.get_versions("CPU")["CPU"].build_number, core.get_property("CPU", "FULL_DEVICE_NAME")),
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    ]
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return home / "catalens" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.openvino"


def _tidy(folder: Path) -> None:
    """Remove what is too old or too much, also what a killed process left half written."""
    oldest, left = time.time() - KEPT_DAYS * 86_400, KEPT_BYTES
    used = sorted(
        ((place.stat(), place) for place in folder.glob("*.openvino*")), key=lambda u: -u[0].st_mtime
    )
    for about, place in used:
        left -= about.st_size
        if about.st_mtime < oldest or left < 0:
            place.unlink(missing_ok=True)
