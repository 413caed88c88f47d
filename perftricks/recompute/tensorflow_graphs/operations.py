"""Operations of TensorFlow that matter to a call that is run twice."""

from __future__ import annotations

# They read a variable, the first of their inputs.
READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})
_SCATTERS = ("Add", "Div", "Max", "Min", "Mul", "Sub", "Update")
# They would happen twice.
WRITES = frozenset(
    {
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "ResourceStridedSliceAssign",
        *("ResourceScatter" + kind for kind in _SCATTERS),
        *("ResourceScatterNd" + kind for kind in _SCATTERS),
    }
)
# So would these, to what is no variable: a table, a queue, an iterator.
MOVES = frozenset(
    {
        "IteratorGetNext",
        "IteratorGetNextAsOptional",
        "IteratorGetNextSync",
        "LookupTableImportV2",
        "LookupTableInsertV2",
        "LookupTableRemoveV2",
        "MultiDeviceIteratorGetNextFromShard",
        "QueueCloseV2",
        "QueueDequeueManyV2",
        "QueueDequeueUpToV2",
        "QueueDequeueV2",
        "QueueEnqueueManyV2",
        "QueueEnqueueV2",
    }
)
# They would come out differently.
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
# And what moves the state of a tf.random.Generator on, or gives more than random numbers.
DRAWS = RANDOM | {
    "FixedUnigramCandidateSampler",
    "LearnedUnigramCandidateSampler",
    "LogUniformCandidateSampler",
    "NonDeterministicInts",
    "RandomCrop",
    "RandomPoisson",
    "RngReadAndSkip",
    "RngSkip",
    "SampleDistortedBoundingBox",
    "SampleDistortedBoundingBoxV2",
    "StatefulRandomBinomial",
    "StatefulStandardNormal",
    "StatefulStandardNormalV2",
    "StatefulTruncatedNormal",
    "StatefulUniform",
    "StatefulUniformFullInt",
    "StatefulUniformInt",
    "ThreadUnsafeUnigramCandidateSampler",
    "UniformCandidateSampler",
}
# Their regions are drawn, unless they are deterministic.
POOLS = frozenset({"FractionalAvgPool", "FractionalMaxPool"})
# Random numbers that come out the same again, for the same seed.
STATELESS = frozenset(
    {
        "StatelessParameterizedTruncatedNormal",
        "StatelessRandomBinomial",
        "StatelessRandomGammaV2",
        "StatelessRandomGammaV3",
        "StatelessRandomNormal",
        "StatelessRandomNormalV2",
        "StatelessRandomUniform",
        "StatelessRandomUniformFullInt",
        "StatelessRandomUniformFullIntV2",
        "StatelessRandomUniformInt",
        "StatelessRandomUniformIntV2",
        "StatelessRandomUniformV2",
        "StatelessTruncatedNormal",
        "StatelessTruncatedNormalV2",
    }
)
