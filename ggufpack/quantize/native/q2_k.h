// Q2_K: superblocks of sixteen sub-blocks of 16, four-bit scales and minima.
// The arithmetic is that of quantize_row_q2_K_ref in ggml-quants.c.

#pragma once

#include "range_search.h"

static const struct range_search Q2_K_SEARCH = {SMALL_BLOCK, 3, 15, -0.5f, 1};

static void search_q2_k(const float *x, struct ranges *found) {
    lanes turned[GROUPS][BLOCK], w[GROUPS][BLOCK];
    EACH load_turned(x + g * LANES * SMALL_BLOCK, SMALL_BLOCK, SMALL_BLOCK, turned[g]);
    for (int i = 0; i < SMALL_BLOCK; i++) EACH w[g][i] = magnitude(turned[g][i]);
    if (!search_ranges(&Q2_K_SEARCH, 0, turned, w, found)) search_ranges(&Q2_K_SEARCH, 1, turned, w, found);
}

// Four-bit levels into `stored`, `shift` bits up, and the factor into `out`.
INLINE void put_four_bits(const float v[16], int shift, uint8_t stored[16], uint8_t *out) {
    float largest = 0;
    for (int j = 0; j < 16; j++) largest = v[j] > largest ? v[j] : largest;
    float inverse = largest > 0 ? 15.0f / largest : 0.0f;
    if (largest > 0)
        for (int j = 0; j < 16; j++) stored[j] |= (uint8_t)((unsigned)nearest_int(inverse * v[j]) << shift);
    put_half(out, largest > 0 ? largest / 15.0f : 0.0f);
}

// the lower two bits of 256 levels
INLINE void pack_two_bits(const uint8_t levels[SUPERBLOCK], uint8_t *out) {
    for (int half = 0; half < 2; half++, levels += 128, out += 32)
        for (int i = 0; i < 32; i += 16) {
            bytes packed = load_bytes(levels + i) & 3;
            for (int j = 1; j < 4; j++) packed |= shifted_up(load_bytes(levels + i + 32 * j) & 3, 2 * j);
            put_bytes(out + i, packed);
        }
}

static void encode_q2_k(const float *x, long count, uint8_t *out) {
    struct ranges found[SMALL_SPAN / TOGETHER];
    uint8_t levels[SUPERBLOCK];
    for (int first = 0; count > 0; count -= SUPERBLOCK, out += 84, first = (first + 16) % SMALL_SPAN) {
        if (first == 0)
            for (int k = 0; k < SMALL_SPAN / TOGETHER; k++)
                search_q2_k(x + k * TOGETHER * SMALL_BLOCK, found + k);
        float scales[16], minima[16];
        for (int j = 0; j < 16; j++) {
            const struct ranges *of = found + (first + j) / TOGETHER;
            scales[j] = of->scale[(first + j) % TOGETHER];
            minima[j] = of->minimum[(first + j) % TOGETHER];
        }
        memset(out, 0, 16);
        put_four_bits(scales, 0, out, out + 80);
        put_four_bits(minima, 4, out, out + 82);
        const float d = half(out + 80), d_minimum = half(out + 82);
        for (int j = 0; j < 16; j += 2, x += 2 * SMALL_BLOCK) {
            float step[2], offset[2];
            for (int k = 0; k < 2; k++) {
                step[k] = d * (float)(out[j + k] & 15);
                offset[k] = d_minimum * (float)(out[j + k] >> 4);
            }
            uint8_t *to = levels + j * SMALL_BLOCK;
            put_levels(x, offset, step, 0, 3, 0, to);
            for (int k = 0; k < 2; k++) {
                if (step[k] != 0) continue;
                const struct ranges *of = found + (first + j + k) / TOGETHER;
                int lane = (first + j + k) % TOGETHER;
                put_searched_levels(x + k * SMALL_BLOCK, SMALL_BLOCK, of->inverse[lane], of->base[lane], 3,
                                    to + k * SMALL_BLOCK);
            }
        }
        pack_two_bits(levels, out + 16);
    }
}
