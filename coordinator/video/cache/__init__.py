"""Decoded frames that are kept for later epochs: resized and in the run's channels, before crop and augmentation.

key (what determines a clip's frames) → entry (how frames are stored) → folder_store, memory_store (where) → frame_cache
(what a process finds and keeps) → cached_pictures (playing from it and filling it)

Only clips that decode to their end without any damage are kept. The others are decoded whenever they are played, so
that they are counted and reported as without a cache.
"""

KEPT = 64  # entries that stay mapped in a process, so that their pages need not be mapped again
