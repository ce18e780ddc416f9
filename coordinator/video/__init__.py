"""From videos to frame batches.

formats (how data lies on the disk) → clips (what there is, probed) → playlist (in which order) → slots (who plays
what), with reader (decoding) and augment below. live plays sources that do not wait; base is what both have in common.
"""
