"""Compiled OpenVINO graphs, kept on the machine: a ViT-B/32 takes seconds to compile, and a tenth of that to read.

They lie in $XDG_CACHE_HOME/catalens (default ~/.cache/catalens), a file for each graph, set of options, processor and
release of OpenVINO; what was not used for KEPT_DAYS is removed. All of it may be deleted at any time.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_jobs.artefacts import sha256, write_file

KEPT_DAYS = 30
_DIGEST_BYTES = 32

_log = logging.getLogger(__name__)


def compiled(core: Any, graph: Path, options: Mapping[str, Any]) -> Any:
    """The graph in `graph` (.xml, with its .bin beside it) as openvino.CompiledModel for the CPU.

    A kept one is read only if every byte of it is as it was written: OpenVINO itself would take any.
    """
    kept = _place(core, graph, options)
    try:
        found = kept.read_bytes()
        if hashlib.sha256(found[_DIGEST_BYTES:]).digest() == found[:_DIGEST_BYTES]:
            os.utime(kept)  # used lately
            return core.import_model(found[_DIGEST_BYTES:], "CPU", dict(options))
    except (OSError, RuntimeError) as error:  # there is none, or OpenVINO cannot read it
        _log.debug("%s is compiled anew: %s", graph, error)
    made = core.compile_model(core.read_model(graph), "CPU", dict(options))
    data = made.export_model().getvalue()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_file(kept, hashlib.sha256(data).digest() + data)
        _tidy(kept.parent)
    except OSError as error:
        _log.warning("%s is compiled at every start, since it cannot be kept: %s", graph, error)
    return made


def _place(core: Any, graph: Path, options: Mapping[str, Any]) -> Path:
    facts = [
        *(sha256(graph), sha256(graph.with_suffix(".bin"))),
        *sorted((name, str(value)) for name, value in options.items()),
        *(core.get_versions("CPU")["CPU"].build_number, core.get_property("CPU", "FULL_DEVICE_NAME")),
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    ]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "catalens" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.openvino"


def _tidy(folder: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 86_400
    for kept in folder.glob("*.openvino"):
        if kept.stat().st_mtime < oldest:
            kept.unlink(missing_ok=True)
