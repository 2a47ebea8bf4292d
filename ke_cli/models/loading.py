"""Loading causal language models: hub ids, local folders, and the bundled ones, all through the same code."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.import_utils import is_accelerate_available

from ke_cli.errors import UserError
from ke_cli.models.editable import EditableModel
from ke_cli.models.fingerprint import FolderState, fingerprint, stamp_of
from ke_cli.models.memory import ran_out_of_memory

BUNDLED = "bundled:"
"""Prefix of a path that names a model folder inside the package."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model is and how it is to be held in memory.

    Args:
        name: As in the configuration.
        path: Hub id, local folder, or ``bundled:<folder>``.
        revision: Commit, tag or branch on the hub.
        dtype: Of the weights in memory: float32, float64, bfloat16, float16.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        device_map: Passed to transformers (needs accelerate); None loads on one device.
        max_memory: Limits by device (a GPU's number as text, ``cpu``) that such a map is made under.
        trust_remote_code: Whether code that comes with the weights may run.
    """

    name: str
    path: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    device_map: str | dict[str, str | int] | None = None
    max_memory: dict[str, str | int] | None = None
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub id."""
        if self.path.startswith(BUNDLED):
            return Path(__file__).parent / self.path.removeprefix(BUNDLED)
        local = Path(self.path).expanduser()
        looks_local = local.exists() or self.path.startswith((".", "/", "~"))
        return local if looks_local else None


def check_folder(source: ModelSource) -> None:
    """Look at a local model folder before anything is loaded.

    Raises:
        UserError: If the folder, its configuration, safetensors weights or tokenizer are missing.
    """
    folder = source.folder
    if folder is None:
        return
    where = f"model.path={source.path}"
    if not folder.is_dir():
        raise UserError(
            f"there is no model folder {source.path!r}",
            where=where,
            allowed="a hub id (owner/name), or a folder with config.json, *.safetensors and a tokenizer",
            hint="ke-run model.path=DIR",
        )
    missing = [what for what, present in _contents(folder).items() if not present]
    if missing:
        raise UserError(
            f"the model folder lacks {' and '.join(missing)}",
            where=f"{where} (has: {', '.join(sorted(p.name for p in folder.iterdir())[:12]) or 'nothing'})",
            allowed="a folder written by save_pretrained of model and tokenizer, with safetensors weights",
            hint="save model and tokenizer with transformers' save_pretrained(DIR)",
        )


def _contents(folder: Path) -> dict[str, bool]:
    tokenizer = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    return {
        "config.json": (folder / "config.json").is_file(),
        "safetensors weights (*.safetensors)": any(folder.glob("*.safetensors")),
        "a tokenizer (tokenizer.json)": any((folder / name).is_file() for name in tokenizer),
    }


def text_config(source: ModelSource) -> dict[str, Any] | None:
    """The text model's part of a local ``config.json``, without loading anything; None for a hub id.

    Raises:
        UserError: If the file cannot be read or is not a JSON object.
    """
    folder = source.folder
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"config.json cannot be read: {error}", where=f"model.path={source.path}") from error
    if not isinstance(config, dict):
        raise UserError("config.json is not a JSON object", where=f"model.path={source.path}")
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def depth_of(source: ModelSource) -> int | None:
    """Number of decoder layers from a local ``config.json``; None if it does not say or is not local."""
    return _count(source, "num_hidden_layers", "n_layer", "num_layers")


def width_of(source: ModelSource) -> int | None:
    """Hidden width from a local ``config.json``; None if it does not say or is not local."""
    return _count(source, "hidden_size", "n_embd")


def vocabulary_of(source: ModelSource) -> int | None:
    """Size of the vocabulary from a local ``config.json``; None if it does not say or is not local."""
    return _count(source, "vocab_size")


def mlp_width_of(source: ModelSource) -> int | None:
    """Width of the MLP from a local ``config.json``; None if it does not say or is not local."""
    return _count(source, "intermediate_size", "n_inner", "ffn_dim") or 4 * (width_of(source) or 0) or None


def _count(source: ModelSource, *keys: str) -> int | None:
    """The first of some settings of a local ``config.json`` that is a number from 1; None if none is."""
    values = map((text_config(source) or {}).get, keys)
    return next((value for value in values if type(value) is int and value > 0), None)


