// The kernels for one instruction set, VARIANT. Compiled once a variant, with its compiler flags.

#include "floats.h"
#include "iq4.h"
#include "plain_blocks.h"
#include "q2_k.h"
#include "q3_k.h"
#include "q4_q5_k.h"
#include "q6_k.h"

// weights at work at once: they stay in the first cache together with their encoding. A multiple of
// the 2 * LANES sub-blocks that the searches take together
#define CHUNK 4096

typedef size_t reference_fn(int type, const float *x, void *out, int64_t start, int64_t rows, int64_t columns,
                            const float *importance);
typedef void encoder(const float *x, long count, uint8_t *out);

struct coded {
    int type;
    int weights, bytes;  // of a block
    encoder *encode;     // 0: through the reference
};

static const struct coded CODED[] = {
    {TYPE_F16, 1, 2, encode_f16},       {TYPE_BF16, 1, 2, encode_bf16},
    {TYPE_Q8_0, 32, 34, encode_q8_0},   {TYPE_Q4_0, 32, 18, encode_q4_0},
    {TYPE_Q4_1, 32, 20, encode_q4_1},   {TYPE_Q5_0, 32, 22, encode_q5_0},
    {TYPE_Q5_1, 32, 24, encode_q5_1},   {TYPE_IQ4_NL, 32, 18, encode_iq4_nl},
    {TYPE_Q2_K, 256, 84, encode_q2_k},            {TYPE_Q3_K, 256, 110, encode_q3_k},
    {TYPE_Q4_K, 256, 144, encode_q4_k}, {TYPE_Q5_K, 256, 176, encode_q5_k},
    {TYPE_Q6_K, 256, 210, encode_q6_k}, {TYPE_IQ4_XS, 256, 136, encode_iq4_xs},
};

static const struct coded *coded_as(int type) {
    for (size_t i = 0; i < sizeof CODED / sizeof *CODED; i++)
        if (CODED[i].type == type) return CODED + i;
    __builtin_unreachable();
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

// Encodes `count` weights, of which `from` holds the `source` values, for each of the outputs.
// Types without a kernel go through `reference`, ggml_quantize_chunk. Returns the largest magnitude
// after the rounding to `middle`.
__attribute__((visibility("default"))) float JOIN(ggufpack_encode_, VARIANT)(
    const void *from, int source, int middle, int64_t count, int outputs, const int *types,
    uint8_t *const *out, reference_fn *reference) {
    _Alignas(64) float x[CHUNK];
    int32_t largest = 0;
    for (int64_t done = 0; done < count; done += CHUNK) {
        long part = (long)(count - done < CHUNK ? count - done : CHUNK);
        // the searches read whole groups of sub-blocks
        if (part < CHUNK) memset(x, 0, sizeof x);
        const uint8_t *start = (const uint8_t *)from + done * float_size(source);
        int32_t bits = widen(source, middle, start, part, x);
        largest = bits > largest ? bits : largest;
        for (int i = 0; i < outputs; i++) {
            if (types[i] == TYPE_F32) {
                memcpy(out[i] + done * 4, x, (size_t)part * 4);
                continue;
            }
            const struct coded *type = coded_as(types[i]);
            uint8_t *to = out[i] + done / type->weights * type->bytes;
            if (type->encode)
                type->encode(x, part, to);
            else
                reference(types[i], x, to, 0, 1, part, 0);
        }
    }
    float magnitude;
    memcpy(&magnitude, &largest, sizeof magnitude);
    return magnitude;
}
