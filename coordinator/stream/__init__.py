"""From video files to frame batches: clips (what there is), reader (decoding), augment, slots (who plays what)."""
