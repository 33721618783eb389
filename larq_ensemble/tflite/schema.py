"""What the tables of a `.tflite` file hold: the part of the schema that readers follow.

Files are written with generated classes of the whole schema; tests compare. Here no
generated code is needed, which would take a device a tenth of a second to import.

# References
    - [TFLite schema](https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_BYTES = {"?": 1, "b": 1, "B": 1, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}

# The enumerations `BuiltinOperator`, `BuiltinOptions`, `BuiltinOptions2` and `TensorType`, from 0
# on.
_OPERATORS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
    RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
    SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT
    LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG
    PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
    EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD
    REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
    REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
    SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE
    RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
    IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE
    RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD
    STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
    STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
    STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
    STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE
    STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT
    STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
    STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
    STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW
"""
_OPTIONS = """
    NONE Conv2DOptions DepthwiseConv2DOptions ConcatEmbeddingsOptions LSHProjectionOptions
    Pool2DOptions SVDFOptions RNNOptions FullyConnectedOptions SoftmaxOptions
    ConcatenationOptions AddOptions L2NormOptions LocalResponseNormalizationOptions LSTMOptions
    ResizeBilinearOptions CallOptions ReshapeOptions SkipGramOptions SpaceToDepthOptions
    EmbeddingLookupSparseOptions MulOptions PadOptions GatherOptions BatchToSpaceNDOptions
    SpaceToBatchNDOptions TransposeOptions ReducerOptions SubOptions DivOptions SqueezeOptions
    SequenceRNNOptions StridedSliceOptions ExpOptions TopKV2Options SplitOptions
    LogSoftmaxOptions CastOptions DequantizeOptions MaximumMinimumOptions ArgMaxOptions
    LessOptions NegOptions PadV2Options GreaterOptions GreaterEqualOptions LessEqualOptions
    SelectOptions SliceOptions TransposeConvOptions SparseToDenseOptions TileOptions
    ExpandDimsOptions EqualOptions NotEqualOptions ShapeOptions PowOptions ArgMinOptions
    FakeQuantOptions PackOptions LogicalOrOptions OneHotOptions LogicalAndOptions
    LogicalNotOptions UnpackOptions FloorDivOptions SquareOptions ZerosLikeOptions FillOptions
    BidirectionalSequenceLSTMOptions BidirectionalSequenceRNNOptions
    UnidirectionalSequenceLSTMOptions FloorModOptions RangeOptions ResizeNearestNeighborOptions
    LeakyReluOptions SquaredDifferenceOptions MirrorPadOptions AbsOptions SplitVOptions
    UniqueOptions ReverseV2Options AddNOptions GatherNdOptions CosOptions WhereOptions
    RankOptions ReverseSequenceOptions MatrixDiagOptions QuantizeOptions MatrixSetDiagOptions
    HardSwishOptions IfOptions WhileOptions DepthToSpaceOptions NonMaxSuppressionV4Options
    NonMaxSuppressionV5Options ScatterNdOptions SelectV2Options DensifyOptions SegmentSumOptions
    BatchMatMulOptions CumsumOptions CallOnceOptions BroadcastToOptions Rfft2dOptions
    Conv3DOptions HashtableOptions HashtableFindOptions HashtableImportOptions
    HashtableSizeOptions VarHandleOptions ReadVariableOptions AssignVariableOptions
    RandomOptions BucketizeOptions GeluOptions DynamicUpdateSliceOptions
    UnsortedSegmentProdOptions UnsortedSegmentMaxOptions UnsortedSegmentMinOptions
    UnsortedSegmentSumOptions ATan2Options SignOptions BitcastOptions BitwiseXorOptions
    RightShiftOptions
"""
_OPTIONS_2 = """
    NONE StablehloConcatenateOptions StablehloBroadcastInDimOptions StablehloSliceOptions
    StablehloConvolutionOptions StablehloCustomCallOptions StablehloReduceOptions
    StablehloScatterOptions StablehloCompareOptions StablehloDynamicSliceOptions
    StablehloPadOptions StablehloIotaOptions StablehloDotGeneralOptions
    StablehloReduceWindowOptions StablehloSortOptions StablehloWhileOptions
    StablehloGatherOptions StablehloTransposeOptions DilateOptions
    StablehloRngBitGeneratorOptions ReduceWindowOptions
"""
_TYPES = """
    FLOAT32 FLOAT16 INT32 UINT8 INT64 STRING BOOL INT16 COMPLEX64 INT8 FLOAT64 COMPLEX128 UINT64
    RESOURCE VARIANT UINT32 UINT16 INT4
"""
# Each table with its fields in order, `name:kind=default`. A kind is a number format of `struct`, a
# vector of one as `[i]`, a table, a vector of tables, `string`, or `union` for a table of which
# only the place is read; `_` is a deprecated field. The fields' order gives their place in a file.
_TABLES = """
    Model version:I operatorCodes:[OperatorCode] subgraphs:[SubGraph] description:string
        buffers:[Buffer] metadataBuffer:[i] metadata:[Metadata] signatureDefs:[SignatureDef]
    OperatorCode deprecatedBuiltinCode:b customCode:string version:i=1 builtinCode:i
    SubGraph tensors:[Tensor] inputs:[i] outputs:[i] operators:[Operator] name:string
    Tensor shape:[i] type:b buffer:I name:string quantization:QuantizationParameters
        isVariable:? sparsity:union shapeSignature:[i] hasRank:?
        variantTensors:union
    QuantizationParameters min:[f] max:[f] scale:[f] zeroPoint:[q] detailsType:B details:union
        quantizedDimension:i
    Operator opcodeIndex:I inputs:[i] outputs:[i] builtinOptionsType:B builtinOptions:union
        customOptions:[B] customOptionsFormat:b mutatingVariableInputs:[?] intermediates:[i]
        largeCustomOptionsOffset:Q largeCustomOptionsSize:Q builtinOptions2Type:B
        builtinOptions2:union
    Buffer data:[B] offset:Q size:Q
    Metadata name:string buffer:I
    SignatureDef inputs:[TensorMap] outputs:[TensorMap] signatureKey:string _ subgraphIndex:I
    TensorMap name:string tensorIndex:I
    Conv2DOptions padding:b strideW:i strideH:i fusedActivationFunction:b dilationWFactor:i=1
        dilationHFactor:i=1 quantizedBiasType:b
    DepthwiseConv2DOptions padding:b strideW:i strideH:i depthMultiplier:i
        fusedActivationFunction:b dilationWFactor:i=1 dilationHFactor:i=1
    Pool2DOptions padding:b strideW:i strideH:i filterWidth:i filterHeight:i
        fusedActivationFunction:b
    FullyConnectedOptions fusedActivationFunction:b weightsFormat:b keepNumDims:?
        asymmetricQuantizeInputs:? quantizedBiasType:b
    GatherOptions axis:i batchDims:i
    AddOptions fusedActivationFunction:b potScaleInt16:?=1
    SubOptions fusedActivationFunction:b potScaleInt16:?=1
    MulOptions fusedActivationFunction:b
    DivOptions fusedActivationFunction:b
    ConcatenationOptions axis:i fusedActivationFunction:b
    ReducerOptions keepDims:?
    CastOptions inDataType:b outDataType:b
    SplitVOptions numSplits:i
    ReshapeOptions newShape:[i]
    SoftmaxOptions beta:f
    LeakyReluOptions alpha:f
    SqueezeOptions squeezeDims:[i]
    StridedSliceOptions beginMask:i endMask:i ellipsisMask:i newAxisMask:i shrinkAxisMask:i
        offset:?
"""


