"""A loader whose processes fail in one line: torch wraps their errors into tracebacks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Fault:
    """In a sample's place: why it could not be read."""

    text: str


class Guarded(Dataset[Any]):
    """A data set whose unreadable samples are a ``Fault``, which crosses processes as it is."""

    def __init__(self, dataset: Dataset[Any]):
        self._dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except ValueError as error:
            return Fault(str(error))


class Loader(DataLoader[Any]):
    """A ``DataLoader`` over ``Guarded`` samples, whose ``collate_fn`` returns the first ``Fault`` of a batch.

    Raises (while iterating):
        ValueError: a sample's own.
        RuntimeError: a loader process was ended, or shared memory is full; the text is one line.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any):
        super().__init__(Guarded(dataset), **options)

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            for batch in super().__iter__():
                if isinstance(batch, Fault):
                    raise ValueError(batch.text)
                yield batch
        except RuntimeError as error:
            if self.num_workers == 0 or not _is_of_loading(str(error)):
                raise
            raise RuntimeError(
                f"data.loader_processes: one of {self.num_workers} was ended, or found no room in shared "
                "memory (df -h /dev/shm shows it; docker run --shm-size=8g gives a container more). Free "
                "memory, or lower data.loader_processes; 0 loads in the worker itself"
            ) from error


def _is_of_loading(text: str) -> bool:
    return any(sign in text for sign in ("DataLoader worker", "shared memory", "No space left on device"))
