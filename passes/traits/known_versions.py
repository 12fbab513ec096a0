"""The versions of operators that the rules of the tables were held against.

When ``onnx`` brings a newer version of an operator, a test fails until somebody has read what is new, has
written it into the rules, or lets them refuse it, and has raised the number here. Until then a node of the
newer version has no rules (see :class:`obs_onnx.passes.traits.known.Known`).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from obs_onnx.passes.traits.known import Known

__all__ = ["CONTRIB", "LOOKED_AT", "known"]


def _versions(names: Mapping[int, str]) -> dict[str, int]:
    return {name: version for version, text in names.items() for name in text.split()}


LOOKED_AT: Mapping[str, int] = _versions(
    {
        1: """
            Not ai.onnx.ml::ArrayFeatureExtractor ai.onnx.ml::Binarizer ai.onnx.ml::CategoryMapper
            ai.onnx.ml::FeatureVectorizer ai.onnx.ml::Imputer ai.onnx.ml::LinearClassifier
            ai.onnx.ml::LinearRegressor ai.onnx.ml::Normalizer ai.onnx.ml::OneHotEncoder
            ai.onnx.ml::SVMClassifier ai.onnx.ml::SVMRegressor ai.onnx.ml::Scaler
        """,
        4: "ai.onnx.ml::LabelEncoder",
        5: "ai.onnx.ml::TreeEnsembleClassifier ai.onnx.ml::TreeEnsembleRegressor",
        7: "And Or Xor",
        9: "Shrink",
        10: "ConvInteger MatMulInteger QLinearConv Upsample",
        11: "ConcatFromSequence DynamicQuantizeLinear NonMaxSuppression Scatter SequenceAt SequenceConstruct",
        13: """
            Abs ArgMax ArgMin Ceil Clip Concat Erf Exp Expand Floor Gather GatherElements GatherND Gemm
            Greater Hardmax LRN Less Log LogSoftmax MatMul Max Mean MeanVarianceNormalization Min Neg
            NonZero Reciprocal ReduceSum Sigmoid Sign Slice Softmax Sqrt Sum Tanh Tile
        """,
        14: "Add CumSum Div Mul Relu Sub Trilu",
        15: "BatchNormalization Pow",
        16: "GreaterOrEqual LeakyRelu LessOrEqual PRelu Where",
        17: "LayerNormalization SequenceMap",
        18: """
            BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Col2Im ReduceL1 ReduceL2 ReduceMean ReduceProd
            ReduceSumSquare ScatterElements ScatterND Split
        """,
        19: "Equal Resize",
        20: "DFT Gelu IsInf IsNaN ReduceMax ReduceMin",
        21: "GroupNormalization QLinearMatMul",
        22: """
            Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli Conv ConvTranspose Cos Cosh DeformConv
            Det Dropout Elu EyeLike GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid
            HardSwish InstanceNormalization LSTM LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool Mish
            Multinomial RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike RoiAlign Round
            Selu Sin Sinh Softplus Softsign Tan ThresholdedRelu
        """,
        23: "RMSNormalization RotaryEmbedding",
        24: "SplitToSequence Swish TensorScatter TopK",
        25: """
            Attention CastLike Constant ConstantOfShape Flatten Identity If Loop Pad Reshape Scan Shape Size
            Squeeze Transpose Unsqueeze
        """,
        27: "CausalConvWithState LinearAttention Range",
        28: """
            BitShift Cast Celu Compress DepthToSpace DequantizeLinear Einsum Mod OneHot QuantizeLinear
            ReduceLogSum ReduceLogSumExp ReverseSequence SpaceToDepth Unique
        """,
    }
)
"""Operators of the tables: the newest version that their rules were held against."""

_OLDER = {
    "axes": """
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Squeeze Unsqueeze Slice
    """,
    "axis": "DFT",
    "broadcast": "Add And Div Equal Gemm Greater Less Mul Or Pow Sub Xor",
    "consumed_inputs": """
        Abs Add BatchNormalization Ceil Clip Div Dropout Elu Exp Floor HardSigmoid InstanceNormalization
        LeakyRelu Log Max Mean Min Mul Neg PRelu Reciprocal Relu Selu Sigmoid Sqrt Sub Sum Tanh
    """,
    "ends": "Slice",
    "is_test": "BatchNormalization Dropout",
    "k": "TopK",
    "max": "Clip",
    "min": "Clip",
    "pads": "Pad",
    "ratio": "Dropout",
    "scales": "Upsample",
    "split": "Split",
    "starts": "Slice",
    "value": "Pad",
}
"""Attributes of older versions that the rules know. ``axis`` of Add and its like is none of them."""


def _contrib(attributes: str, inputs: int | None, outputs: int = 1, last: int | None = 1) -> Known:
    return Known(last, frozenset(attributes.split()), inputs, outputs)


_EXPERTS = """
    activation_alpha activation_beta activation_type k normalize_routing_weights swiglu_fusion swiglu_limit
    swiglu_limit_after_activation use_sparse_mixer
