// Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: blocks of 32 with a scale of their own.
// The arithmetic is that of quantize_row_*_ref in ggml-quants.c.

#pragma once

#include "scalars.h"

INLINE float largest_magnitude(const float *x) {
    lanes largest = magnitude(load(x));
    for (int k = 1; k < BLOCK_VECTORS; k++) largest = larger(largest, magnitude(load(x + k * LANES)));
    return largest_of(largest);
}

// the first of the weights whose value, or magnitude, is `wanted`: ggml keeps the first of equals, which
// decides the sign
INLINE float first_with(const float *x, float wanted, int by_magnitude) {
    uint32_t found = 0;
    for (int k = 0; k < BLOCK_VECTORS; k++) {
        lanes v = load(x + k * LANES);
        mask hit = equal(by_magnitude ? magnitude(v) : v, splat(wanted));
        found |= (uint32_t)mask_bits(hit) << (k * LANES);
    }
    return found ? x[__builtin_ctz(found)] : wanted;
}

// the low byte of (x - base) * inverse + rounding, towards zero
INLINE void put_steps(const float *x, float base, float inverse, float rounding, int high, uint8_t *out) {
    ints steps[BLOCK_VECTORS];
    for (int k = 0; k < BLOCK_VECTORS; k++) {
        lanes v = (load(x + k * LANES) - splat(base)) * splat(inverse) + splat(rounding);
        steps[k] = smaller_int(truncated(v), splat_int(high));
    }
    store_bytes(out, steps);
}

INLINE void put_nibbles(const uint8_t *levels, uint8_t *out) {
    put_bytes(out, (load_bytes(levels) & 15) | shifted_up(load_bytes(levels + 16), 4));
}

INLINE void put_fifth_bits(const uint8_t *levels, uint8_t *out) {
#if defined(__SSE2__)
    __m128i low = _mm_loadu_si128((const __m128i *)levels), high = _mm_loadu_si128((const __m128i *)levels + 1);
    uint32_t bits = (uint32_t)_mm_movemask_epi8(_mm_slli_epi16(low, 3));
    bits |= (uint32_t)_mm_movemask_epi8(_mm_slli_epi16(high, 3)) << 16;
#else
    uint32_t bits = 0;
    for (int j = 0; j < BLOCK; j++) bits |= (uint32_t)(levels[j] >> 4) << j;
#endif
    memcpy(out, &bits, sizeof bits);
}

static void encode_q8_0(const float *x, long count, uint8_t *out) {
    // just below a half: towards zero after this addition is roundf, halves away from zero
    const ints rounding = as_ints(splat(0x1.fffffep-2f)), sign = splat_int(INT32_MIN);
    for (; count > 0; count -= BLOCK, x += BLOCK, out += 34) {
        float d = largest_magnitude(x) / 127;
        float inverse = d != 0 ? 1.0f / d : 0.0f;
        put_half(out, d);
        ints steps[BLOCK_VECTORS];
        for (int k = 0; k < BLOCK_VECTORS; k++) {
            lanes v = load(x + k * LANES) * splat(inverse);
            steps[k] = truncated(v + as_lanes(or_ints(rounding, and_ints(as_ints(v), sign))));
        }
        store_bytes(out + 2, steps);
    }
}

INLINE void encode_symmetric(const float *x, long count, int bits, uint8_t *out) {
    const int middle = 1 << (bits - 1), top = 2 * middle - 1, header = bits == 5 ? 6 : 2;
    for (; count > 0; count -= BLOCK, x += BLOCK, out += header + 16) {
        float largest = largest_magnitude(x);
        float d = (largest > 0 ? first_with(x, largest, 1) : 0.0f) / (float)-middle;
        float inverse = d != 0 ? 1.0f / d : 0.0f;
        uint8_t levels[BLOCK];
        put_steps(x, 0.0f, inverse, (float)middle + 0.5f, top, levels);
        put_half(out, d);
        if (bits == 5) put_fifth_bits(levels, out + 2);
        put_nibbles(levels, out + header);
    }
}

INLINE void encode_with_minimum(const float *x, long count, int bits, uint8_t *out) {
    const int top = (1 << bits) - 1, header = bits == 5 ? 8 : 4;
    for (; count > 0; count -= BLOCK, x += BLOCK, out += header + 16) {
        lanes low = load(x), high = low;
        for (int k = 1; k < BLOCK_VECTORS; k++) {
            low = smaller(low, load(x + k * LANES));
            high = larger(high, load(x + k * LANES));
        }
        float smallest = first_with(x, smallest_of(low), 0), largest = largest_of(high);
        // not the -0.0 that zeros of both signs would give
        float d = (largest > smallest ? largest - smallest : 0.0f) / (float)top;
        float inverse = d != 0 ? 1.0f / d : 0.0f;
        uint8_t levels[BLOCK];
        put_steps(x, smallest, inverse, 0.5f, top, levels);
        put_half(out, d);
        put_half(out + 2, smallest);
        if (bits == 5) put_fifth_bits(levels, out + 4);
        put_nibbles(levels, out + header);
    }
}

static void encode_q4_0(const float *x, long count, uint8_t *out) { encode_symmetric(x, count, 4, out); }
static void encode_q5_0(const float *x, long count, uint8_t *out) { encode_symmetric(x, count, 5, out); }
static void encode_q4_1(const float *x, long count, uint8_t *out) { encode_with_minimum(x, count, 4, out); }
static void encode_q5_1(const float *x, long count, uint8_t *out) { encode_with_minimum(x, count, 5, out); }
