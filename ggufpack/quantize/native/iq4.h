// IQ4_NL and IQ4_XS: sixteen uneven levels. The arithmetic is that of quantize_row_iq4_nl_impl in
// ggml-quants.c without an importance matrix, a sub-block of 32 a lane.

#pragma once

#include "lane_groups.h"

#define IQ4_TRIES 7

// kvalues_iq4nl (ggml-common.h)
static const float IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// Between two values best_index_int8 takes the nearer, the upper when halfway. Near there its two
// subtractions are exact, so that comparing with the middle is the same.
static const float IQ4_MIDDLES[16] = {0,    -115.5f, -93.5f, -74, -57,   -42,   -28.5f, -16,
                                      -4.5f, 7,      19,     31.5f, 45.5f, 61, 79,     101};

#if LANES == 16
// binary search: IQ4_MIDDLES[i] decides whether it is at least i; NaN is in the last place, as with ggml
INLINE ints iq4_index(lanes v) {
    const lanes middles = load(IQ4_MIDDLES);
    ints index = _mm512_setzero_si512();
    for (int bit = 8; bit; bit >>= 1) {
        ints next = or_ints(index, splat_int(bit));
        mask below_middle = below(v, _mm512_permutexvar_ps(next, middles));
        index = _mm512_mask_blend_epi32(below_middle, next, index);
    }
    return index;
}

INLINE lanes iq4_value(ints index) { return _mm512_permutexvar_ps(index, load(IQ4_VALUES)); }
INLINE lanes iq4_nearest(lanes v) { return iq4_value(iq4_index(v)); }
#elif LANES == 8
INLINE lanes iq4_at(const float table[16], ints index) {
    lanes low = _mm256_permutevar8x32_ps(load(table), index);
    lanes high = _mm256_permutevar8x32_ps(load(table + 8), index);
    return _mm256_blendv_ps(low, high, as_lanes(_mm256_slli_epi32(index, 28)));
}

// binary search: IQ4_MIDDLES[i] decides whether it is at least i; NaN is in the last place, as with ggml
INLINE ints iq4_index(lanes v) {
    ints index = _mm256_setzero_si256();
    for (int bit = 8; bit; bit >>= 1) {
        ints next = or_ints(index, splat_int(bit));
        mask below_middle = below(v, bit == 8 ? splat(IQ4_MIDDLES[8]) : iq4_at(IQ4_MIDDLES, next));
        index = as_ints(choose(below_middle, as_lanes(index), as_lanes(next)));
    }
    return index;
}

INLINE lanes iq4_nearest(lanes v) { return iq4_at(IQ4_VALUES, iq4_index(v)); }
#else
// NaN is in the last place, as with ggml
INLINE ints iq4_index(lanes v) {
    ints index = splat_int(15);
    for (int i = 1; i < 16; i++) index += below(v, splat(IQ4_MIDDLES[i]));
    return index;
}

// the values are whole and so is every sum: no rounding
INLINE lanes iq4_nearest(lanes v) {
    lanes value = splat(IQ4_VALUES[15]);
    for (int i = 1; i < 16; i++) {
        lanes down = splat(IQ4_VALUES[i] - IQ4_VALUES[i - 1]);
        value -= as_lanes(and_ints(below(v, splat(IQ4_MIDDLES[i])), as_ints(down)));
    }
    return value;
}
#endif

