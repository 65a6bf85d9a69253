"""The layouts: this project's own and those of the authors' programs, recognised in the order of ``DIALECTS``."""

from __future__ import annotations

from dataclasses import replace

from common.checkpoints.dialects import Dialect, Marks, Rules, Slot, Wrapper, sequence

HEAD = ("conv1", "bn1", "conv2", "bn2", "project")
TOP_MODULES = (
    "encoder", "decoder", "classifier", "representation", "auxiliary", "decoder_subclass", "classifier_subclass",
    "prototypes",
)  # fmt: skip
OWN_RULES: Rules = tuple((module, module) for module in TOP_MODULES)

U2PL_RULES: Rules = (
    ("encoder", "encoder"),
    *sequence("decoder.low", "decoder.low_conv", (0, 1)),
    *sequence("decoder.aspp.pool", "decoder.aspp.conv1", (1, 2)),
    *sequence("decoder.aspp.branches.0", "decoder.aspp.conv2", (0, 1)),
    *sequence("decoder.aspp.branches.1", "decoder.aspp.conv3", (0, 1)),
    *sequence("decoder.aspp.branches.2", "decoder.aspp.conv4", (0, 1)),
    *sequence("decoder.aspp.branches.3", "decoder.aspp.conv5", (0, 1)),
    *sequence("decoder.aspp.merge", "decoder.head", (0, 1)),
    *sequence("classifier", "decoder.classifier", (0, 1, 4, 5, 8), HEAD),
    *sequence("representation", "decoder.representation", (0, 1, 4, 5, 8), HEAD),
    *sequence("auxiliary", "auxor.aux", (0, 1, 4), ("conv", "bn", "project")),
)

PCR_RULES: Rules = (*U2PL_RULES, ("prototypes", "proto_net.proto_list"))

CPCL_RULES: Rules = (
    ("encoder", "backbone"),
    ("decoder.aspp.branches", "head.aspp.map_convs"),
    ("decoder.aspp.branches_bn", "head.aspp.map_bn"),
    ("decoder.aspp.branches_merge", "head.aspp.red_conv"),
    ("decoder.aspp.pool.conv", "head.aspp.global_pooling_conv"),
    ("decoder.aspp.pool.bn", "head.aspp.global_pooling_bn"),
    ("decoder.aspp.pool_merge", "head.aspp.pool_red_conv"),
    ("decoder.aspp.sum_bn", "head.aspp.red_bn"),
    *sequence("decoder.low", "head.reduce", (0, 1)),
    *sequence("classifier", "head.last_conv", (0, 1, 3, 4), HEAD[:4]),
    ("classifier.project", "classifier"),
)

UCCL_RULES: Rules = (
    ("encoder", "backbone"),
    *sequence("decoder.aspp.branches.0", "head.b0", (0, 1)),
    *sequence("decoder.aspp.branches.1", "head.b1", (0, 1)),
    *sequence("decoder.aspp.branches.2", "head.b2", (0, 1)),
    *sequence("decoder.aspp.branches.3", "head.b3", (0, 1)),
    *sequence("decoder.aspp.pool", "head.b4.gap", (1, 2)),
    *sequence("decoder.aspp.merge", "head.project", (0, 1)),
    *sequence("decoder.low", "reduce", (0, 1)),
    *sequence("classifier", "fuse", (0, 1, 3, 4), HEAD[:4]),
    ("classifier.project", "classifier"),
)


def _usrn_branch(decoder: str, classifier: str, suffix: str) -> Rules:
    aspp = f"encoder.aspp{suffix}"
    branches = [(f"{decoder}.aspp.branches.{index}", f"{aspp}.aspp{index + 1}") for index in range(4)]
    return (
        *((f"{neutral}.conv", f"{foreign}.atrous_conv") for neutral, foreign in branches),
        *((f"{neutral}.bn", f"{foreign}.bn") for neutral, foreign in branches),
        *sequence(f"{decoder}.aspp.pool", f"{aspp}.global_avg_pool", (1, 2)),
        (f"{decoder}.aspp.merge.conv", f"{aspp}.conv1"),
        (f"{decoder}.aspp.merge.bn", f"{aspp}.bn1"),
        (f"{decoder}.low.conv", f"encoder.decoder{suffix}.conv1"),
        (f"{decoder}.low.bn", f"encoder.decoder{suffix}.bn1"),
        *sequence(classifier, f"encoder.decoder{suffix}.last_conv", (0, 1, 4, 5), HEAD[:4]),
        (f"{classifier}.project", f"classifier{suffix}.1"),
    )


USRN_RULES: Rules = (
    ("encoder", "encoder.backbone"),
    *((f"encoder.layer{index}_subclass", f"encoder.backbone.layer{index}_aux") for index in (2, 3, 4)),
    *_usrn_branch("decoder", "classifier", ""),
    *_usrn_branch("decoder_subclass", "classifier_subclass", "_SubCls"),
)

