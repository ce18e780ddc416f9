"""From videos to frame batches.

files/dataset_formats (layouts on disk) → files/clips (probed videos) → files/play_order → slots (fills batches), with
decoder_pool/ and decoding/ below. live plays live sources; stream is the interface of both. targets pairs batches with
their targets, and feeder sends them to the stages.
"""
