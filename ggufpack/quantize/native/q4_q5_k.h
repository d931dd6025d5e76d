// Q4_K and Q5_K: superblocks of eight sub-blocks of 32, six-bit scales and minima.
// The arithmetic is that of quantize_row_q4_K_ref and quantize_row_q5_K_ref in ggml-quants.c.

#pragma once

#include "range_search.h"

static const struct range_search Q4_K_SEARCH = {32, 15, 20, -1.0f, 0};
static const struct range_search Q5_K_SEARCH = {32, 31, 15, -0.5f, 0};

INLINE void search_blocks(const struct range_search *how, const float *x, struct ranges *found) {
    lanes turned[GROUPS][BLOCK], w[GROUPS][BLOCK], sum[GROUPS];
    EACH {
        load_turned(x + g * LANES * BLOCK, BLOCK, BLOCK, turned[g]);
        sum[g] = zeros();
    }
    for (int i = 0; i < BLOCK; i++) EACH sum[g] += turned[g][i] * turned[g][i];
    EACH sum[g] = square_root(sum[g] / splat(32.0f));
    for (int i = 0; i < BLOCK; i++) EACH w[g][i] = sum[g] + magnitude(turned[g][i]);
    if (!search_ranges(how, 0, turned, w, found)) search_ranges(how, 1, turned, w, found);
}

struct six_bit_scales {
    float d, d_minimum;
    uint8_t scale[8], minimum[8];
};

INLINE float largest_positive(const float v[8]) {
    float largest = 0;
    for (int j = 0; j < 8; j++) largest = v[j] > largest ? v[j] : largest;
    return largest;
}

INLINE void put_six_bits(const float v[8], float largest, uint8_t out[8]) {
    float inverse = largest > 0 ? 63.0f / largest : 0.0f;
    for (int j = 0; j < 8; j++) {
        uint8_t level = (uint8_t)nearest_int(inverse * v[j]);
        out[j] = level > 63 ? 63 : level;
    }
}

// the twelve bytes that get_scale_min_k4 of ggml-quants.c reads
INLINE void pack_six_bits(const uint8_t scale[8], const uint8_t minimum[8], uint8_t out[12]) {
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        out[j + 4] = (uint8_t)(minimum[j] | (minimum[j + 4] >> 4) << 6);
        out[j + 8] = (uint8_t)((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
    }
}

// Writes the header, 16 bytes, and gives the levels of the superblock's weights.
INLINE void level_superblock(const struct range_search *how, const float *x, const struct ranges *found,
                             int first, uint8_t *header, uint8_t levels[SUPERBLOCK]) {
    const float *scales = found->scale + first, *minima = found->minimum + first;
    float largest_scale = largest_positive(scales), largest_minimum = largest_positive(minima);
    uint8_t scale[8], minimum[8];
    put_six_bits(scales, largest_scale, scale);
    put_six_bits(minima, largest_minimum, minimum);
    put_half(header, largest_scale / 63.0f);
    put_half(header + 2, largest_minimum / 63.0f);
    pack_six_bits(scale, minimum, header + 4);
    const float d = half(header), d_minimum = half(header + 2);
    for (int j = 0; j < 8; j++, x += BLOCK, levels += BLOCK) {
        float step = d * scale[j];
        if (step == 0) {
            put_searched_levels(x, BLOCK, found->inverse[first + j], found->base[first + j], how->top, levels);
            continue;
        }
        float offset = d_minimum * minimum[j];
        put_levels(x, (float[]){offset, offset}, (float[]){step, step}, 0, how->top, 0, levels);
    }
}

INLINE void encode_ranged(const struct range_search *how, const float *x, long count, uint8_t *out) {
    const int five = how->top > 15, block_size = five ? 176 : 144;
    struct ranges found;
    uint8_t levels[SUPERBLOCK];
    for (int first = 0; count > 0; count -= SUPERBLOCK, x += SUPERBLOCK, out += block_size) {
        if (first == 0) search_blocks(how, x, &found);
        level_superblock(how, x, &found, first, out, levels);
        first = (first + 8) % TOGETHER;
        uint8_t *high = out + 16, *low = five ? out + 48 : out + 16;
        for (int j = 0; j < 8; j++) {
            const uint8_t *a = levels + 64 * (j / 2) + 16 * (j % 2);
            put_bytes(low + 16 * j, (load_bytes(a) & 15) | shifted_up(load_bytes(a + 32), 4));
        }
        if (five)
            for (int i = 0; i < 32; i += 16) {
                bytes bits = shifted_down(load_bytes(levels + i), 4);
                for (int j = 1; j < 8; j++)
                    bits |= shifted_up(shifted_down(load_bytes(levels + 32 * j + i), 4), j);
                put_bytes(high + i, bits);
            }
    }
}

static void encode_q4_k(const float *x, long count, uint8_t *out) {
    encode_ranged(&Q4_K_SEARCH, x, count, out);
}

static void encode_q5_k(const float *x, long count, uint8_t *out) {
    encode_ranged(&Q5_K_SEARCH, x, count, out);
}
