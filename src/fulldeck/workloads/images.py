"""A user's own images: a folder per class, `.npz` arrays, or parquet with encoded files."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from fulldeck.data import Data
from fulldeck.encoders.image import ImageEncoder
from fulldeck.networks import build
from fulldeck.param import param
from fulldeck.sources.channel_statistics import channel_statistics
from fulldeck.sources.column_file import existing
from fulldeck.sources.file_workload import FileWorkload
from fulldeck.workload import TrainingDefaults


class Images(FileWorkload):
    """Images in classes, and a residual net or a mobile net.

    A folder holds `CLASS/IMAGE`, or `train/CLASS/IMAGE`, `test/CLASS/IMAGE` and so on. An `.npz` file holds
    `x_train`, `y_train`, `x_test`, `y_test`, or the arrays that `image` and `label` name. A parquet file
    has one row for each image, with the content of its file in a column.
    """

    kind: ClassVar[str] = "images"
    data_kind: ClassVar[str] = "image"
    task: ClassVar[str] = "classification"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(
        epochs=10, batch_size=128, learning_rate=2e-3, weight_decay=5e-2
    )

    image: str | None = param(None, doc="Column or array of images; left out: by its name or content.")
    label: str | None = param(None, doc="Column or array of labels; left out: by its name.")
    size: int | None = param(
        None, ge=4, le=1024, doc="Edge of the square that images become, in pixels; left out: by the images."
    )
    network: Literal["residual_net", "mobile_net"] = param(
        "residual_net", doc="The network: residual_net, or mobile_net, which is a fifth of its size."
    )
    on_corrupt: Literal["skip", "error"] = param(
        "skip", doc="A corrupt image: skip (counted, named and left out) or error."
    )

    def load(self) -> Data:
        """Read and decode all images; size, colour and split are told from the data.

        Raises BadInput as the base class says, for arrays that are no images, and for a corrupt image if
        `on_corrupt` is error.
        """
        path = existing(self.path)
        if path.is_dir():
            from fulldeck.sources.image_folder import load_folder

            return load_folder(self, path)
        if path.suffix.lower() == ".npz":
            from fulldeck.sources.image_arrays import load_arrays

            return load_arrays(self, path)
        from fulldeck.sources.image_column import load_column

        return load_column(self)

    def encoder(self, data: Data) -> ImageEncoder:
        """Colour and size of the loaded images."""
        _, channels, height, width = data.train.inputs.shape  # type: ignore[union-attr]
        return ImageEncoder(channels, height, width)

    def model(self, data: Data) -> nn.Module:
        """Three stages; larger images are brought to about 32 x 32 or less by the first layer."""
        assert isinstance(data.encoder, ImageEncoder)
        edge = max(data.encoder.height, data.encoder.width)
        mean, std = channel_statistics(data.train.inputs)
        arguments = {
            "channels": data.encoder.channels,
            "outputs": len(data.classes),
            "stem_stride": 1 if edge <= 32 else 2 if edge <= 64 else 4,
            "mean": mean,
            "std": std,
        }
        return build({"network": self.network, "arguments": arguments})
