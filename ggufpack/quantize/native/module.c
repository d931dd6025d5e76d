// The extension module: empty for Python, which calls the exported functions through ctypes.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

// Names of the variants that this processor and its operating system can run, the fastest first.
__attribute__((visibility("default"))) const char *ggufpack_variants(void) {
#if defined(__x86_64__)
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    int has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    if (has_f16c && __builtin_cpu_supports("avx2")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            return "avx512,avx2,generic";
        return "avx2,generic";
    }
#endif
    return "generic";
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "C kernels of ggufpack.quantize; see kernels.py.", 0, NULL,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