def weight_bytes(source: ModelSource) -> int | None:
    """Memory of the weights in the configured data type, from the headers of local files; None for a hub id."""
    folder = source.folder
    if folder is None:
        return None
    entries = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            entries += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return entries * itemsize_of(source)


def itemsize_of(source: ModelSource) -> int:
    """Bytes of a weight in the configured data type."""
    return int(getattr(torch, source.dtype).itemsize)


def load(source: ModelSource) -> EditableModel:
    """Load model and tokenizer, frozen and in evaluation mode.

    Raises:
        UserError: If the folder is incomplete or changes meanwhile, the hub has no such model or cannot be reached,
            memory is too small, or the tokenizer gives no character offsets.
    """
    check_folder(source)
    _check_accelerate(source)
    stamp = _stamp(source)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = source.folder
    place = str(folder) if folder is not None else source.path
    common = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **common)
        hf = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=getattr(torch, source.dtype),
            device_map=_devices(source),
            max_memory=source.max_memory and {_device(name): limit for name, limit in source.max_memory.items()},
            use_safetensors=True,
            **common,
        )
    except Exception as error:  # a folder may be wrong in ways that nobody thought of
        raise _too_big(source) if ran_out_of_memory(error) else _unloadable(source, error) from error
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer is a slow one and gives no character offsets",
            where=f"model.path={source.path}",
            hint="save a tokenizer.json beside the weights",
        )
    if source.device_map is None:
        hf = _to_device(hf, source)
    if folder is None:
        return EditableModel.of(source.name, hf, tokenizer, fingerprint(hf, None))
    _own(hf)
    origin = _origin(source, folder, stamp)
    return EditableModel.of(source.name, hf, tokenizer, fingerprint(hf, origin), origin)


def _stamp(source: ModelSource) -> str | None:
    """The stamp of a local folder; None where there is none (any more)."""
    with suppress(OSError):
        return None if source.folder is None else stamp_of(source.folder)
    return None


def _origin(source: ModelSource, folder: Path, stamp: str | None) -> FolderState:
    """What the folder holds, which must be what has been loaded."""
    with suppress(OSError):
        origin = FolderState.of(folder)
        if stamp_of(folder) == stamp:
            return origin
    raise UserError(
        "the model folder changed while the model was being loaded",
        where=f"model.path={source.path}",
        hint="start the same command again when nothing writes to it any more",
    )


@torch.no_grad()
def _own(hf: Any) -> None:
    """Copy what is on the CPU: it may be mapped from the files, and what is written there would come into the model."""
    for tensor in (*hf.parameters(), *hf.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _check_accelerate(source: ModelSource) -> None:
    if source.device_map is not None and not is_accelerate_available():
        raise UserError(
            "a model can only be spread over devices with the package accelerate, which is not installed",
            where=f"model.device_map={source.device_map}",
            allowed="null, with device=cuda (or cuda:1, cpu) for one device",
            hint="pip install 'ke-run[accelerate]'",
        )


def _devices(source: ModelSource) -> Any:
    """The map as transformers takes it: numbers of GPUs as numbers."""
    if isinstance(source.device_map, dict):
        return {module: _device(device) for module, device in source.device_map.items()}
    return source.device_map if source.device_map is None else _device(source.device_map)


def _device(name: str | int) -> str | int:
    return int(name) if isinstance(name, str) and name.isdigit() else name


def _to_device(hf: Any, source: ModelSource) -> Any:
    try:
        return hf.to(device_of(source.device))
    except (RuntimeError, AssertionError, MemoryError) as error:
        if ran_out_of_memory(error):
            raise _too_big(source) from error
        raise UserError(f"the device {source.device!r} cannot be used: {error}", hint="device=cpu") from error


def device_of(name: str) -> torch.device:
    """The device that ``auto`` or a name stands for."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _too_big(source: ModelSource) -> UserError:
    return UserError(
        f"the model {source.name} does not fit into memory as {source.dtype}",
        where=f"device={source.device}",
        hint="model.dtype=bfloat16, model.device_map=auto (several GPUs), or a smaller model",
    )


def _unloadable(source: ModelSource, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    return UserError(
        f"the model {source.name!r} cannot be loaded: {reason}",
        where=f"model.path={source.path} (transformers {transformers.__version__})",
        allowed="a hub id that can be reached and that you may read, or a complete local folder",
        hint="model.path=DIR for a local copy; model.trust_remote_code=true only if you trust its code",
    )
