// Searches that keep a sub-block a lane, and several vectors of them at work together.

#pragma once

#include "scalars.h"

// the latency of one vector hides behind the others. Unrolled early, their sums stay in registers
#define GROUPS 4
#define TOGETHER (GROUPS * LANES)
#define EACH _Pragma("GCC unroll 4") for (int g = 0; g < GROUPS; g++)

// superblocks of sub-blocks of 16: searched at a time, whole superblocks
#define SMALL_BLOCK 16
#define SMALL_SPAN (TOGETHER > 16 ? TOGETHER : 16)

// GROUP_MAX_EPS of ggml-quants.c: weights below count as zeros
#define NEGLIGIBLE 1e-15f

// in each lane the first weight of the largest magnitude
INLINE void find_extremes(const lanes *x, int count, lanes *largest, lanes *extreme) {
    *largest = *extreme = zeros();
    for (int i = 0; i < count; i++) {
        mask more = below(*largest, magnitude(x[i]));
        *largest = choose(more, magnitude(x[i]), *largest);
        *extreme = choose(more, x[i], *extreme);
    }
}

// the first number of the largest magnitude, 0 if there are only zeros and NaN
INLINE float extreme_of(const float *v, int count) {
    float extreme = 0;
    for (int j = 0; j < count; j++)
        if (fabsf(v[j]) > fabsf(extreme)) extreme = v[j];
    return extreme;
}