"""
_WINDOWS = "auto_pad dilations group kernel_shape pads strides"

CONTRIB: Mapping[str, Known] = {
    "SimplifiedLayerNormalization": _contrib("axis epsilon stash_type", 2, 2, last=None),
    "com.microsoft::Attention": _contrib(
        """
        do_rotary mask_filter_value num_heads past_present_share_buffer qkv_hidden_sizes rotary_embedding_dim
        scale unidirectional
        """,
        7,
        2,
    ),
    "com.microsoft::BiasAdd": _contrib("", 3),
    "com.microsoft::BiasGelu": _contrib("", 2),
    "com.microsoft::BiasSplitGelu": _contrib("", 2),
    "com.microsoft::CausalConvWithState": _contrib(  # what only a GPU takes is refused
        """
        activation channels_last dilation input_channel_offset input_channels ndim state_channels_last
        state_length state_update_capacity state_window
        """,
        4,
        3,
    ),
    "com.microsoft::DecoderMaskedMultiHeadAttention": _contrib(
        "mask_filter_value num_heads output_qk past_present_share_buffer scale", 11, 4
    ),
    "com.microsoft::DecoderMaskedSelfAttention": _contrib(
        "do_rotary mask_filter_value num_heads past_present_share_buffer scale", 9, 2
    ),
    "com.microsoft::DequantizeLinear": _contrib("axis", 3),
    "com.microsoft::DynamicQuantizeLSTM": _contrib(
        "activation_alpha activation_beta activations clip direction hidden_size input_forget", 12, 3
    ),
    "com.microsoft::DynamicQuantizeMatMul": _contrib("", 5),
    "com.microsoft::EmbedLayerNormalization": _contrib("epsilon mask_index_type", 9, 3),
    "com.microsoft::FastGelu": _contrib("", 2),
    "com.microsoft::FusedConv": _contrib(f"activation activation_params {_WINDOWS}", 4),
    "com.microsoft::FusedGemm": _contrib(
        "activation activation_alpha activation_beta activation_gamma alpha beta transA transB", 3
    ),
    "com.microsoft::FusedMatMul": _contrib("alpha transA transB transBatchA transBatchB", 2),
    "com.microsoft::GatedDeltaNet": _contrib(
        """
        beta_activation chunk_size gate_activation gate_lower_bound qk_l2_norm scale state_update_capacity
        update_rule
        """,
        11,
        3,
    ),
    "com.microsoft::GatedRMSNorm": _contrib("activation epsilon", 3),
    "com.microsoft::GatherBlockQuantized": _contrib("bits block_size gather_axis quantize_axis", 4),
    "com.microsoft::Gelu": _contrib("", 1),
    "com.microsoft::GemmFastGelu": _contrib("", 3),
    "com.microsoft::GemmaRotaryEmbedding": _contrib("", 5, 2),
    "com.microsoft::GroupNorm": _contrib("activation channels_last epsilon groups", 3),
    "com.microsoft::GroupQueryAttention": _contrib(
        """
        causal do_rotary k_norm_epsilon k_quant_type kv_cache_bit_width kv_num_heads local_window_size
        num_heads q_norm_epsilon qk_norm_epsilon qk_output rotary_interleaved scale sliding_window_cache
        smooth_softmax softcap v_quant_type
        """,
        16,
        4,
    ),
    "com.microsoft::LinearAttention": _contrib(
        "chunk_size kv_num_heads q_num_heads scale state_window update_rule", 6, 2
    ),
    "com.microsoft::LongformerAttention": _contrib("num_heads window", 7),
    "com.microsoft::MRotaryEmbedding": _contrib(
        "interleaved is_packed_batching mrope_layout mrope_section num_heads rotary_embedding_dim scale", 4
    ),
    "com.microsoft::MatMulBnb4": _contrib("K N block_size quant_type training_mode transB", 3),
    "com.microsoft::MatMulFpQ4": _contrib("blk_quant_type", 3),
    "com.microsoft::MatMulIntegerToFloat": _contrib("", 7),
    "com.microsoft::MatMulNBits": _contrib("K N accuracy_level bits block_size weight_prepacked", 6),
    "com.microsoft::MatMulNBitsMlp": _contrib("K N accuracy_level activation bits block_size epsilon", 9, 2),
    "com.microsoft::MatMulNBitsQkv": _contrib("K Nkv Nq accuracy_level bits block_size epsilon", 12, 4),
    "com.microsoft::MoE": _contrib(_EXPERTS, 8),
    "com.microsoft::MultiHeadAttention": _contrib("mask_filter_value num_heads scale unidirectional", 10, 4),
    "com.microsoft::NhwcFusedConv": _contrib(f"activation activation_params {_WINDOWS}", 4),
    "com.microsoft::PackedAttention": _contrib("num_heads qkv_hidden_sizes scale", 6),
    "com.microsoft::PackedMultiHeadAttention": _contrib("mask_filter_value num_heads scale", 7),
    "com.microsoft::PagedAttention": _contrib(
        """
        do_rotary is_causal k_cache_dtype k_quant_type kv_cache_layout kv_num_heads local_window_size
        num_heads qk_norm_epsilon rotary_interleaved rotary_offset scale softcap v_cache_dtype v_head_size
        v_quant_type
        """,
        17,
        3,
    ),
    "com.microsoft::QAttention": _contrib(
        "do_rotary mask_filter_value num_heads past_present_share_buffer scale unidirectional", 9, 2
    ),
    "com.microsoft::QGemm": _contrib("alpha transA transB", 9),
    "com.microsoft::QMoE": _contrib(
        f"""
        {_EXPERTS} accuracy_level block_size expert_weight_bits fc1_expert_weight_bits fc2_expert_weight_bits
        fc3_expert_weight_bits quant_type weights_prepacked
        """,
        21,
    ),
    "com.microsoft::QLinearAdd": _contrib("", 8),
    "com.microsoft::QLinearAveragePool": _contrib(
        "auto_pad ceil_mode channels_last count_include_pad kernel_shape pads strides", 5
    ),
    "com.microsoft::QLinearConcat": _contrib("axis", None),
    "com.microsoft::QLinearConv": _contrib(f"channels_last {_WINDOWS}", 9),
    "com.microsoft::QLinearGlobalAveragePool": _contrib("channels_last", 5),
    "com.microsoft::QLinearLeakyRelu": _contrib("alpha", 5),
    "com.microsoft::QLinearMul": _contrib("", 8),
    "com.microsoft::QLinearReduceMean": _contrib("axes keepdims", 5),
    "com.microsoft::QLinearSigmoid": _contrib("", 5),
    "com.microsoft::QLinearSoftmax": _contrib("axis opset", 5),
    "com.microsoft::QLinearWhere": _contrib("", 9),
    "com.microsoft::QuantizeLinear": _contrib("axis", 3),
    "com.microsoft::QuickGelu": _contrib("alpha", 1),
    "com.microsoft::RotaryEmbedding": _contrib(
        "interleaved is_packed_batching num_heads rotary_embedding_dim scale", 4
    ),
    "com.microsoft::SkipLayerNormalization": _contrib("epsilon", 5, 4),
    "com.microsoft::SkipSimplifiedLayerNormalization": _contrib("epsilon", 4, 4),
    "com.microsoft::SparseAttention": _contrib(
        "do_rotary kv_num_heads num_heads rotary_interleaved scale sparse_block_size", 11, 3
    ),
    "com.microsoft::SparsePagedAttention": _contrib(
        """
        attention_mode auxiliary_cache_layout auxiliary_kv_shared do_rotary is_causal k_quant_type
        kv_num_heads local_window_size num_heads qk_norm_epsilon rotary_interleaved rotary_offset scale
        selected_kv_source softcap v_quant_type
        """,
        22,
        3,
    ),
    "com.microsoft::SwiGLU": _contrib("activation_alpha activation_beta limit round_activation", 2),
    "com.microsoft::Unique": _contrib("", 1, 3),
}
"""Operators of runtimes, whose schemas ONNX does not have."""


def known(name: str) -> Known:
    """What the rules of an operator of the tables know: for ONNX's own, what its schema says."""
    if name in CONTRIB:
        return CONTRIB[name]
    last = LOOKED_AT[name]
    older = {attribute for attribute, names in _OLDER.items() if name in names.split()}
    try:
        domain, _, op_type = name.rpartition("::")
        schema = onnx.defs.get_schema(op_type, last, domain)
    except onnx.defs.SchemaError:  # the installed onnx is older than the operator
        return Known(last, frozenset(older), 0, 0)
    return Known(
        last,
        frozenset({*schema.attributes, *older}),
        _count(schema.max_input),
        _count(schema.max_output),
    )


def _count(most: int) -> int | None:
    return None if most == _ANY else most


_ANY = onnx.defs.get_schema("Concat").max_input
