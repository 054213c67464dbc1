"""The sections of a run's configuration: data, network, contrast, optimiser, and where it runs."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import core_schema

from pixelcontrast.config.paths import Location

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
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
PositiveMining = Literal["all", "random", "hardest", "semi-hard", "semi-hard-subset"]
NegativeMining = Literal["all", "random", "filtered", "hardest", "semi-hard", "semi-hard-subset"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)
"""Types are not converted, and unknown keys refused."""


class Workers:
    """The number of DDP workers: ``Workers(2)``, or a range for elastic training, ``Workers(1, 4)``.

    Written ``2`` or ``1:4`` on the command line and in JSON.
    """

    def __init__(self, min: int, max: int | None = None):
        self.min, self.max = min, min if max is None else max
        if not 1 <= self.min <= self.max:
            raise ValueError(f"workers are N or MIN:MAX with 1 <= MIN <= MAX, not {self.min}:{self.max}")

    @classmethod
    def parse(cls, text: "str | Workers") -> "Workers":
        """Read ``"2"`` or ``"1:4"``; raises ``ValueError`` on anything else."""
        if isinstance(text, Workers):
            return text
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
    """The data set's folder."""
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
    """timm's name of a network with levels at strides 4, 8, 16, 32, such as resnet101s or convnext_tiny."""
    weights: Location = "none"
    """The backbone's start: none (random), timm (its pretrained weights), or a file (.safetensors, .pth)."""
    decoder: Literal["hrnet", "deeplabv3", "ocr"] = "hrnet"
    """hrnet: all levels concatenated (HRNetV2); ocr: object context; deeplabv3: ASPP, on
    a dilated network (resnet101s, efficientnet_b0, …), not on a HRNet."""
    decoder_kernel: Literal[1, 3] = 1
    """hrnet's first convolution: 1 as in the official code, 3 as in the method's reference; not of others."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the classifier; the reference has 0.1 with hrnet, 0.05 with ocr, none with deeplabv3."""
    embedding_dim: Count = 256
    """Length of a pixel's embedding."""
    embedding_batchnorm: bool = False
    """BatchNorm in the projection head, as imported weights of the reference need it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Contrast:
    """The contrastive term (Wang et al., ICCV 2021); all sizes are global, whatever the number of workers."""

    weight: NonNegative = 1.0
    """λ, the term's weight in the loss; 0 trains the plain network, without head, sampling or bank."""
    temperature: Positive = 0.1
    """τ of Eq. 3."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the term trains the projection head alone; then the memory is emptied."""
    ramp: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps after the warm-up over which the term's gradient into the network grows."""
    anchors_per_class: Count = 50
    """Anchors drawn per class and global batch."""
    hard_share: Share = 0.5
    """Share of the anchors drawn among the pixels that are misclassified now; the rest is drawn from all."""
    rare_class_power: NonNegative = 0.0
    """Above 0, classes get anchors by their share of the pixels to the power of −this; 0: all alike."""
    memory: Literal["none", "pixel", "region", "both"] = "none"
    """none: an anchor is compared with the other anchors of the global batch only. pixel: also with a queue
    of earlier batches' pixels. region: also with the average embedding of each class in an image."""
    pixel_queue_size: Count | None = None
    """Pixels per class; unset: 10 per training image, and at most 200,000 over all classes."""
    pixels_per_image: Count = 10
    """Random pixels per class and image that enter the queue."""
    boundary_share: Share = 0.0
    """Share of them drawn next to pixels of another class (boundary-aware negatives, after Contextrast)."""
    region_memory_size: Count | None = None
    """Regions per class; unset: 1 per training image, and at most 200,000 over all classes. With fewer than
    training images, the newest regions are kept."""
    memory_dtype: Literal["float32", "bfloat16"] = "float32"
    """How the memory is stored; bfloat16 halves it."""
    memory_term: Literal["separate", "joint"] = "separate"
    """separate: Eq. 3 over the batch plus memory_weight times Eq. 3 over the memory (after XBM), so that many
    old rows cannot outweigh the batch. joint: one Eq. 3 over both, as in the paper."""
    memory_weight: NonNegative = 1.0
    """Weight of the separate memory term."""
    memory_max_age: Count | None = None
    """Steps after which a stored row is no longer used; unset: only newer rows replace it. With it, the
    region memory keeps the newest regions instead of one per image."""
    only_correct: bool = False
    """Only pixels that are classified correctly at the time enter the memory."""
    memory_sharded: bool = False
    """Each of W workers stores 1/W of the memory, and chooses in it 1/W of what each anchor meets; unset:
    each stores all of it."""
    positive_mining: PositiveMining = "random"
    """Which positives of the memory an anchor is compared with (those of the batch always): all, random ones,
    the hardest (least similar), or, semi-hard, random ones of the hardest semi_hard_share; semi-hard-subset
    takes the hardest semi_hard_share of random ones, which is faster."""
    negative_mining: NegativeMining = "random"
    """Likewise for negatives, of which the most similar are the hardest. filtered: random ones that are less
    similar than the anchor's positives in the batch are on average (after FaceNet)."""
    num_positives: Count = 1024
    """Positives that an anchor meets in the memory, at most, unless positive_mining is all."""
    num_negatives: Count = 2048
    """Negatives that an anchor meets in the memory, at most, unless negative_mining is all."""
    semi_hard_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of an anchor's positives, and of its negatives, that semi-hard mining draws from."""
    negative_margin: float = 0.0
    """filtered leaves out negatives whose similarity exceeds the positives' mean by this much."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optim:
    """Steps, batch and optimiser. After lr_warmup_steps the rate decays as (1 − step/steps) ** power."""

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
    """Weight decay of convolution weights; BatchNorm and biases have none."""
    power: NonNegative = 0.9
    """Exponent of the poly schedule."""
    clip_norm: Positive | None = None
    """Gradients are scaled down to this norm when they exceed it; unset: never."""
    class_weights: tuple[Positive, ...] | None = None
    """Class weights of the cross-entropy, one per class in the data set's order; unset: all alike."""
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
    """bfloat16: autocast in the network; losses and the contrast stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    report_interval: Count = 20
    """Steps between two rows of training metrics."""
    eval_interval: Count = 1000
    """Steps between two evaluations; the last step is always evaluated."""
    checkpoint_interval: Count = 500
    """Steps between two checkpoints; an evaluation that is the best so far is always kept as one."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept beside the best."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that Ray starts the workers again after one has died."""
