// What the kernels need of a vector of LANES floats; one of three implementations.
//
// lanes: floats. ints: as many int32. mask: the result of a comparison, one truth a lane.
// smaller(a, b) is `a < b ? a : b` and larger(a, b) is `a > b ? a : b`, b for NaN and for equal zeros.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

// 1.5 * 2^23: a float added to it is rounded to a whole number, to even when between two
#define MAGIC 12582912.0f
// the largest magnitude for which that holds
#define MAGIC_RANGE 4194303.0f

#if defined(__AVX512F__)
#include "vectors_avx512.h"
#elif defined(__AVX2__)
#include "vectors_avx2.h"
#else
#include "vectors_generic.h"
#endif

#define BLOCK 32
#define BLOCK_VECTORS (BLOCK / LANES)

INLINE lanes zeros(void) { return splat(0.0f); }

INLINE lanes magnitude(lanes v) { return as_lanes(and_ints(as_ints(v), splat_int(0x7fffffff))); }

INLINE lanes clamped(lanes v, int low, int high) {
    return larger(smaller(v, splat((float)high)), splat((float)low));
}

// nearest_int of ggml-quants.c as a float, for every input, NaN and overflow included
INLINE lanes nearest(lanes v) {
    ints bits = and_ints(as_ints(v + splat(MAGIC)), splat_int(0x007fffff));
    return as_lanes(or_ints(bits, splat_int(0x4b000000))) - splat(MAGIC);
}

INLINE mask within_magic_range(lanes v) { return not_above(magnitude(v), splat(MAGIC_RANGE)); }

// LANES rows, `stride` apart, turned: out[i] holds element i of each
INLINE void load_turned(const float *x, int stride, int columns, lanes *out) {
    for (int c = 0; c < columns; c += TURN)
        for (int r = 0; r < LANES; r += TURN) turn(x + r * stride + c, stride, (float *)(out + c) + r);
}
