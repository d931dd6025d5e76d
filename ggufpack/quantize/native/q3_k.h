// Q3_K: superblocks of sixteen sub-blocks of 16, six-bit scales.
// The arithmetic is that of quantize_row_q3_K_ref and make_q3_quants in ggml-quants.c, a sub-block a lane.

#pragma once

#include "q2_k.h"

#define Q3_K_PASSES 5

// levels: of each sub-block, 0 to 7; 0 throughout where all weights are negligible
struct q3_k_scales {
    float scale[SMALL_SPAN];
    float levels[SMALL_SPAN / TOGETHER][GROUPS][SMALL_BLOCK][LANES];
};

static void search_q3_k(const float *weights, float *scales, float levels[GROUPS][SMALL_BLOCK][LANES]) {
    lanes x[GROUPS][SMALL_BLOCK], w[GROUPS][SMALL_BLOCK], wx[GROUPS][SMALL_BLOCK], level[GROUPS][SMALL_BLOCK];
    lanes largest[GROUPS], extreme[GROUPS], sum_xl[GROUPS], sum_l2[GROUPS], inverse[GROUPS];
    mask negligible[GROUPS];
    EACH {
        load_turned(weights + g * LANES * SMALL_BLOCK, SMALL_BLOCK, SMALL_BLOCK, x[g]);
        find_extremes(x[g], SMALL_BLOCK, largest + g, extreme + g);
        sum_xl[g] = sum_l2[g] = zeros();
    }
    EACH {
        negligible[g] = below(largest[g], splat(NEGLIGIBLE));
        inverse[g] = splat(-4.0f) / extreme[g];
    }
    for (int i = 0; i < SMALL_BLOCK; i++) EACH {
            // what is thrown away in the end shall not keep the passes going
            x[g][i] = choose(negligible[g], zeros(), x[g][i]);
            w[g][i] = x[g][i] * x[g][i];
            wx[g][i] = w[g][i] * x[g][i];
            level[g][i] = clamped(nearest(inverse[g] * x[g][i]), -4, 3);
            sum_xl[g] += wx[g][i] * level[g][i];
            sum_l2[g] += w[g][i] * level[g][i] * level[g][i];
        }
    // A sub-block in which a pass changes nothing is as it would be after more of them.
    unsigned changed = 1;
    for (int pass = 0; changed && pass < Q3_K_PASSES; pass++) {
        changed = 0;
        for (int i = 0; i < SMALL_BLOCK; i++) EACH {
                lanes old = level[g][i];
                lanes slx = sum_xl[g] - wx[g][i] * old;
                lanes sl2 = sum_l2[g] - w[g][i] * old * old;
                lanes other = clamped(nearest(x[g][i] * sl2 / slx), -4, 3);
                mask apart = both(below(zeros(), slx), opposite(equal(other, old)));
                slx += wx[g][i] * other;
                sl2 += w[g][i] * other * other;
                mask better = below(sum_xl[g] * sum_xl[g] * sl2, slx * slx * sum_l2[g]);
                better = both(both(apart, better), below(zeros(), sl2));
                level[g][i] = choose(better, other, old);
                sum_xl[g] = choose(better, slx, sum_xl[g]);
                sum_l2[g] = choose(better, sl2, sum_l2[g]);
                changed |= mask_bits(better);
            }
    }
    EACH {
        mask usable = both(below(zeros(), sum_l2[g]), opposite(negligible[g]));
        store(scales + g * LANES, choose(usable, sum_xl[g] / sum_l2[g], zeros()));
        for (int i = 0; i < SMALL_BLOCK; i++)
            store(levels[g][i], choose(negligible[g], zeros(), level[g][i] + splat(4.0f)));
    }
}

// the twelve bytes of sixteen six-bit scales
INLINE void pack_q3_k_scales(const uint8_t level[16], uint8_t out[12]) {
    for (int j = 0; j < 8; j++) out[j] = (uint8_t)((level[j] & 15) | (level[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++)
        out[8 + j] = (uint8_t)(level[j] >> 4 | (level[j + 4] >> 4) << 2 | (level[j + 8] >> 4) << 4 |
                               (level[j + 12] >> 4) << 6);
}

static void encode_q3_k(const float *x, long count, uint8_t *out) {
    struct q3_k_scales found;
    uint8_t levels[SUPERBLOCK], stored[16];
    for (int first = 0; count > 0; count -= SUPERBLOCK, out += 110, first = (first + 16) % SMALL_SPAN) {
        if (first == 0)
            for (int k = 0; k < SMALL_SPAN; k += TOGETHER)
                search_q3_k(x + k * SMALL_BLOCK, found.scale + k, found.levels[k / TOGETHER]);
        const float *scales = found.scale + first;
        float extreme = extreme_of(scales, 16);
        float inverse = -32.0f / extreme;
        for (int j = 0; j < 16; j++) {
            // ggml keeps eight bits of the number before it clamps it
            int8_t level = (int8_t)nearest_int(inverse * scales[j]);
            stored[j] = extreme != 0 ? (uint8_t)(clamped_int(level, -32, 31) + 32) : 0;
        }
        pack_q3_k_scales(stored, out + 96);
        put_half(out + 108, extreme != 0 ? 1 / inverse : 0.0f);
        const float d = half(out + 108);
        for (int j = 0; j < 16; j += 2, x += 2 * SMALL_BLOCK) {
            float step[2] = {d * (float)(stored[j] - 32), d * (float)(stored[j + 1] - 32)};
            uint8_t *to = levels + j * SMALL_BLOCK;
            put_levels(x, (float[]){0, 0}, step, -4, 3, 4, to);
            for (int k = 0; k < 2; k++) {
                if (step[k] != 0) continue;
                int of = (first + j + k) / TOGETHER, lane = (first + j + k) % TOGETHER;
                for (int i = 0; i < SMALL_BLOCK; i++)
                    to[k * SMALL_BLOCK + i] = (uint8_t)found.levels[of][lane / LANES][i][lane % LANES];
            }
        }
        for (int i = 0; i < 32; i += 16) {
            bytes bits = shifted_down(load_bytes(levels + i), 2);
            for (int j = 1; j < 8; j++) bits |= shifted_up(shifted_down(load_bytes(levels + 32 * j + i), 2), j);
            put_bytes(out + i, bits);
        }
        pack_two_bits(levels, out + 32);
    }
}