class Field(NamedTuple):
    """A field of a table.

    # Arguments
        number: its place in a vtable.
        kind: as described above.
        default: its value where it is missing.
        size: its bytes in the table.
        item: of a vector of tables, the table.
        item_bytes: of a vector, the bytes of an item; a table is an offset.
    """

    number: int
    kind: str
    default: Any
    size: int
    item: str | None
    item_bytes: int


def _fields(descriptions: str) -> dict[str, Field]:
    fields = {}
    for number, description in enumerate(descriptions.split()):
        name, _, kind = description.partition(":")
        kind, _, default = kind.partition("=")
        if name != "_":
            inner = kind[1:-1]
            fields[name] = Field(
                number=number + 2,  # after the sizes of the vtable and of the table
                kind=kind,
                default=_default(kind, default),
                size=_BYTES.get(kind, 4),
                item=inner if kind[0] == "[" and inner not in _BYTES else None,
                item_bytes=_BYTES.get(inner, 4),
            )
    return fields


def _default(kind: str, default: str) -> Any:
    if kind == "?":
        return bool(default)
    if kind == "f":
        return float(default or 0)
    return int(default or 0) if kind in _BYTES else None


def _tables(text: str) -> dict[str, dict[str, Field]]:
    descriptions = re.findall(r"^ {4}(\w+) (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: _fields(fields) for name, fields in descriptions}


#: Table -> its fields.
TABLES: Mapping[str, Mapping[str, Field]] = _tables(_TABLES)
#: Number -> name.
OPERATORS, OPTIONS, OPTIONS_2, TYPES = (
    tuple(text.split()) for text in (_OPERATORS, _OPTIONS, _OPTIONS_2, _TYPES)
)
