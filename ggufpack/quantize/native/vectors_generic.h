// Four lanes, in the vector extension of GCC and Clang: SSE2 on x86-64, NEON on aarch64.

#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LANES 4

typedef float lanes __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(16)));
typedef ints mask;

INLINE lanes splat(float v) { return (lanes){v, v, v, v}; }
INLINE ints splat_int(int v) { return (ints){v, v, v, v}; }
INLINE lanes as_lanes(ints v) { return (lanes)v; }
INLINE ints as_ints(lanes v) { return (ints)v; }

INLINE lanes load(const float *p) {
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, lanes v) { memcpy(p, &v, sizeof v); }

INLINE ints and_ints(ints a, ints b) { return a & b; }
INLINE ints or_ints(ints a, ints b) { return a | b; }
INLINE ints choose_int(mask m, ints yes, ints no) { return (yes & m) | (no & ~m); }
INLINE ints larger_int(ints a, ints b) { return choose_int(a > b, a, b); }
INLINE ints smaller_int(ints a, ints b) { return choose_int(a < b, a, b); }

INLINE int largest_int(ints v) {
    int a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}

INLINE mask below(lanes a, lanes b) { return a < b; }
INLINE mask not_above(lanes a, lanes b) { return a <= b; }
INLINE mask equal(lanes a, lanes b) { return a == b; }
INLINE mask both(mask a, mask b) { return a & b; }
INLINE mask either(mask a, mask b) { return a | b; }
INLINE mask opposite(mask a) { return ~a; }
INLINE mask all_true(void) { return splat_int(-1); }
INLINE lanes choose(mask m, lanes yes, lanes no) { return (lanes)choose_int(m, (ints)yes, (ints)no); }

#if defined(__SSE2__)
INLINE lanes smaller(lanes a, lanes b) { return (lanes)_mm_min_ps((__m128)a, (__m128)b); }
INLINE lanes larger(lanes a, lanes b) { return (lanes)_mm_max_ps((__m128)a, (__m128)b); }
INLINE lanes square_root(lanes v) { return (lanes)_mm_sqrt_ps((__m128)v); }
INLINE unsigned mask_bits(mask a) { return (unsigned)_mm_movemask_ps((__m128)a); }
#else
INLINE lanes smaller(lanes a, lanes b) { return choose(a < b, a, b); }
INLINE lanes larger(lanes a, lanes b) { return choose(a > b, a, b); }
INLINE unsigned mask_bits(mask a) {
    return (unsigned)((a[0] & 1) | (a[1] & 2) | (a[2] & 4) | (a[3] & 8));
}
#if defined(__aarch64__)
INLINE lanes square_root(lanes v) { return (lanes)vsqrtq_f32((float32x4_t)v); }
#else
INLINE lanes square_root(lanes v) { return (lanes){sqrtf(v[0]), sqrtf(v[1]), sqrtf(v[2]), sqrtf(v[3])}; }
#endif
#endif

// as nearest(), where the magnitude is within MAGIC_RANGE
INLINE lanes nearest_in_range(lanes v) { return (v + splat(MAGIC)) - splat(MAGIC); }

// towards zero; 0 where int32 cannot hold the number: the low byte that x86-64 gives, on aarch64 too
INLINE ints truncated(lanes v) {
    mask held = (v > splat(-2147483648.0f)) & (v < splat(2147483648.0f));
    return __builtin_convertvector((lanes)((ints)v & held), ints);
}

INLINE float smallest_of(lanes v) {
    float a = v[0] < v[1] ? v[0] : v[1], b = v[2] < v[3] ? v[2] : v[3];
    return a < b ? a : b;
}

INLINE float largest_of(lanes v) {
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}

typedef uint16_t half_words __attribute__((vector_size(8)));

INLINE ints load_halves(const uint8_t *p) {
    half_words h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, ints);
}

// ints below 2^16
INLINE void store_low_halves(uint8_t *p, ints v) {
    half_words h = __builtin_convertvector(v, half_words);
    memcpy(p, &h, sizeof h);
}

INLINE ints f16_bits(lanes v) {
    ints sign = ((ints)v >> 16) & 0x8000, u = (ints)v & 0x7fffffff;
    // the exponent's bias is 112 less; ties to even; a carry goes into the exponent, as it should
    ints normal = (u - (112 << 23) + 0xfff + ((u >> 13) & 1)) >> 13;
    // 0.5 has the steps of F16's denormals: the addition rounds
    ints denormal = (ints)((lanes)u + splat(0.5f)) - 0x3f000000;
    ints bits = choose_int(u < splat_int(0x38800000), denormal, normal);
    bits = choose_int(u >= splat_int(0x47800000), splat_int(0x7c00), bits);
    bits = choose_int(u > splat_int(0x7f800000), splat_int(0x7e00), bits);
    return bits | sign;
}

INLINE lanes f16_value(ints bits) {
    ints sign = (bits & 0x8000) << 16, u = (bits & 0x7fff) << 13, exponent = u & (0x7c00 << 13);
    ints normal = u + (112 << 23);
    ints infinite = u + (224 << 23);
    // 2^-14 * (1 + fraction), less 2^-14
    ints denormal = (ints)((lanes)(u + (113 << 23)) - (lanes)splat_int(113 << 23));
    ints wide = choose_int(exponent == 0, denormal, normal);
    wide = choose_int(exponent == splat_int(0x7c00 << 13), infinite, wide);
    return (lanes)(wide | sign);
}

INLINE ints bf16_bits(lanes v) {
    typedef uint32_t unsigned_ints __attribute__((vector_size(16)));
    ints u = (ints)v;
    ints rounded = u + 0x7fff + ((u >> 16) & 1);
    ints bits = choose_int((u & 0x7fffffff) > splat_int(0x7f800000), u | 0x00400000, rounded);
    return (ints)((unsigned_ints)bits >> 16);
}

INLINE lanes bf16_value(ints bits) { return (lanes)(bits << 16); }

INLINE lanes load_f16(const uint8_t *p) { return f16_value(load_halves(p)); }
INLINE lanes load_bf16(const uint8_t *p) { return bf16_value(load_halves(p)); }

// the low bytes of 32 ints
INLINE void store_bytes(uint8_t *out, const ints v[8]) {
#if defined(__SSE2__)
    __m128i low = _mm_set1_epi32(0xff);
    for (int i = 0; i < 8; i += 4) {
        __m128i a = _mm_packs_epi32(_mm_and_si128((__m128i)v[i], low), _mm_and_si128((__m128i)v[i + 1], low));
        __m128i b =
            _mm_packs_epi32(_mm_and_si128((__m128i)v[i + 2], low), _mm_and_si128((__m128i)v[i + 3], low));
        _mm_storeu_si128((__m128i *)(out + 4 * i), _mm_packus_epi16(a, b));
    }
#else
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++) out[4 * i + j] = (uint8_t)v[i][j];
#endif
}

#define TURN 4

// row i of x, `stride` apart, becomes lane i of out[0], out[LANES] ...
INLINE void turn(const float *x, int stride, float *out) {
    lanes rows[4];
    for (int i = 0; i < 4; i++) rows[i] = load(x + i * stride);
    for (int i = 0; i < 4; i++) store(out + i * LANES, (lanes){rows[0][i], rows[1][i], rows[2][i], rows[3][i]});
}
