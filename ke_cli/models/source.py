"""Where a model is and how it is held in memory, and whether its folder is one that can be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ke_cli.errors import UserError
from ke_cli.paths import BUNDLED

Quantization = Literal["4bit", "8bit"]
"""How many bits the weights of linear layers are packed into."""

QUANTIZATION: Final[dict[str, Quantization]] = {"4bit": "4bit", "8bit": "8bit"}
"""By name."""


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
        quantization: ``4bit`` or ``8bit`` packs the weights of linear layers (needs bitsandbytes); None leaves them.
        trust_remote_code: Whether code that comes with the weights may run.
    """

    name: str
    path: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    device_map: str | dict[str, str | int] | None = None
    max_memory: dict[str, str | int] | None = None
    quantization: Quantization | None = None
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub id."""
        if self.path.startswith(BUNDLED):
            return Path(__file__).parent / self.path.removeprefix(BUNDLED)
        local = Path(self.path).expanduser()
        looks_local = local.exists() or self.path.startswith((".", "/", "~"))
        return local if looks_local else None

    @property
    def held(self) -> str:
        """Where it is from and as what it is held, in words."""
        packed = f", packed into {self.quantization}" if self.quantization else ""
        return f"{self.path}, {self.dtype}{packed}"


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
