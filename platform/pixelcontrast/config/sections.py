"""The sections of a run's configuration: data, network, contrast, optimiser, and where it runs."""

import ast
import inspect
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Lt
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, field_validator, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from pixelcontrast.config.paths import Location
from pixelcontrast.contrast.hyperparameters import (
    AnchorConfig,
    Count,
    LossConfig,
    MemoryConfig,
    MiningConfig,
    NonNegative,
    Positive,
    Share,
)

Layout = Literal[
    "ade20k",
    "camvid",
    "camvid-full",
    "cityscapes",
    "coco-stuff-10k",
    "coco-stuff-164k",
    "folder",
    "pascal-context-59",
    "pascal-context-60",
]
ClassOrder = Literal["alphabetical", "voc"]
Operators = Literal["reference", "hrnet", "mmsegmentation", "torchvision"]
"""Published code whose layers a network may have: the method's reference, HRNet's official repository, …"""
STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
"""Types are not converted, unknown keys and numbers that are not finite refused."""
Section = TypeVar("Section")


def _with_inherited_docstrings(section: type[Section]) -> type[Section]:
    """Give inherited fields their docstrings: pydantic reads those of a section's own fields only."""
    fields: dict[str, FieldInfo] = vars(section)["__pydantic_fields__"]
    for base in section.__bases__:
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    fields[name].description = inspect.cleandoc(docstring)
    return section


class Workers:
    """The number of DDP workers: ``Workers(2)``, or a range for elastic training, ``Workers(1, 4)``.

    Written ``2`` or ``1:4`` on the command line and in JSON.
    """

    def __init__(self, min: int, max: int | None = None):
        self.min, self.max = min, min if max is None else max
        if not 1 <= self.min <= self.max:
            raise ValueError(f"workers are N or MIN:MAX with 1 <= MIN <= MAX, not {self.min}:{self.max}")

    @classmethod
    def parse(cls, text: "str | int | Workers") -> "Workers":
        """Read ``"2"``, ``2`` or ``"1:4"``; raises ``ValueError`` on anything else."""
        if isinstance(text, Workers):
            return text
        if type(text) is int:
            return cls(text)
        numbers = text.split(":") if isinstance(text, str) else []
        if len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"workers are N or MIN:MAX, such as 2 or 1:4, not {text!r}")
        return cls(*map(int, numbers))

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}:{self.max}"

    def __repr__(self) -> str:
        return f"Workers({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workers) and (self.min, self.max) == (other.min, other.max)

    def __hash__(self) -> int:
        return hash((self.min, self.max))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        serialize = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=serialize)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """The data set, and how a training crop is cut from an image."""

    layout: Layout
    """How files and labels are laid out; folder: your own images, described by a dataset.toml beside them."""
    root: Location
    """The data set's folder, or a pack of it (pixelcontrast data pack): a folder, or a URI that pyarrow
    reads."""
    class_order: ClassOrder | None = None
    """PASCAL-Context only: the order of its classes, and how PNG label files number them. unset: alphabetical
    with .mat files; with PNG files what VOC's own labels tell, or an error where they are not there."""
    crop_size: tuple[Count, Count] = (512, 1024)
    """Height and width in pixels of a training crop; validation images keep their size."""
    scale_range: tuple[Positive, Positive] = (0.5, 2.0)
    """An image is scaled by a factor drawn uniformly from this range before it is cropped."""
    flip_probability: Share = 0.5
    """How often a crop is mirrored left to right."""
    color_jitter: Share = 0.4
    """Brightness, contrast and saturation are multiplied by factors drawn from 1 ± this; 0 turns it off."""
    max_class_share: Annotated[float, Gt(0), Lt(1)] | None = None
    """A crop is drawn anew, up to ten times, while one class has more than this share of its labelled pixels
    (mmsegmentation's cat_max_ratio, there 0.75); unset: the first draw stands."""
    balanced_sampling: bool = False
    """Draw images by the classes in them, rare classes first, instead of each once per epoch; the data must
    be packed (pixelcontrast data pack), which counts them."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """A training sample that cannot be read ends the run with its file named (stop), or another image takes
    its place, and result.json lists it (skip)."""
    loader_processes: Annotated[int, Field(ge=0)] = 0
    """Processes that decode and augment, per worker; 0 does it in the worker itself."""

    @field_validator("scale_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the first number must not exceed the second")
        return value


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The segmentation network; what contrast needs beyond it is dropped at inference."""

    backbone: str = "hrnet_w48"
    """timm's name of a network with levels at strides 4, 8, 16, 32, such as resnet101s or convnext_tiny, or
    of a plain Vision Transformer, such as vit_small_patch14_dinov2."""
    weights: Location = "none"
    """The start: none (random), timm (the backbone's pretrained weights), or a file (.safetensors, .pth,
    .pt) of the backbone, of a published network (platform/README.md lists them), or of a run of yours: a
    checkpoint's model.safetensors or an exported file."""
    classifier: Literal["keep", "new"] | None = None
    """The classifier of a file's network: keep, if its classes are the data's in the same order, or new, a
    random one. unset: new where the numbers of classes differ; where they agree, an error asks."""
    freeze_backbone: bool = False
    """Train the layers above the backbone only."""
    decoder: Literal["hrnet", "deeplabv3", "ocr", "linear"] = "hrnet"
    """hrnet: all levels concatenated (HRNetV2), of a plain Vision Transformer those of a simple feature
    pyramid; ocr: object context; deeplabv3: ASPP, on a dilated network (resnet101s, efficientnet_b0, …), not
    on a HRNet; linear: one layer on the backbone's features."""
    decoder_kernel: Literal[1, 3] = 1
    """hrnet's first convolution: 1 as in the official code, 3 as in the method's reference; not of others."""
    operators: Operators = "reference"
    """Whose layers and operators the network has, where published code differs; a published network's weights
    need their own."""
    align_corners: Literal["yes", "no"] | None = None
    """Whether bilinear upsampling aligns the centres of the corner pixels. unset: as the operators' source
    (reference, hrnet: yes; mmsegmentation, torchvision: no)."""
    mean: tuple[Share, Share, Share] | None = None
    """Mean of red, green and blue in [0, 1], by which images are normalised; unset: the backbone's own."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Their standard deviation; unset: the backbone's own."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the classifier; the reference has 0.1 with hrnet, 0.05 with ocr, none with deeplabv3.
    Every worker draws its own, so the result then depends on their number. The backbone has none."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: how often a block of the backbone is left out for an image, growing with the depth
    up to this (timm's drop_path_rate); mmsegmentation has 0.3 with swin_tiny, 0.4 with convnext_tiny. Every
    worker draws its own. timm's own default, such as 0.1 for Swin, does not count."""
    embedding_dim: Count = 256
    """Length of a pixel's embedding."""
    embedding_batchnorm: bool = False
    """BatchNorm in the projection head, as imported weights of the reference need it."""


