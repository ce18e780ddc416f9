"""From settings to a run that is ready for its first tick (prepare.py).

checks.py   find the clips, check the model, find a checkpoint          → Checked
split.py    time the blocks and choose the split, if it is not given
stages.py   choose the split and the start, build the stages            → Built
            (with what is chosen likewise: edge_ticks.py, class_weights.py, colour_jitter.py)
start.py    restore what the run goes on from
prepare.py  build what watches the run                                  → Prepared (prepared.py)
"""