TORCHVISION_RULES: Rules = tuple(
    (f"encoder.{name}", name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
)

OWN_SLOTS, OWN_MARKS = (Slot("model"),), Marks(name="classifier.project.")
U2PL_SLOTS = (Slot("student", "model_state"), Slot("teacher", "teacher_state"))
U2PL_WRAPPER = Wrapper(
    keys=("epoch", "model_state", "optimizer_state", "teacher_state", "best_miou"),
    values=(("epoch", "epoch"), ("best_miou", "miou")),
)
CPCL_SLOTS = (Slot("branch1", "model", "branch1."), Slot("branch2", "model", "branch2."))
CPCL_VALUES = (("epoch", "epoch"), ("iteration", "iteration"))
UCCL_WRAPPER = Wrapper(
    keys=("model", "optimizer", "epoch", "previous_best"), values=(("epoch", "epoch"),), percent="previous_best"
)

_ALL = (
    Dialect(
        name="torch",
        description="this project's names",
        rules=OWN_RULES,
        slots=OWN_SLOTS,
        marks=OWN_MARKS,
        suffixes=(".pth", ".ckpt", ".safetensors"),
        native=True,
    ),
    Dialect(
        name="mindspore",
        description="this project's names with MindSpore's names in BatchNorms",
        rules=OWN_RULES,
        slots=OWN_SLOTS,
        marks=OWN_MARKS,
        suffixes=(".pth", ".ckpt", ".safetensors"),
        norm="mindspore",
        native=True,
    ),
    Dialect(
        name="u2pl",
        description="U2PL, also its branch with_AEL",
        rules=U2PL_RULES,
        slots=U2PL_SLOTS,
        marks=Marks(name="decoder.aspp.conv5."),
        wrapper=replace(U2PL_WRAPPER, state=("class_criterion", "cutmix_bank")),
        module_prefix="module.",
        preset="u2pl",
    ),
    Dialect(
        name="pcr",
        description="PCR in PyTorch's names, U2PL's layout",
        rules=PCR_RULES,
        slots=U2PL_SLOTS,
        marks=Marks(name="proto_net."),
        wrapper=U2PL_WRAPPER,
        module_prefix="module.",
        preset="pcr",
    ),
    Dialect(
        name="pcr-mindspore",
        description="PCR's released MindSpore files: the teacher, flat",
        rules=PCR_RULES,
        slots=(Slot("teacher"),),
        marks=Marks(name="proto_net."),
        suffixes=(".ckpt",),
        module_prefix="module.",
        norm="mindspore",
        counters=False,
        zero_bias=("auxiliary.conv",),
        preset="pcr",
    ),
    Dialect(
        name="cps",
        description="CPS, both branches: CPCL's names beside the optimisers l and r",
        rules=CPCL_RULES,
        slots=CPCL_SLOTS,
        marks=Marks(name="head.aspp.map_convs.", entries=("optimizer_l", "optimizer_r")),
        wrapper=Wrapper(keys=("model", "optimizer_l", "optimizer_r", "epoch", "iteration"), values=CPCL_VALUES),
        preset="cpcl",
    ),
    Dialect(
        name="cpcl",
        description="CPCL, both branches",
        rules=CPCL_RULES,
        slots=CPCL_SLOTS,
        marks=Marks(name="head.aspp.map_convs."),
        wrapper=Wrapper(keys=("model", "optimizer_1", "optimizer_2", "epoch", "iteration"), values=CPCL_VALUES),
        preset="cpcl",
    ),
    Dialect(
        name="usrn",
        description="USRN, the baseline and the two-branch network",
        rules=USRN_RULES,
        slots=(Slot("student", "state_dict"),),
        marks=Marks(name="encoder.backbone."),
        wrapper=Wrapper(
            keys=("arch", "epoch", "state_dict", "monitor_best"),
            values=(("epoch", "epoch"),),
            constants=(("arch", "DistributedDataParallel"),),
            percent="monitor_best",
        ),
        module_prefix="module.",
        preset="usrn",
    ),
    Dialect(
        name="uccl",
        description="UCCL",
        rules=UCCL_RULES,
        slots=(Slot("student", "model"),),
        marks=Marks(name="head.b0."),
        wrapper=UCCL_WRAPPER,
        module_prefix="module.",
        preset="uccl",
    ),
    Dialect(
        name="unimatch",
        description="UniMatch: the same files as UCCL's, and recognised as such",
        rules=UCCL_RULES,
        slots=(Slot("student", "model"),),
        marks=Marks(name="head.b0.", same_as="uccl"),
        wrapper=UCCL_WRAPPER,
        module_prefix="module.",
        preset="uccl",
    ),
    Dialect(
        name="torchvision",
        description="a ResNet alone, 7x7 or three-3x3 stem, without its classifier (torchvision, timm, CPS, U2PL)",
        rules=TORCHVISION_RULES,
        slots=(Slot("model"),),
        marks=Marks(name="layer1.0.conv1."),
        suffixes=(".pth", ".safetensors"),
        ignored=("fc", "classifier", "head"),
    ),
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _ALL}
