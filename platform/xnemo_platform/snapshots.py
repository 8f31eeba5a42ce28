"""DeepSpeed's checkpoint files as copies in host memory, to be written later. Imports DeepSpeed."""

from typing import Any

from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from xnemo_platform.saving import Files, on_host


class Snapshots(TorchCheckpointEngine):
    """What DeepSpeed takes for its writer of files: it keeps what it is given. `load` reads files as ever."""

    def __init__(self) -> None:
        super().__init__(None)
        self.files: Files = {}

    def preserves_storage_sharing(self) -> bool:
        return False  # ours is the only copy

    def save(self, state_dict: Any, path: str) -> None:
        self.files[path] = on_host(state_dict)
