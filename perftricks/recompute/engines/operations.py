"""Operations of TensorFlow that would happen twice, or come out differently, when run again."""

from __future__ import annotations

WRITES = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})
RANDOM = frozenset(
    {
        "Multinomial",
        "ParameterizedTruncatedNormal",
        "RandomGamma",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "TruncatedNormal",
    }
)
# And what moves the state of a tf.random.Generator on.
DRAWS = RANDOM | {"RngReadAndSkip"}