// scales of TOGETHER sub-blocks
static void search_iq4(const float *weights, float *scales) {
    lanes x[GROUPS][BLOCK], w[GROUPS][BLOCK];
    lanes largest[GROUPS], extreme[GROUPS], sum_xq[GROUPS], sum_q2[GROUPS];
    EACH {
        load_turned(weights + g * LANES * BLOCK, BLOCK, BLOCK, x[g]);
        find_extremes(x[g], BLOCK, largest + g, extreme + g);
    }
    for (int i = 0; i < BLOCK; i++) EACH w[g][i] = x[g][i] * x[g][i];

    mask negligible[GROUPS];
    lanes scale[GROUPS], best[GROUPS], inverse[GROUPS];
    EACH {
        negligible[g] = below(largest[g], splat(NEGLIGIBLE));
        // keeps what is thrown away in the end from being slow
        extreme[g] = choose(negligible[g], splat(1.0f), extreme[g]);
        scale[g] = best[g] = zeros();
        inverse[g] = splat(1.0f) / (extreme[g] / splat(-IQ4_VALUES[0]));
    }
    // the first pass takes the extreme for the last value, the others for one near it
    for (int pass = -IQ4_TRIES - 1; pass <= IQ4_TRIES; pass++) {
        const int is_first = pass < -IQ4_TRIES;
        EACH {
            if (!is_first) inverse[g] = splat((float)pass + IQ4_VALUES[0]) / extreme[g];
            sum_xq[g] = sum_q2[g] = zeros();
        }
        for (int i = 0; i < BLOCK; i++) EACH {
                lanes q = iq4_nearest(inverse[g] * x[g][i]);
                lanes weighted = w[g][i] * q;
                sum_xq[g] += weighted * x[g][i];
                sum_q2[g] += weighted * q;
            }
        EACH {
            mask positive = below(zeros(), sum_q2[g]);
            lanes this_scale = sum_xq[g] / sum_q2[g];
            if (is_first) {
                scale[g] = choose(positive, this_scale, zeros());
                best[g] = scale[g] * sum_xq[g];
                continue;
            }
            mask better = both(positive, below(best[g] * sum_q2[g], sum_xq[g] * sum_xq[g]));
            scale[g] = choose(better, this_scale, scale[g]);
            best[g] = choose(better, scale[g] * sum_xq[g], best[g]);
        }
    }
    EACH store(scales + g * LANES, choose(negligible[g], zeros(), scale[g]));
}

// sixteen bytes of a block's levels
INLINE void put_iq4_levels(const float *x, float scale, uint8_t *out) {
    float inverse = scale != 0 ? 1 / scale : 0.0f;
    ints index[BLOCK_VECTORS];
    uint8_t levels[BLOCK];
    for (int k = 0; k < BLOCK_VECTORS; k++) index[k] = iq4_index(splat(inverse) * load(x + k * LANES));
    store_bytes(levels, index);
    put_bytes(out, load_bytes(levels) | shifted_up(load_bytes(levels + 16), 4));
}

static void encode_iq4_nl(const float *x, long count, uint8_t *out) {
    float scales[TOGETHER];
    for (int i = 0; count > 0; count -= BLOCK, x += BLOCK, out += 18, i = (i + 1) % TOGETHER) {
        if (i == 0) search_iq4(x, scales);
        // the NaN of an overflow, which x86-64 makes negative and aarch64 positive
        put_half(out, isnan(scales[i]) ? -NAN : scales[i]);
        put_iq4_levels(x, scales[i], out + 2);
    }
}

static void encode_iq4_xs(const float *x, long count, uint8_t *out) {
    float found[TOGETHER];
    for (int first = 0; count > 0; count -= SUPERBLOCK, out += 136, first = (first + 8) % TOGETHER) {
        if (first == 0) search_iq4(x, found);
        const float *scales = found + first;
        const float extreme = extreme_of(scales, 8);
        const float d = -extreme / 32, inverse = d != 0 ? 1 / d : 0.0f;
        put_half(out, d);
        uint8_t *low = out + 4;
        unsigned high = 0;
        memset(low, 0, 4);
        for (int j = 0; j < 8; j++, x += BLOCK) {
            int level = clamped_int(nearest_int(inverse * scales[j]), -32, 31);
            put_iq4_levels(x, d * (float)level, out + 8 + 16 * j);
            low[j / 2] |= (uint8_t)(((level + 32) & 15) << 4 * (j % 2));
            high |= (unsigned)((level + 32) >> 4) << 2 * j;
        }
        out[2] = (uint8_t)high;
        out[3] = (uint8_t)(high >> 8);
    }
}
