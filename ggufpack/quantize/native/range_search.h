// The search for a scale and a minimum: make_qkx2_quants of ggml-quants.c, a sub-block a lane.
//
// Every lane does the additions and multiplications of the scalar code in the same order, so its result
// has the same bits. Q4_K, Q5_K and Q2_K differ in the constants.

#pragma once

#include "lane_groups.h"

struct range_search {
    int weights;          // in a sub-block
    int top;              // the highest level
    int steps;            // after the first guess
    float first;          // what is added to `top` in step 0; every step adds 0.1 more
    int absolute_errors;  // weigh the error itself, not its square
};

// of TOGETHER sub-blocks
struct ranges {
    float scale[TOGETHER];
    float minimum[TOGETHER];  // as stored: its sign turned
    // the levels are clamp(nearest_int(inverse * (x - base)))
    float inverse[TOGETHER];
    float base[TOGETHER];
};

INLINE lanes weighted_error(const struct range_search *how, lanes weight, lanes difference) {
    if (how->absolute_errors) return weight * magnitude(difference);
    return weight * (difference * difference);
}

// Returns whether every product stayed in MAGIC_RANGE. `exact`: then that does not matter.
INLINE int search_ranges(const struct range_search *how, int exact, const lanes x[GROUPS][BLOCK],
                         const lanes w[GROUPS][BLOCK], struct ranges *found) {
    const int n = how->weights, top = how->top;
    const lanes zero = zeros();
    lanes low[GROUPS], high[GROUPS], sum_w[GROUPS], sum_x[GROUPS], minimum[GROUPS], range[GROUPS];
    EACH {
        low[g] = high[g] = x[g][0];
        sum_w[g] = w[g][0];
        sum_x[g] = sum_w[g] * x[g][0];
    }
    for (int i = 1; i < n; i++) EACH {
            low[g] = smaller(x[g][i], low[g]);
            high[g] = larger(x[g][i], high[g]);
            sum_w[g] += w[g][i];
            sum_x[g] += w[g][i] * x[g][i];
        }

    mask constant[GROUPS], tame[GROUPS];
    lanes scale[GROUPS], best_error[GROUPS], best_inverse[GROUPS], best_base[GROUPS], first_minimum[GROUPS];
    EACH {
        minimum[g] = first_minimum[g] = choose(below(zero, low[g]), zero, low[g]);
        constant[g] = equal(high[g], minimum[g]);
        range[g] = high[g] - minimum[g];
        best_inverse[g] = splat((float)top) / range[g];
        best_base[g] = minimum[g];
        scale[g] = splat(1.0f) / best_inverse[g];
        best_error[g] = zero;
        // subtraction and multiplication keep the order: the extremes speak for all weights between
        tame[g] = both(within_magic_range(best_inverse[g] * (high[g] - minimum[g])),
                       within_magic_range(best_inverse[g] * (low[g] - minimum[g])));
    }
    for (int i = 0; i < n; i++) EACH {
            lanes v = best_inverse[g] * (x[g][i] - minimum[g]);
            lanes level = clamped(exact ? nearest(v) : nearest_in_range(v), 0, top);
            lanes difference = scale[g] * level + minimum[g] - x[g][i];
            best_error[g] += weighted_error(how, w[g][i], difference);
        }

    for (int step = 0; step <= how->steps; step++) {
        lanes levels[GROUPS][BLOCK], inverse[GROUPS], sum_l[GROUPS], sum_l2[GROUPS], sum_xl[GROUPS];
        const lanes target = splat(how->first + 0.1f * (float)step + (float)top);
        EACH {
            inverse[g] = target / range[g];
            sum_l[g] = sum_l2[g] = sum_xl[g] = zero;
            tame[g] = both(tame[g], both(within_magic_range(inverse[g] * (high[g] - minimum[g])),
                                         within_magic_range(inverse[g] * (low[g] - minimum[g]))));
        }
        for (int i = 0; i < n; i++) EACH {
                lanes v = inverse[g] * (x[g][i] - minimum[g]);
                lanes level = clamped(exact ? nearest(v) : nearest_in_range(v), 0, top);
                levels[g][i] = level;
                lanes weighted = w[g][i] * level;
                sum_l[g] += weighted;
                sum_l2[g] += weighted * level;
                sum_xl[g] += weighted * x[g][i];
            }
        lanes determinant[GROUPS], this_scale[GROUPS], this_minimum[GROUPS], error[GROUPS];
        EACH {
            determinant[g] = sum_w[g] * sum_l2[g] - sum_l[g] * sum_l[g];
            this_scale[g] = (sum_w[g] * sum_xl[g] - sum_x[g] * sum_l[g]) / determinant[g];
            this_minimum[g] = (sum_l2[g] * sum_x[g] - sum_l[g] * sum_xl[g]) / determinant[g];
            mask positive = below(zero, this_minimum[g]);
            if (mask_bits(positive)) {
                this_scale[g] = choose(positive, sum_xl[g] / sum_l2[g], this_scale[g]);
                this_minimum[g] = choose(positive, zero, this_minimum[g]);
            }
            error[g] = zero;
        }
        for (int i = 0; i < n; i++) EACH {
                lanes difference = this_scale[g] * levels[g][i] + this_minimum[g] - x[g][i];
                error[g] += weighted_error(how, w[g][i], difference);
            }
        EACH {
            mask better = both(below(zero, determinant[g]), below(error[g], best_error[g]));
            best_error[g] = choose(better, error[g], best_error[g]);
            scale[g] = choose(better, this_scale[g], scale[g]);
            best_inverse[g] = choose(better, inverse[g], best_inverse[g]);
            best_base[g] = choose(better, minimum[g], best_base[g]);
            minimum[g] = choose(better, this_minimum[g], minimum[g]);
            range[g] = high[g] - minimum[g];
        }
    }

    unsigned wild = 0;
    EACH {
        // level 0 throughout
        scale[g] = choose(constant[g], zero, scale[g]);
        best_inverse[g] = choose(constant[g], zero, best_inverse[g]);
        best_base[g] = choose(constant[g], zero, best_base[g]);
        minimum[g] = choose(constant[g], first_minimum[g], minimum[g]);
        store(found->scale + g * LANES, scale[g]);
        store(found->minimum + g * LANES, as_lanes(as_ints(minimum[g]) ^ splat_int(INT32_MIN)));
        store(found->inverse + g * LANES, best_inverse[g]);
        store(found->base + g * LANES, best_base[g]);
        wild |= mask_bits(opposite(either(tame[g], constant[g])));
    }
    return !wild;
}

// the levels of the search, kept by ggml where the stored scale is 0
INLINE void put_searched_levels(const float *x, int count, float inverse, float base, int top, uint8_t *out) {
    for (int i = 0; i < count; i++)
        out[i] = (uint8_t)clamped_int(nearest_int(inverse * (x[i] - base)), 0, top);
}
