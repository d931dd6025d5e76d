"""Finding ids of this stage: values found while tensors stream by."""

NOT_FINITE = "GP250"
F16_RANGE = "GP251"
SCALE_RANGE = "GP252"
ALLOWABLE = frozenset({NOT_FINITE, F16_RANGE, SCALE_RANGE})
