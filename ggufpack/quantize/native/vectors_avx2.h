// Eight lanes, AVX2 and F16C.

#pragma once

#include <immintrin.h>

#define LANES 8

typedef __m256 lanes;
typedef __m256i ints;
typedef __m256 mask;

INLINE lanes splat(float v) { return _mm256_set1_ps(v); }
INLINE lanes load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, lanes v) { _mm256_storeu_ps(p, v); }
INLINE lanes as_lanes(ints v) { return _mm256_castsi256_ps(v); }

INLINE ints splat_int(int v) { return _mm256_set1_epi32(v); }
INLINE ints as_ints(lanes v) { return _mm256_castps_si256(v); }
INLINE ints and_ints(ints a, ints b) { return _mm256_and_si256(a, b); }
INLINE ints or_ints(ints a, ints b) { return _mm256_or_si256(a, b); }
INLINE ints larger_int(ints a, ints b) { return _mm256_max_epi32(a, b); }
INLINE ints smaller_int(ints a, ints b) { return _mm256_min_epi32(a, b); }

INLINE int largest_int(ints v) {
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtsi128_si32(a);
}

INLINE lanes smaller(lanes a, lanes b) { return _mm256_min_ps(a, b); }
INLINE lanes larger(lanes a, lanes b) { return _mm256_max_ps(a, b); }
INLINE lanes square_root(lanes v) { return _mm256_sqrt_ps(v); }

INLINE mask below(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE mask not_above(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
INLINE mask equal(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
INLINE mask both(mask a, mask b) { return _mm256_and_ps(a, b); }
INLINE mask either(mask a, mask b) { return _mm256_or_ps(a, b); }
INLINE mask all_true(void) { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
INLINE mask opposite(mask a) { return _mm256_xor_ps(a, all_true()); }
INLINE unsigned mask_bits(mask a) { return (unsigned)_mm256_movemask_ps(a); }
INLINE lanes choose(mask m, lanes yes, lanes no) { return _mm256_blendv_ps(no, yes, m); }

// as nearest(), where the magnitude is within MAGIC_RANGE
INLINE lanes nearest_in_range(lanes v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// towards zero; the low byte is 0 where int32 cannot hold the number
INLINE ints truncated(lanes v) { return _mm256_cvttps_epi32(v); }

INLINE float smallest_of(lanes v) {
    __m128 a = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_min_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_min_ss(a, _mm_movehdup_ps(a)));
}

INLINE float largest_of(lanes v) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

INLINE lanes load_f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

INLINE lanes load_bf16(const uint8_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE __m128i low_halves(ints v) {
    __m256i packed = _mm256_packus_epi32(v, v);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

// ints below 2^16
INLINE void store_low_halves(uint8_t *p, ints v) { _mm_storeu_si128((__m128i *)p, low_halves(v)); }

INLINE ints f16_bits(lanes v) {
    __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256i bits = _mm256_cvtepu16_epi32(halves);
    // ggml has one NaN a sign, the hardware keeps its payload
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i sign = _mm256_and_si256(bits, _mm256_set1_epi32(0x8000));
    return _mm256_blendv_epi8(bits, _mm256_or_si256(sign, _mm256_set1_epi32(0x7e00)), is_nan);
}

INLINE lanes f16_value(ints bits) { return _mm256_cvtph_ps(low_halves(bits)); }

INLINE ints bf16_bits(lanes v) {
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x00400000));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}

INLINE lanes bf16_value(ints bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)); }

// the low bytes of 32 ints
INLINE void store_bytes(uint8_t *out, const ints v[4]) {
    __m256i low = _mm256_set1_epi32(0xff);
    __m256i a = _mm256_packs_epi32(_mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low));
    __m256i b = _mm256_packs_epi32(_mm256_and_si256(v[2], low), _mm256_and_si256(v[3], low));
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
    _mm256_storeu_si256((__m256i *)out, bytes);
}

#include "turn_avx.h"
