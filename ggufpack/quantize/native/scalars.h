// Scalar helpers, and the encoding of one sub-block's weights once its scale is known.

#pragma once

#include "vectors.h"

#define SUPERBLOCK 256

// nearest_int of ggml-quants.c
INLINE int nearest_int(float v) {
    float shifted = v + MAGIC;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (bits & 0x007fffff) - 0x00400000;
}

// Sixteen bytes, spelt out: compilers take byte loops apart.
typedef uint8_t bytes __attribute__((vector_size(16)));
typedef uint16_t byte_pairs __attribute__((vector_size(16)));

INLINE bytes load_bytes(const uint8_t *p) {
    bytes v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void put_bytes(uint8_t *p, bytes v) { memcpy(p, &v, sizeof v); }
INLINE bytes shifted_up(bytes v, int by) { return (bytes)((byte_pairs)v << by) & (uint8_t)(0xff << by); }
INLINE bytes shifted_down(bytes v, int by) { return (bytes)((byte_pairs)v >> by) & (uint8_t)(0xff >> by); }

INLINE int clamped_int(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

INLINE void put_half(uint8_t *p, float v) {
    uint8_t halves[2 * LANES];
    store_low_halves(halves, f16_bits(splat(v)));
    memcpy(p, halves, 2);
}

INLINE float half(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    float values[LANES];
    store(values, f16_value(splat_int(h)));
    return values[0];
}

// Levels of 32 weights, the first 16 with one scale and offset, the others with another:
// clamp(nearest_int((x + offset) / scale)) + bias
INLINE void put_levels(const float *x, const float offset[2], const float scale[2], int low, int high, int bias,
                       uint8_t *out) {
    ints levels[BLOCK_VECTORS];
    for (int k = 0; k < BLOCK_VECTORS; k++) {
        int which = k >= BLOCK_VECTORS / 2;
        lanes v = (load(x + k * LANES) + splat(offset[which])) / splat(scale[which]);
        levels[k] = truncated(clamped(nearest(v), low, high) + splat((float)bias));
    }
    store_bytes(out, levels);
}
