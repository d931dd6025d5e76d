// Q6_K: superblocks of sixteen sub-blocks of 16, eight-bit scales.
// The arithmetic is that of quantize_row_q6_K_ref and make_qx_quants in ggml-quants.c, a sub-block a lane.

#pragma once

#include "lane_groups.h"

// inverse is 0 where all weights are negligible
struct q6_k_scales {
    float scale[SMALL_SPAN];
    float inverse[SMALL_SPAN];
};

// No product leaves MAGIC_RANGE: the largest magnitude is at least NEGLIGIBLE, which becomes about 32.
INLINE lanes q6_k_levels(lanes inverse, lanes x) { return clamped(nearest_in_range(inverse * x), -32, 31); }

static void search_q6_k(const float *weights, float *scales, float *inverses) {
    lanes x[GROUPS][SMALL_BLOCK], w[GROUPS][SMALL_BLOCK], wx[GROUPS][SMALL_BLOCK];
    lanes largest[GROUPS], extreme[GROUPS], sum_xl[GROUPS], sum_l2[GROUPS];
    EACH {
        load_turned(weights + g * LANES * SMALL_BLOCK, SMALL_BLOCK, SMALL_BLOCK, x[g]);
        find_extremes(x[g], SMALL_BLOCK, largest + g, extreme + g);
        sum_xl[g] = sum_l2[g] = zeros();
    }
    for (int i = 0; i < SMALL_BLOCK; i++) EACH {
            w[g][i] = x[g][i] * x[g][i];
            wx[g][i] = w[g][i] * x[g][i];
        }

    mask negligible[GROUPS];
    lanes scale[GROUPS], best[GROUPS], best_inverse[GROUPS];
    EACH {
        negligible[g] = below(largest[g], splat(NEGLIGIBLE));
        // keeps what is thrown away in the end from being slow
        extreme[g] = choose(negligible[g], splat(1.0f), extreme[g]);
        best_inverse[g] = splat(-32.0f) / extreme[g];
    }
    for (int i = 0; i < SMALL_BLOCK; i++) EACH {
            lanes level = q6_k_levels(best_inverse[g], x[g][i]);
            sum_xl[g] += wx[g][i] * level;
            sum_l2[g] += w[g][i] * level * level;
        }
    EACH {
        scale[g] = choose(equal(sum_l2[g], zeros()), zeros(), sum_xl[g] / sum_l2[g]);
        best[g] = scale[g] * sum_xl[g];
    }
    for (int step = -9; step <= 9; step++) {
        if (step == 0) continue;
        const lanes target = splat(-(32.0f + 0.1f * (float)step));
        lanes inverse[GROUPS];
        EACH {
            inverse[g] = target / extreme[g];
            sum_xl[g] = sum_l2[g] = zeros();
        }
        for (int i = 0; i < SMALL_BLOCK; i++) EACH {
                lanes level = q6_k_levels(inverse[g], x[g][i]);
                sum_xl[g] += wx[g][i] * level;
                sum_l2[g] += w[g][i] * level * level;
            }
        EACH {
            mask better =
                both(below(zeros(), sum_l2[g]), below(best[g] * sum_l2[g], sum_xl[g] * sum_xl[g]));
            scale[g] = choose(better, sum_xl[g] / sum_l2[g], scale[g]);
            best[g] = choose(better, scale[g] * sum_xl[g], best[g]);
            best_inverse[g] = choose(better, inverse[g], best_inverse[g]);
        }
    }
    EACH {
        store(scales + g * LANES, choose(negligible[g], zeros(), scale[g]));
        store(inverses + g * LANES, choose(negligible[g], zeros(), best_inverse[g]));
    }
}

INLINE void pack_q6_k(const uint8_t levels[SUPERBLOCK], uint8_t *low, uint8_t *high) {
    for (int half = 0; half < 2; half++, levels += 128, low += 64, high += 32)
        for (int i = 0; i < 32; i += 16) {
            bytes a = load_bytes(levels + i), b = load_bytes(levels + i + 32);
            bytes c = load_bytes(levels + i + 64), d = load_bytes(levels + i + 96);
            put_bytes(low + i, (a & 15) | shifted_up(c, 4));
            put_bytes(low + i + 32, (b & 15) | shifted_up(d, 4));
            put_bytes(high + i, shifted_down(a, 4) | shifted_up(shifted_down(b, 4), 2) |
                                    shifted_up(shifted_down(c, 4), 4) | shifted_up(shifted_down(d, 4), 6));
        }
}

// the levels of the search, kept by ggml where the stored scale is 0
INLINE void put_searched_q6_k(const float *x, float inverse, uint8_t *out) {
    for (int i = 0; i < SMALL_BLOCK; i++)
        out[i] = inverse != 0 ? (uint8_t)(clamped_int(nearest_int(inverse * x[i]), -32, 31) + 32) : 0;
}

static void encode_q6_k(const float *x, long count, uint8_t *out) {
    struct q6_k_scales found;
    uint8_t levels[SUPERBLOCK];
    for (int first = 0; count > 0; count -= SUPERBLOCK, x += SUPERBLOCK, out += 210) {
        if (first == 0)
            for (int k = 0; k < SMALL_SPAN; k += TOGETHER)
                search_q6_k(x + k * SMALL_BLOCK, found.scale + k, found.inverse + k);
        const float *scales = found.scale + first, *inverses = found.inverse + first;
        first = (first + 16) % SMALL_SPAN;
        float extreme = extreme_of(scales, 16);
        if (fabsf(extreme) < NEGLIGIBLE) {
            memset(out, 0, 210);
            continue;
        }
        float inverse = -128.0f / extreme;
        put_half(out + 208, 1 / inverse);
        const float d = half(out + 208);
        int8_t *stored = (int8_t *)out + 192;
        for (int j = 0; j < 16; j++) {
            int level = nearest_int(inverse * scales[j]);
            stored[j] = (int8_t)(level > 127 ? 127 : level);
        }
        for (int j = 0; j < 16; j += 2) {
            const float *part = x + j * SMALL_BLOCK, step[2] = {d * stored[j], d * stored[j + 1]};
            uint8_t *to = levels + j * SMALL_BLOCK;
            put_levels(part, (float[]){0, 0}, step, -32, 31, 32, to);
            for (int k = 0; k < 2; k++)
                if (step[k] == 0)
                    put_searched_q6_k(part + k * SMALL_BLOCK, inverses[j + k], to + k * SMALL_BLOCK);
        }
        pack_q6_k(levels, out, out + 128);
    }
}
