"""Second stage: RoI Align, box and mask heads, targets, losses, detections and pasting of masks."""
