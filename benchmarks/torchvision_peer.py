"""Torchvision's Mask R-CNN, ResNet101 with FPN, doing the work of `workload.py`, through its public API.

Weights are random, but scaled so that activations stay sane and inference yields its 100 detections: torchvision skips
the mask head's work where nothing is detected. Copies of the ground truth join the proposals by a hook on the RPN.
"""

import re
import zlib
from typing import Any

import numpy as np
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from benchmarks.workload import COPIES, LEARNING_RATE, Scene

# Gains of He's initialisation and shifts of biases, by parts of a parameter's name.
GAINS = (
    ("inner_blocks", 0.35),
    ("layer_blocks", 0.4),
    ("rpn.head.bbox_pred", 0.15),
    ("cls_score", 5.0),
    ("box_predictor.bbox_pred", 1.5),
    ("mask_fcn_logits", 2.0),
    ("box_head.fc7", 3.0),
)
SHIFTS = (("box_head.fc6.bias", -2.0), ("box_head.fc7.bias", -2.0))


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Random weights that depend on nothing but each parameter's name."""
    for name, value in model.state_dict().items():
        kind = name.rsplit(".", 1)[-1]
        if kind not in ("weight", "bias", "running_mean", "running_var"):
            continue
        rng, shape = np.random.default_rng(zlib.crc32(name.encode())), tuple(value.shape)
        if kind == "running_var":
            filled = rng.uniform(0.8, 1.25, shape)
        elif kind != "weight":
            filled = 0.05 * rng.normal(size=shape) + sum(shift for part, shift in SHIFTS if part in name)
        elif len(shape) == 1:  # a norm's; the last of a block is small, as deep residual sums need
            filled = rng.uniform(0.8, 1.2, shape) * (0.2 if re.search(r"bn3\.weight$", name) else 1.0)
        else:
            gain = float(np.prod([gain for part, gain in GAINS if part in name]))
            filled = rng.normal(size=shape) * gain * np.sqrt(2.0 / np.prod(shape[1:]))
        value.copy_(torch.from_numpy(np.asarray(filled, np.float32)))


def _moved(boxes: torch.Tensor) -> torch.Tensor:
    copies = boxes.repeat_interleave(COPIES, 0)
    sides = (copies[:, 2:] - copies[:, :2]).repeat(1, 2)
    return copies + (torch.rand_like(copies) - 0.5) * 0.2 * sides


class Peer:
    """One torchvision network; `train` takes a step, `detect` a forward pass. On a GPU both may return before they are
    done: `wait`.
    """

    def __init__(
        self,
        scenes: list[Scene],
        *,
        device: str = "cpu",
        channels_last: bool = False,
        compiled: bool = False,
        amp: bool = False,
    ):
        size = scenes[0].image.shape[0]
        backbone = resnet_fpn_backbone(backbone_name="resnet101", weights=None, trainable_layers=5)
        self.model = MaskRCNN(backbone, num_classes=91, min_size=size, max_size=size)
        fill(self.model)
        self.model.to(device)
        self.weights = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.model.rpn.register_forward_hook(self._with_truth)
        if compiled:
            self.model.backbone = torch.compile(self.model.backbone)
            self.model.rpn.head = torch.compile(self.model.rpn.head)
            heads = self.model.roi_heads
            heads.box_head = torch.compile(heads.box_head, dynamic=True)
            heads.mask_head = torch.compile(heads.mask_head, dynamic=True)
        self.device, self.amp = device, amp
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
        self.images = [torch.from_numpy(s.image).permute(2, 0, 1).float().div(255).to(device) for s in scenes]
        self.truth = [
            {
                "boxes": torch.from_numpy(s.boxes).to(device),
                "labels": torch.from_numpy(s.classes).to(device),
                "masks": torch.from_numpy(s.masks).to(torch.uint8).to(device),
            }
            for s in scenes
        ]

    @staticmethod
    def _with_truth(rpn: Any, inputs: Any, output: Any) -> Any:
        if not rpn.training:
            return output
        proposals, losses = output
        return [torch.cat([p, _moved(t["boxes"])]) for p, t in zip(proposals, inputs[2], strict=True)], losses

    def train(self) -> dict[str, torch.Tensor]:
        """One step; its losses."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            losses = self.model(self.images, self.truth)
            total = sum(losses.values())
        total.backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def detect(self) -> list[dict[str, torch.Tensor]]:
        """Detections of every image, masks pasted into it."""
        self.model.eval()
        with torch.no_grad(), self._precision():
            found = self.model(self.images)
        return found

    def detect_unpasted(self) -> list[dict[str, torch.Tensor]]:
        """As `detect`, but masks stay in their boxes, as those of `MaskRCNN.detect` do."""
        model = self.model.eval()
        with torch.no_grad(), self._precision():
            images, _ = model.transform(self.images)
            features = model.backbone(images.tensors)
            proposals, _ = model.rpn(images, features)
            found, _ = model.roi_heads(features, proposals, images.image_sizes)
        return found

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.partition(":")[0], dtype=torch.bfloat16, enabled=self.amp)

    def wait(self, _: Any = None) -> None:
        """Until everything is computed."""
        if self.device != "cpu":
            torch.cuda.synchronize()
