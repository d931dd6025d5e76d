// Sixteen lanes, AVX-512 (F, BW, DQ, VL).

#pragma once

#include <immintrin.h>

#define LANES 16

typedef __m512 lanes;
typedef __m512i ints;
typedef __mmask16 mask;

INLINE lanes splat(float v) { return _mm512_set1_ps(v); }
INLINE lanes load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, lanes v) { _mm512_storeu_ps(p, v); }
INLINE lanes as_lanes(ints v) { return _mm512_castsi512_ps(v); }

INLINE ints splat_int(int v) { return _mm512_set1_epi32(v); }
INLINE ints as_ints(lanes v) { return _mm512_castps_si512(v); }
INLINE ints and_ints(ints a, ints b) { return _mm512_and_si512(a, b); }
INLINE ints or_ints(ints a, ints b) { return _mm512_or_si512(a, b); }
INLINE ints larger_int(ints a, ints b) { return _mm512_max_epi32(a, b); }
INLINE ints smaller_int(ints a, ints b) { return _mm512_min_epi32(a, b); }
INLINE int largest_int(ints v) { return _mm512_reduce_max_epi32(v); }

INLINE lanes smaller(lanes a, lanes b) { return _mm512_min_ps(a, b); }
INLINE lanes larger(lanes a, lanes b) { return _mm512_max_ps(a, b); }
INLINE lanes square_root(lanes v) { return _mm512_sqrt_ps(v); }

INLINE mask below(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE mask not_above(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
INLINE mask equal(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE mask both(mask a, mask b) { return a & b; }
INLINE mask either(mask a, mask b) { return a | b; }
INLINE mask opposite(mask a) { return (mask)~a; }
INLINE mask all_true(void) { return 0xffff; }
INLINE unsigned mask_bits(mask a) { return a; }
INLINE lanes choose(mask m, lanes yes, lanes no) { return _mm512_mask_blend_ps(m, no, yes); }

// as nearest(), where the magnitude is within MAGIC_RANGE
INLINE lanes nearest_in_range(lanes v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// towards zero; the low byte is 0 where int32 cannot hold the number
INLINE ints truncated(lanes v) { return _mm512_cvttps_epi32(v); }

INLINE float smallest_of(lanes v) { return _mm512_reduce_min_ps(v); }
INLINE float largest_of(lanes v) { return _mm512_reduce_max_ps(v); }

INLINE lanes load_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

INLINE lanes load_bf16(const uint8_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// ints below 2^16
INLINE void store_low_halves(uint8_t *p, ints v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(v));
}

INLINE ints f16_bits(lanes v) {
    __m256i halves = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512i bits = _mm512_cvtepu16_epi32(halves);
    // ggml has one NaN a sign, the hardware keeps its payload
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i sign = _mm512_and_si512(bits, _mm512_set1_epi32(0x8000));
    return _mm512_mask_or_epi32(bits, is_nan, sign, _mm512_set1_epi32(0x7e00));
}

INLINE lanes f16_value(ints bits) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits)); }

INLINE ints bf16_bits(lanes v) {
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x00400000));
    return _mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16);
}

INLINE lanes bf16_value(ints bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)); }

// the low bytes of 32 ints
INLINE void store_bytes(uint8_t *out, const ints v[2]) {
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(v[0]));
    _mm_storeu_si128((__m128i *)(out + 16), _mm512_cvtepi32_epi8(v[1]));
}

#include "turn_avx.h"
