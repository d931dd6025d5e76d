// F32, F16 and BF16: widening, narrowing, and the largest magnitude on the way.

#pragma once

#include "scalars.h"

// ggml_type (ggml.h)
enum {
    TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q4_0 = 2, TYPE_Q4_1 = 3, TYPE_Q5_0 = 6, TYPE_Q5_1 = 7, TYPE_Q8_0 = 8,
    TYPE_Q2_K = 10, TYPE_Q3_K = 11, TYPE_Q4_K = 12, TYPE_Q5_K = 13, TYPE_Q6_K = 14, TYPE_IQ4_NL = 20,
    TYPE_IQ4_XS = 23, TYPE_BF16 = 30,
};

INLINE int float_size(int type) { return type == TYPE_F32 ? 4 : 2; }

INLINE lanes load_as(int type, const uint8_t *p) {
    if (type == TYPE_F16) return load_f16(p);
    if (type == TYPE_BF16) return load_bf16(p);
    return load((const float *)(const void *)p);
}

INLINE lanes rounded_to(int type, lanes v) {
    if (type == TYPE_F16) return f16_value(f16_bits(v));
    if (type == TYPE_BF16) return bf16_value(bf16_bits(v));
    return v;
}

// as bits: with the sign gone, floats are in the order of their bits, NaN above infinity
INLINE int32_t widen_from(int source, int middle, const uint8_t *from, long count, float *x) {
    ints largest = splat_int(0), no_sign = splat_int(0x7fffffff);
    long whole = count - count % LANES;
    for (long i = 0; i < whole; i += LANES) {
        lanes v = rounded_to(middle, load_as(source, from + i * float_size(source)));
        largest = larger_int(largest, and_ints(as_ints(v), no_sign));
        store(x + i, v);
    }
    if (whole < count) {
        uint8_t rest[4 * LANES] = {0};
        memcpy(rest, from + whole * float_size(source), (size_t)((count - whole) * float_size(source)));
        lanes v = rounded_to(middle, load_as(source, rest));
        largest = larger_int(largest, and_ints(as_ints(v), no_sign));
        store(x + whole, v);
    }
    return largest_int(largest);
}

INLINE int32_t widen_by_way_of(int middle, int source, const uint8_t *from, long count, float *x) {
    if (source == TYPE_F16) return widen_from(TYPE_F16, middle, from, count, x);
    if (source == TYPE_BF16) return widen_from(TYPE_BF16, middle, from, count, x);
    return widen_from(TYPE_F32, middle, from, count, x);
}

// x takes `count` floats, up to a whole vector. Returns the bits of the largest magnitude.
static int32_t widen(int source, int middle, const uint8_t *from, long count, float *x) {
    if (middle == source || middle == TYPE_F32) return widen_by_way_of(TYPE_F32, source, from, count, x);
    if (middle == TYPE_F16) return widen_by_way_of(TYPE_F16, source, from, count, x);
    return widen_by_way_of(TYPE_BF16, source, from, count, x);
}

INLINE void narrow(int type, const float *x, long count, uint8_t *out) {
    long whole = count - count % LANES;
    for (long i = 0; i < whole; i += LANES) {
        lanes v = load(x + i);
        store_low_halves(out + 2 * i, type == TYPE_F16 ? f16_bits(v) : bf16_bits(v));
    }
    if (whole < count) {
        uint8_t rest[2 * LANES];
        lanes v = load(x + whole);
        store_low_halves(rest, type == TYPE_F16 ? f16_bits(v) : bf16_bits(v));
        memcpy(out + 2 * whole, rest, (size_t)(2 * (count - whole)));
    }
}

// ggml_fp32_to_fp16_row, ggml_fp32_to_bf16_row_ref (ggml.c)
static void encode_f16(const float *x, long count, uint8_t *out) { narrow(TYPE_F16, x, count, out); }
static void encode_bf16(const float *x, long count, uint8_t *out) { narrow(TYPE_BF16, x, count, out); }