@_with_inherited_docstrings
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Contrast(MiningConfig, MemoryConfig, AnchorConfig, LossConfig):
    """The contrastive term (Wang et al., ICCV 2021); all sizes are global, whatever the number of workers.

    Loss, anchors, memory and mining are the parts of ``PixelContrast``; their fields come in this order, the
    last base's first.
    """

    weight: NonNegative = 1.0
    """λ, the term's weight in the loss; 0 trains the plain network, without head, sampling or bank."""
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the first steps in which the term trains the head alone; then the memory is emptied. From
    random weights 0.1 did better than none (experiments/LOG.md), from ImageNet weights not."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optim:
    """Steps, batch and optimiser.

    The rate is lr · (1 − step/steps) ** power, and in the first lr_warmup_steps rises linearly to it.
    """

    steps: Count = 40_000
    """Optimiser steps of the whole run."""
    batch_size: Count = 8
    """Images per step over all workers together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: as the paper. adamw: learns faster from random weights, and is what transformers need; it wants a
    smaller lr (0.001) and a larger weight_decay (0.05)."""
    lr: Positive = 0.01
    """Learning rate of the backbone at its peak."""
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly to the schedule's."""
    new_layer_lr_factor: Positive = 1.0
    """The decoder's and the projection head's rate, as a multiple of the backbone's."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum; AdamW's first beta."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of the weights of convolutions and matrices. Normalisation layers, biases, layer scales,
    tokens, position embeddings, and what else timm exempts (SwinV2's cpb_mlp) have none."""
    power: NonNegative = 0.9
    """Exponent of the poly schedule."""
    clip_norm: Positive | None = None
    """Gradients are scaled down to this norm when they exceed it; unset: never."""
    class_weights: tuple[Positive, ...] | None = None
    """Class weights of the cross-entropy, one per class in the data set's order, such as pixelcontrast data
    check proposes; unset: all alike."""
    auxiliary_weight: NonNegative = 0.4
    """Weight of the auxiliary head's cross-entropy, where the decoder has one (deeplabv3, ocr)."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradients are not finite ends the run, with its images named (stop), or is left
    out as if it had not been (skip; the tenth in a row ends it too). skip waits for the GPU in every step."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Run:
    """Where the run lives, what it runs on, how often it reports. The same name resumes the run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The run's folder in the storage; starting the same name again resumes it."""
    storage: Location = "runs"
    """A folder, or a URI that pyarrow reads (s3://bucket/runs, gs://…); must be reachable by all workers."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Keys every random choice: weights, sample order, augmentation, anchors."""
    workers: Workers = Workers(1)
    """DDP workers: N, or MIN:MAX to continue with fewer when nodes leave and grow when they come back."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU per worker where the cluster has GPUs, else CPU."""
    cpus_per_worker: Count = 1
    """CPU cores that a worker reserves, and threads that its operators use."""
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 1.0
    """GPU that a worker reserves where it gets one; a part, for small networks, only of a single worker."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast in the network; losses and the contrast stay in float32, on a CPU also depthwise
    convolutions and dilated ones of groups."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How a GPU multiplies float32 matrices (``torch.set_float32_matmul_precision``), those of the contrast
    included: highest: in float32; high: rounded to TF32, faster, by which a cosine of two embeddings errs by
    at most 0.001; medium: rounded to bfloat16, at most 0.008. Convolutions take TF32 in any case. With
    medium, CPUs that have bfloat16 instructions round, too."""
    compile: bool = False
    """Compile the network with torch.compile: other bits than without, and no gradient_ratio in metrics."""
    report_interval: Count = 20
    """Steps between two rows of training metrics."""
    eval_interval: Count = 1000
    """Steps between two evaluations; the last step is always evaluated."""
    checkpoint_interval: Count = 500
    """Steps between two checkpoints; an evaluation that is the best so far is always kept as one."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept in addition to the best."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that Ray starts the workers again after one has died."""
    node_timeout: NonNegative = 0.0
    """Seconds to wait for nodes that an autoscaler starts. 0: the nodes that are there must do, and have a
    place free within ten minutes."""

    @model_validator(mode="after")
    def _device_is_said_for_nodes_to_come(self) -> "Run":
        if self.node_timeout > 0 and self.device == "auto":
            raise ValueError(
                f"node_timeout is {self.node_timeout:g} and device auto: nodes that are still to come do not "
                "show whether they have GPUs; set device to cuda or cpu"
            )
        return self
