// The element-wise half of a training step on a CPU, fused: norms, gates, attention of short sequences, routing.
//
// Plain C interface, no headers but the standard library's: compiles in seconds, see __init__.py. Tensors are float32 or
// bfloat16 in memory; everything is computed in float32, but for the products of softmax attention on bfloat16 tensors, whose
// factors are rounded to bfloat16 (sums are float32). Gradients recompute what is cheap instead of storing it.
//
// Shapes as in the packages of the operators: B batch, L tokens, N heads, K width of a head, D width, E experts, H hidden.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define LOW_PRODUCTS 1  // the processor multiplies pairs of bfloat16, twice as fast as float32
#include <immintrin.h>
#endif

// Iterations of the next loop touch different elements; without it the compiler gives up on loops over many pointers.
#if defined(__clang__)
#define SIMD _Pragma("clang loop vectorize(assume_safety)")
#else
#define SIMD _Pragma("GCC ivdep")
#endif

// The next loop over frames, tokens or heads is shared among PyTorch's own threads where it has enough to do. Each of its iterations
// writes memory of its own, and sums over iterations are taken afterwards in their order: the number of threads changes no bit.
#define PRAGMA(text) _Pragma(#text)
#ifdef _OPENMP
#define PARALLEL(work) PRAGMA(omp parallel for schedule(static) if ((work) > 16384))
#else
#define PARALLEL(work)
#endif

namespace {

struct bf16 {
    uint16_t bits;
};

inline float load(const float* p) { return *p; }
inline float load(const bf16* p) {
    uint32_t bits = uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(bf16* p, float value) {  // rounds to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    p->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp within 2 ulp, without a call, so that loops over it are vectorised; below -87 it is about 1e-38 instead of 0.
inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const int32_t bits = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return y * scale;
}
inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// ---- matrix products of a few hundred rows: C [M, N] (+)= A [M, P] B [P, N], A with any strides ------------------------

typedef float vec __attribute__((vector_size(64), aligned(4)));

template <int ROWS, int VECS>
inline void tile(int64_t P, const float* A, int64_t a_row, int64_t a_col, const float* B, int64_t ldb, float* C,
                 int64_t ldc, bool add) {
    vec sum[ROWS][VECS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECS; ++j)
            sum[i][j] = add ? *reinterpret_cast<const vec*>(C + i * ldc + 16 * j) : vec{};
    for (int64_t p = 0; p < P; ++p) {
        vec b[VECS];
        for (int j = 0; j < VECS; ++j) b[j] = *reinterpret_cast<const vec*>(B + p * ldb + 16 * j);
        for (int i = 0; i < ROWS; ++i) {
            const float a = A[i * a_row + p * a_col];
            for (int j = 0; j < VECS; ++j) sum[i][j] += a * b[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECS; ++j) *reinterpret_cast<vec*>(C + i * ldc + 16 * j) = sum[i][j];
}

template <int VECS>
void panel(int64_t M, int64_t P, const float* A, int64_t a_row, int64_t a_col, const float* B, int64_t ldb, float* C,
           int64_t ldc, bool add) {
    int64_t i = 0;
    for (; i + 6 <= M; i += 6) tile<6, VECS>(P, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, add);
    for (; i + 2 <= M; i += 2) tile<2, VECS>(P, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, add);
    for (; i < M; ++i) tile<1, VECS>(P, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, add);
}

// N and the rows of B and C are multiples of 16.
void gemm(int64_t M, int64_t N, int64_t P, const float* A, int64_t a_row, int64_t a_col, const float* B, int64_t ldb,
          float* C, int64_t ldc, bool add = false) {
    int64_t j = 0;
    for (; j + 64 <= N; j += 64) panel<4>(M, P, A, a_row, a_col, B + j, ldb, C + j, ldc, add);
    if (j + 32 <= N) {
        panel<2>(M, P, A, a_row, a_col, B + j, ldb, C + j, ldc, add);
        j += 32;
    }
    if (j < N) panel<1>(M, P, A, a_row, a_col, B + j, ldb, C + j, ldc, add);
}

#ifdef LOW_PRODUCTS
// Two rows of 16 floats as bfloat16, element by element next to each other.
inline __m512i pair_rows(const float* low, const float* high) {
    const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(low)));
    if (!high) return a;
    const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(high)));
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

// Rows p and p + 1 of x [P, N] become row p / 2 of out [P / 2 rounded up, N], pairs of bfloat16.
void pack_rows(int64_t P, int64_t N, const float* x, int64_t ldx, int32_t* out) {
    for (int64_t p = 0; p < P; p += 2)
        for (int64_t j = 0; j < N; j += 16)
            _mm512_storeu_si512(out + p / 2 * N + j,
                                pair_rows(x + p * ldx + j, p + 1 < P ? x + (p + 1) * ldx + j : nullptr));
}

// Columns p and p + 1 of x [M, P] become column p / 2 of out [M, (P + 15) / 16 * 8], pairs of bfloat16; x is padded with
// zeros to a multiple of 16 columns.
void pack_columns(int64_t M, int64_t P, const float* x, int64_t ldx, int32_t* out) {
    const int64_t wide = (P + 15) / 16 * 16;
    for (int64_t i = 0; i < M; ++i)
        for (int64_t p = 0; p < wide; p += 16)
            _mm256_storeu_si256((__m256i*)(out + i * (wide / 2) + p / 2),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i * ldx + p)));
}

template <int ROWS, int VECS>
inline void low_tile(int64_t pairs, const int32_t* A, int64_t a_row, int64_t a_col, const int32_t* B, int64_t ldb,
                     float* C, int64_t ldc, bool add) {
    __m512 sum[ROWS][VECS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECS; ++j)
            sum[i][j] = add ? _mm512_loadu_ps(C + i * ldc + 16 * j) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; ++p) {
        __m512i b[VECS];
        for (int j = 0; j < VECS; ++j) b[j] = _mm512_loadu_si512(B + p * ldb + 16 * j);
        for (int i = 0; i < ROWS; ++i) {
            const __m512bh a = (__m512bh)_mm512_set1_epi32(A[i * a_row + p * a_col]);
            for (int j = 0; j < VECS; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], a, (__m512bh)b[j]);
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECS; ++j) _mm512_storeu_ps(C + i * ldc + 16 * j, sum[i][j]);
}

template <int VECS>
void low_panel(int64_t M, int64_t pairs, const int32_t* A, int64_t a_row, int64_t a_col, const int32_t* B, int64_t ldb,
               float* C, int64_t ldc, bool add) {
    int64_t i = 0;
    for (; i + 6 <= M; i += 6) low_tile<6, VECS>(pairs, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, add);
    for (; i + 2 <= M; i += 2) low_tile<2, VECS>(pairs, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, add);
    for (; i < M; ++i) low_tile<1, VECS>(pairs, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, add);
}
#endif

// The same product with A and B rounded to bfloat16 where the processor gains by it and X is bfloat16 anyway; sums are
// float32. A [M, P] has rows of `lda`, or is the transpose of such an A; a row of either is padded with zeros to a multiple of
// 16 columns. `packed` has room for both operands, two elements to an integer.
template <class X>
void gemm_as(bool transposed, int64_t M, int64_t N, int64_t P, const float* A, int64_t lda, const float* B, int64_t ldb,
             float* C, int64_t ldc, int32_t* packed, bool add = false) {
#ifdef LOW_PRODUCTS
    if (sizeof(X) == 2) {
        const int64_t pairs = (P + 1) / 2, wide = (M + 15) / 16 * 16;
        const int64_t a_row = transposed ? 1 : (P + 15) / 16 * 8, a_col = transposed ? wide : 1;
        int32_t* low_b = packed;
        int32_t* low_a = packed + pairs * N;
        pack_rows(P, N, B, ldb, low_b);
        if (transposed)
            pack_rows(P, wide, A, lda, low_a);
        else
            pack_columns(M, P, A, lda, low_a);
        int64_t j = 0;
        for (; j + 64 <= N; j += 64) low_panel<4>(M, pairs, low_a, a_row, a_col, low_b + j, N, C + j, ldc, add);
        if (j + 32 <= N) {
            low_panel<2>(M, pairs, low_a, a_row, a_col, low_b + j, N, C + j, ldc, add);
            j += 32;
        }
        if (j < N) low_panel<1>(M, pairs, low_a, a_row, a_col, low_b + j, N, C + j, ldc, add);
        return;
    }
#endif
    (void)packed;
    gemm(M, N, P, A, transposed ? 1 : lda, transposed ? lda : 1, B, ldb, C, ldc, add);
}

void transpose(int64_t rows, int64_t cols, const float* x, int64_t ldx, float* out, int64_t ldo) {
    for (int64_t i0 = 0; i0 < rows; i0 += 16)
        for (int64_t j = 0; j < cols; ++j)
            for (int64_t i = i0; i < (i0 + 16 < rows ? i0 + 16 : rows); ++i) out[j * ldo + i] = x[i * ldx + j];
}

inline int64_t round_up(int64_t n) { return (n + 15) / 16 * 16; }

// Scratch memory of a thread, one allocation for all calls: `take` hands out consecutive pieces.
struct Scratch {
    std::vector<float> memory;
    size_t used = 0;
    void reset(size_t size) {
        if (memory.size() < size) memory.resize(size);
        used = 0;
    }
    float* take(size_t size) {
        float* piece = memory.data() + used;
        used += (size + 15) / 16 * 16;
        return piece;
    }
};
thread_local Scratch scratch;

// ---- modulated norm, gated residual, SwiGLU ------------------------------------------------------------------------------

template <class X, class O>
void modulated_norm_forward(const X* x, const float* factor, int64_t factor_stride, const float* shift,
                            int64_t shift_stride, O* out, float* rstd, int64_t frames, int64_t tokens, int64_t D,
                            float eps) {
    PARALLEL(frames * tokens * D)
    for (int64_t f = 0; f < frames; ++f) {
        const float* m = factor + f * factor_stride;
        const float* s = shift ? shift + f * shift_stride : nullptr;
        for (int64_t t = f * tokens; t < (f + 1) * tokens; ++t) {
            const X* row = x + t * D;
            O* o = out + t * D;
            float sum = 0;
            SIMD
            for (int64_t d = 0; d < D; ++d) sum += load(row + d) * load(row + d);
            const float r = 1.0f / std::sqrt(sum / D + eps);
            rstd[t] = r;
            if (s)
                SIMD
                for (int64_t d = 0; d < D; ++d) store(o + d, load(row + d) * r * m[d] + s[d]);
            else
                SIMD
                for (int64_t d = 0; d < D; ++d) store(o + d, load(row + d) * r * m[d]);
        }
    }
}

template <class G, class X>
void modulated_norm_backward(const G* grad, const X* x, const float* factor, int64_t factor_stride, const float* rstd,
                             X* grad_x, float* grad_factor, float* grad_shift, int64_t frames, int64_t tokens,
                             int64_t D) {
    PARALLEL(frames * tokens * D)
    for (int64_t f = 0; f < frames; ++f) {
        const float* m = factor + f * factor_stride;
        float* gm = grad_factor + f * D;
        float* gs = grad_shift + f * D;
        std::memset(gm, 0, D * sizeof(float));
        std::memset(gs, 0, D * sizeof(float));
        for (int64_t t = f * tokens; t < (f + 1) * tokens; ++t) {
            const X* row = x + t * D;
            const G* g = grad + t * D;
            const float r = rstd[t];
            float inner = 0;
            SIMD
            for (int64_t d = 0; d < D; ++d) {
                const float gd = load(g + d), product = gd * load(row + d) * r;
                gs[d] += gd;
                gm[d] += product;
                inner += product * m[d];
            }
            inner *= r * r / D;
            SIMD
            for (int64_t d = 0; d < D; ++d)
                store(grad_x + t * D + d, load(g + d) * m[d] * r - load(row + d) * inner);
        }
    }
}

template <class X, class B>
void gated_residual_forward(const X* x, const B* branch, const float* gate, int64_t gate_stride, X* out, int64_t frames,
                            int64_t tokens, int64_t D) {
    PARALLEL(frames * tokens * D)
    for (int64_t f = 0; f < frames; ++f) {
        const float* m = gate + f * gate_stride;
        for (int64_t t = f * tokens; t < (f + 1) * tokens; ++t)
            SIMD
            for (int64_t d = 0; d < D; ++d)
                store(out + t * D + d, load(x + t * D + d) + load(branch + t * D + d) * m[d]);
    }
}

template <class X, class B>
void gated_residual_backward(const X* grad, const B* branch, const float* gate, int64_t gate_stride, B* grad_branch,
                             float* grad_gate, int64_t frames, int64_t tokens, int64_t D) {
    PARALLEL(frames * tokens * D)
    for (int64_t f = 0; f < frames; ++f) {
        const float* m = gate + f * gate_stride;
        float* gm = grad_gate + f * D;
        std::memset(gm, 0, D * sizeof(float));
        for (int64_t t = f * tokens; t < (f + 1) * tokens; ++t)
            SIMD
            for (int64_t d = 0; d < D; ++d) {
                const float g = load(grad + t * D + d);
                gm[d] += g * load(branch + t * D + d);
                store(grad_branch + t * D + d, g * m[d]);
            }
    }
}

template <class X>
void swiglu_forward(const X* hidden, X* out, int64_t rows, int64_t H) {
    PARALLEL(rows * H)
    for (int64_t t = 0; t < rows; ++t) {
        const X *gate = hidden + 2 * t * H, *up = gate + H;
        SIMD
        for (int64_t h = 0; h < H; ++h) {
            const float g = load(gate + h);
            store(out + t * H + h, g * sigmoid(g) * load(up + h));
        }
    }
}

template <class X>
void swiglu_backward(const X* grad, const X* hidden, X* grad_hidden, int64_t rows, int64_t H) {
    PARALLEL(rows * H)
    for (int64_t t = 0; t < rows; ++t) {
        const X *gate = hidden + 2 * t * H, *up = gate + H;
        X* out = grad_hidden + 2 * t * H;
        SIMD
        for (int64_t h = 0; h < H; ++h) {
            const float g = load(gate + h), s = sigmoid(g), y = load(grad + t * H + h);
            store(out + h, y * load(up + h) * s * (1.0f + g * (1.0f - s)));
            store(out + H + h, y * g * s);
        }
    }
}

// ---- heads: qk-norm and rotary of one head's rows ------------------------------------------------------------------------

// One head, rows `stride` apart in memory, normalised and multiplied by `weight`: out [L, K]; keeps rstd [L].
template <class X>
void norm_rows(const X* x, int64_t stride, const float* weight, float* out, float* rstd, int64_t L, int64_t K,
               float eps) {
    for (int64_t t = 0; t < L; ++t) {
        const X* row = x + t * stride;
        float sum = 0;
        SIMD
        for (int64_t k = 0; k < K; ++k) sum += load(row + k) * load(row + k);
        const float r = 1.0f / std::sqrt(sum / K + eps);
        rstd[t] = r;
        SIMD
        for (int64_t k = 0; k < K; ++k) out[t * K + k] = load(row + k) * r * weight[k];
    }
}

// Gradient of norm_rows: grad [L, K] float32 -> grad_x rows, and adds to grad_weight.
template <class X>
void norm_rows_backward(const float* grad, const X* x, int64_t stride, const float* weight, const float* rstd,
                        X* grad_x, float* grad_weight, int64_t L, int64_t K, float scale = 1.0f) {
    for (int64_t t = 0; t < L; ++t) {
        const X* row = x + t * stride;
        const float r = rstd[t];
        float inner = 0;
        SIMD
        for (int64_t k = 0; k < K; ++k) {
            const float product = grad[t * K + k] * scale * load(row + k) * r;
            grad_weight[k] += product;
            inner += product * weight[k];
        }
        inner *= r * r / K;
        SIMD
        for (int64_t k = 0; k < K; ++k)
            store(grad_x + t * stride + k, grad[t * K + k] * scale * weight[k] * r - load(row + k) * inner);
    }
}

// Turns pairs (2i, 2i + 1) by the angles of cos, sin [L, K/2]; `sign` -1 turns back. `out` may be `x`.
void turn(const float* x, const float* cos, const float* sin, float* out, int64_t L, int64_t K, float sign,
          float scale = 1.0f) {
    const int64_t half = K / 2;
    for (int64_t t = 0; t < L; ++t)
        SIMD
        for (int64_t i = 0; i < half; ++i) {
            const float c = cos[t * half + i] * scale, s = sin[t * half + i] * sign * scale;
            const float a = x[t * K + 2 * i], b = x[t * K + 2 * i + 1];
            out[t * K + 2 * i] = a * c - b * s;
            out[t * K + 2 * i + 1] = a * s + b * c;
        }
}

// ---- the linear mixer between its two projections --------------------------------------------------------------------------

// out [L, K] += the 3x3 depth-wise convolution of v [L, K] inside each frame, 16 * VECS channels of it; weight [9, K]. `flip`
// takes the gradient to v.
template <int VECS>
void convolve_channels(const float* v, const float* weight, float* out, int64_t n, int64_t h, int64_t w, int64_t K,
                       bool flip) {
    for (int64_t f = 0; f < n; ++f)
        for (int64_t y = 0; y < h; ++y)
            for (int64_t x = 0; x < w; ++x) {
                const int64_t pixel = (f * h + y) * w + x;
                vec sum[VECS];
                for (int j = 0; j < VECS; ++j) sum[j] = *reinterpret_cast<const vec*>(out + pixel * K + 16 * j);
                for (int64_t dy = y > 0 ? -1 : 0; dy <= (y + 1 < h ? 1 : 0); ++dy)
                    for (int64_t dx = x > 0 ? -1 : 0; dx <= (x + 1 < w ? 1 : 0); ++dx) {
                        const int64_t tap = 4 + (flip ? -1 : 1) * (3 * dy + dx);
                        const float* in = v + (pixel + dy * w + dx) * K;
                        for (int j = 0; j < VECS; ++j)
                            sum[j] += *reinterpret_cast<const vec*>(in + 16 * j) *
                                      *reinterpret_cast<const vec*>(weight + tap * K + 16 * j);
                    }
                for (int j = 0; j < VECS; ++j) *reinterpret_cast<vec*>(out + pixel * K + 16 * j) = sum[j];
            }
}

template <int VECS>
void convolve_weight_channels(const float* v, const float* grad, float* grad_weight, int64_t n, int64_t h, int64_t w,
                              int64_t K) {
    for (int64_t dy = -1; dy <= 1; ++dy)
        for (int64_t dx = -1; dx <= 1; ++dx) {
            float* to = grad_weight + (4 + 3 * dy + dx) * K;
            vec sum[VECS];
            for (int j = 0; j < VECS; ++j) sum[j] = *reinterpret_cast<const vec*>(to + 16 * j);
            for (int64_t f = 0; f < n; ++f)
                for (int64_t y = dy < 0 ? 1 : 0; y < (dy > 0 ? h - 1 : h); ++y)
                    for (int64_t x = dx < 0 ? 1 : 0; x < (dx > 0 ? w - 1 : w); ++x) {
                        const int64_t pixel = (f * h + y) * w + x;
                        for (int j = 0; j < VECS; ++j)
                            sum[j] += *reinterpret_cast<const vec*>(v + (pixel + dy * w + dx) * K + 16 * j) *
                                      *reinterpret_cast<const vec*>(grad + pixel * K + 16 * j);
                    }
            for (int j = 0; j < VECS; ++j) *reinterpret_cast<vec*>(to + 16 * j) = sum[j];
        }
}

void convolve(const float* v, const float* weight, float* out, int64_t n, int64_t h, int64_t w, int64_t K, bool flip) {
    int64_t k = 0;
    for (; k + 64 <= K; k += 64) convolve_channels<4>(v + k, weight + k, out + k, n, h, w, K, flip);
    for (; k < K; k += 16) convolve_channels<1>(v + k, weight + k, out + k, n, h, w, K, flip);
}

void convolve_weight_backward(const float* v, const float* grad, float* grad_weight, int64_t n, int64_t h, int64_t w,
                              int64_t K) {
    int64_t k = 0;
    for (; k + 64 <= K; k += 64) convolve_weight_channels<4>(v + k, grad + k, grad_weight + k, n, h, w, K);
    for (; k < K; k += 16) convolve_weight_channels<1>(v + k, grad + k, grad_weight + k, n, h, w, K);
}

struct LinearHead {  // what one head of one item computes on the way forward, for `rows` of its tokens
    float *q, *k, *v, *written, *qd, *kd, *qr, *kr, *beta, *den, *sum, *state, *out, *r_query, *r_key;
    void allocate(int64_t rows, int64_t K) {
        for (float** piece : {&q, &k, &v, &written, &qd, &kd, &qr, &kr, &out}) *piece = scratch.take(rows * K);
        for (float** piece : {&beta, &den, &r_query, &r_key}) *piece = scratch.take(rows);
        sum = scratch.take(K);
        state = scratch.take(K * K);
    }
    static size_t size(int64_t rows, int64_t K) {
        return 9 * round_up(rows * K) + 4 * round_up(rows) + 2 * K + K * K + 256;
    }
};

constexpr float DEN_EPS = 1e-6f, DEN_FLOOR = 0.01f;

struct LinearArgs {
    int64_t B, n, h, w, N, K, tables;              // of cos and sin: elements from item to item, 0 = shared
    const float *wq, *wk, *wo, *cos, *sin, *conv;  // conv [N, 9, K]
    float eps;
    int64_t frame() const { return h * w; }
    int64_t length() const { return n * h * w; }
    int64_t part() const { return N * K; }
    int64_t row() const { return 4 * N * K; }
};

// Keys and values of one frame into the state; the frame's rows start at row `at` of the head's arrays.
template <class X>
void linear_write(const LinearArgs& p, LinearHead& s, const X* head, const X* beta, int64_t b, int64_t frame,
                  int64_t at) {
    const int64_t T = p.frame(), K = p.K, row = p.row(), start = frame * T;
    const X *key = head + p.part() + start * row, *value = key + p.part();
    const float *cos = p.cos + b * p.tables + start * (K / 2), *sin = p.sin + b * p.tables + start * (K / 2);
    float *k = s.k + at * K, *v = s.v + at * K, *written = s.written + at * K, *kd = s.kd + at * K, *kr = s.kr + at * K;
    norm_rows(key, row, p.wk, k, s.r_key + at, T, K, p.eps);
    if (frame == 0)
        for (int64_t c = 0; c < K; ++c) s.sum[c] = 0;
    for (int64_t t = 0; t < T; ++t) {
        const float opened = sigmoid(load(beta + (start + t) * p.N));
        s.beta[at + t] = opened;
        SIMD
        for (int64_t c = 0; c < K; ++c) {
            const float x = k[t * K + c];
            kd[t * K + c] = (x > 0 ? x : 0) + DEN_FLOOR;
            s.sum[c] += opened * kd[t * K + c];
            v[t * K + c] = load(value + t * row + c);
            written[t * K + c] = opened * v[t * K + c];
        }
    }
    turn(k, cos, sin, kr, T, K, 1.0f);
    gemm(K, K, T, kr, 1, K, written, K, s.state, K, frame > 0);
}

// What the queries of one frame read from the state of all frames.
template <class X>
void linear_read(const LinearArgs& p, LinearHead& s, const X* head, int64_t b, int64_t frame, int64_t at) {
    const int64_t T = p.frame(), K = p.K, row = p.row(), start = frame * T;
    const float *cos = p.cos + b * p.tables + start * (K / 2), *sin = p.sin + b * p.tables + start * (K / 2);
    float *q = s.q + at * K, *qd = s.qd + at * K, *qr = s.qr + at * K, *out = s.out + at * K;
    norm_rows(head + start * row, row, p.wq, q, s.r_query + at, T, K, p.eps);
    turn(q, cos, sin, qr, T, K, 1.0f);
    gemm(T, K, K, qr, K, 1, s.state, K, out, K);
    for (int64_t t = 0; t < T; ++t) {
        float den = DEN_EPS;
        SIMD
        for (int64_t c = 0; c < K; ++c) {
            const float x = q[t * K + c];
            qd[t * K + c] = (x > 0 ? x : 0) + DEN_FLOOR;
            den += qd[t * K + c] * s.sum[c];
        }
        s.den[at + t] = 1.0f / den;
        SIMD
        for (int64_t c = 0; c < K; ++c) out[t * K + c] *= s.den[at + t];
    }
}

template <class X>
void linear_head_forward(const LinearArgs& p, const X* qkvg, const X* beta, X* out, int64_t i) {
    const int64_t T = p.frame(), L = p.length(), K = p.K, part = p.part(), row = p.row();
    const int64_t b = i / p.N, a = i % p.N;
    const X* head = qkvg + b * L * row + a * K;
    scratch.reset(LinearHead::size(T, K));  // one frame at a time stays in cache
    LinearHead s;
    s.allocate(T, K);
    for (int64_t f = 0; f < p.n; ++f) linear_write(p, s, head, beta + b * L * p.N + a, b, f, 0);
    for (int64_t f = 0; f < p.n; ++f) {
        linear_read(p, s, head, b, f, 0);
        for (int64_t t = 0; t < T; ++t)
            SIMD
            for (int64_t c = 0; c < K; ++c) s.v[t * K + c] = load(head + 2 * part + (f * T + t) * row + c);
        convolve(s.v, p.conv + a * 9 * K, s.out, 1, p.h, p.w, K, false);
        for (int64_t t = 0; t < T; ++t) {
            const float* u = s.out + t * K;
            const X* gate = head + 3 * part + (f * T + t) * row;
            X* o = out + (b * L + f * T + t) * part + a * K;
            float sum = 0;
            SIMD
            for (int64_t c = 0; c < K; ++c) sum += u[c] * u[c];
            const float r = 1.0f / std::sqrt(sum / K + p.eps);
            SIMD
            for (int64_t c = 0; c < K; ++c) store(o + c, u[c] * r * p.wo[c] * sigmoid(load(gate + c)));
        }
    }
}

template <class X>
void linear_mixer_forward(const LinearArgs& p, const X* qkvg, const X* beta, X* out) {
    PARALLEL(p.B * p.length() * p.part())
    for (int64_t i = 0; i < p.B * p.N; ++i)
        linear_head_forward(p, qkvg, beta, out, i);
}

template <class X>
void linear_head_backward(const LinearArgs& p, const X* grad, const X* qkvg, const X* beta, X* grad_qkvg,
                          X* grad_beta, float* sums, int64_t i) {
    const int64_t n = p.n, h = p.h, w = p.w, N = p.N, K = p.K;
    const int64_t L = p.length(), part = p.part(), row = p.row(), own = 12 * K;
    const int64_t b = i / N, a = i % N;
    const float *cos = p.cos + b * p.tables, *sin = p.sin + b * p.tables;
    const X* head = qkvg + b * L * row + a * K;
    X* grad_head = grad_qkvg + b * L * row + a * K;
    const float* conv = p.conv + a * 9 * K;
    float *own_wq = sums + i * own, *own_wk = own_wq + K, *own_wo = own_wk + K, *own_conv = own_wo + K;
    scratch.reset(LinearHead::size(L, K) + 6 * round_up(L * K) + 3 * K * K + round_up(L) + K + 256);
    LinearHead s;
    s.allocate(L, K);
    float *u = scratch.take(L * K), *gu = scratch.take(L * K), *gv = scratch.take(L * K), *gw = scratch.take(L * K);
    float *gq = scratch.take(L * K), *gk = scratch.take(L * K);
    float *state_t = scratch.take(K * K), *gs = scratch.take(K * K), *gs_t = scratch.take(K * K);
    float *g_den = scratch.take(L), *g_sum = scratch.take(K);
    for (int64_t f = 0; f < n; ++f) linear_write(p, s, head, beta + b * L * N + a, b, f, f * p.frame());
    for (int64_t f = 0; f < n; ++f) linear_read(p, s, head, b, f, f * p.frame());
    std::memcpy(u, s.out, L * K * sizeof(float));
    convolve(s.v, conv, u, n, h, w, K, false);
    for (int64_t t = 0; t < L; ++t) {  // through gate and output norm
        const X* gate = head + 3 * part + t * row;
        X* grad_gate = grad_head + 3 * part + t * row;
        const X* g = grad + (b * L + t) * part + a * K;
        const float* ut = u + t * K;
        float* gut = gu + t * K;
        float sum = 0, inner = 0;
        SIMD
        for (int64_t k = 0; k < K; ++k) sum += ut[k] * ut[k];
        const float r = 1.0f / std::sqrt(sum / K + p.eps);
        SIMD
        for (int64_t k = 0; k < K; ++k) {
            const float opened = sigmoid(load(gate + k)), normed = ut[k] * r, gk_ = load(g + k) * opened;
            store(grad_gate + k, gk_ * normed * p.wo[k] * (1.0f - opened));
            own_wo[k] += gk_ * normed;
            gut[k] = gk_ * p.wo[k];
            inner += gut[k] * normed;
        }
        inner /= K;
        SIMD
        for (int64_t k = 0; k < K; ++k) gut[k] = r * (gut[k] - ut[k] * r * inner);
    }
    std::memset(gv, 0, L * K * sizeof(float));
    convolve(gu, conv, gv, n, h, w, K, true);
    convolve_weight_backward(s.v, gu, own_conv, n, h, w, K);
    for (int64_t k = 0; k < K; ++k) g_sum[k] = 0;
    for (int64_t t = 0; t < L; ++t) {  // out = numerator * den
        float inner = 0;
        SIMD
        for (int64_t k = 0; k < K; ++k) inner += gu[t * K + k] * s.out[t * K + k];
        g_den[t] = -inner * s.den[t];
        SIMD
        for (int64_t k = 0; k < K; ++k) {
            gu[t * K + k] *= s.den[t];
            g_sum[k] += g_den[t] * s.qd[t * K + k];
        }
    }
    transpose(K, K, s.state, K, state_t, K);
    gemm(L, K, K, gu, K, 1, state_t, K, gq, K);     // to the turned query
    gemm(K, K, L, s.qr, 1, K, gu, K, gs, K);        // to the state
    transpose(K, K, gs, K, gs_t, K);
    gemm(L, K, K, s.written, K, 1, gs_t, K, gk, K);  // to the turned key
    gemm(L, K, K, s.kr, K, 1, gs, K, gw, K);         // to beta * value
    turn(gq, cos, sin, gq, L, K, -1.0f);
    turn(gk, cos, sin, gk, L, K, -1.0f);
    for (int64_t t = 0; t < L; ++t) {
        float gb = 0;
        X* grad_value = grad_head + 2 * part + t * row;
        const float bt = s.beta[t];
        const float gd = g_den[t];
        float *gqt = gq + t * K, *gkt = gk + t * K;
        const float *qt = s.q + t * K, *kt = s.k + t * K, *sum = s.sum;
        SIMD
        for (int64_t k = 0; k < K; ++k) {
            gqt[k] += (qt[k] > 0 ? gd : 0.0f) * sum[k];
            gkt[k] += (kt[k] > 0 ? bt : 0.0f) * g_sum[k];
        }
        SIMD
        for (int64_t k = 0; k < K; ++k) {
            gb += s.kd[t * K + k] * g_sum[k] + gw[t * K + k] * s.v[t * K + k];
            store(grad_value + k, gv[t * K + k] + bt * gw[t * K + k]);
        }
        store(grad_beta + (b * L + t) * N + a, gb * bt * (1.0f - bt));
    }
    norm_rows_backward(gq, head, row, p.wq, s.r_query, grad_head, own_wq, L, K);
    norm_rows_backward(gk, head + part, row, p.wk, s.r_key, grad_head + part, own_wk, L, K);
}

// Gradients of the norm weights [K] and of conv [N * 9, K] are added up over batch and heads; clear them first.
template <class X>
void linear_mixer_backward(const LinearArgs& p, const X* grad, const X* qkvg, const X* beta, X* grad_qkvg, X* grad_beta,
                           float* grad_wq, float* grad_wk, float* grad_wo, float* grad_conv) {
    const int64_t N = p.N, K = p.K, own = 12 * K;
    std::vector<float> sums(p.B * N * own, 0.0f);  // of one head of one item: norms of query, key and output, convolution
    PARALLEL(p.B * p.length() * p.part())
    for (int64_t i = 0; i < p.B * N; ++i)
        linear_head_backward(p, grad, qkvg, beta, grad_qkvg, grad_beta, sums.data(), i);
    for (int64_t i = 0; i < p.B * N; ++i) {
        const float* sum = sums.data() + i * own;
        for (int64_t k = 0; k < K; ++k) {
            grad_wq[k] += sum[k];
            grad_wk[k] += sum[K + k];
            grad_wo[k] += sum[2 * K + k];
        }
        for (int64_t k = 0; k < 9 * K; ++k) grad_conv[i % N * 9 * K + k] += sum[3 * K + k];
    }
}

// ---- softmax attention with qk-norm, rotary, masks and a gate per head ------------------------------------------------------

struct SoftmaxArgs {
    // rows: elements from token to token; frames of L when windowed; tables: of cos and sin, from item to item, 0 = shared
    int64_t B, L, S, N, K, query_row, key_row, frames, tables;
    const float *wq, *wk, *cos, *sin;    // cos null = no rotary
    const uint8_t *key_mask, *visible;   // [B, S]; [frames, frames]; null = everything
    float eps;
};

// Scores of the queries start .. start + count -> weights, in place. Columns S..ld are padding and end as 0.
void softmax_rows(float* scores, int64_t ld, const float* bias, int64_t start, int64_t bias_rows, int64_t count,
                  int64_t S) {
    constexpr float NOTHING = -3e38f;
    for (int64_t t = 0; t < count; ++t) {
        float* row = scores + t * ld;
        const float* add = bias ? bias + (start + t) / bias_rows * ld : nullptr;
        float most = NOTHING, sum = 0;
        vec lanes = vec{} + NOTHING;
        for (int64_t s = S; s < ld; ++s) row[s] = NOTHING;
        for (int64_t s = 0; s < ld; s += 16) {
            vec& x = *reinterpret_cast<vec*>(row + s);
            if (add) x += *reinterpret_cast<const vec*>(add + s);
            lanes = x > lanes ? x : lanes;
        }
        for (int64_t l = 0; l < 16; ++l) most = lanes[l] > most ? lanes[l] : most;
        if (most < -1e30f && row[0] == row[0]) {  // nothing visible, and no NaN to pass on
            for (int64_t s = 0; s < ld; ++s) row[s] = 0;
            continue;
        }
        SIMD
        for (int64_t s = 0; s < ld; ++s) {  // what is not visible becomes about 1e-38, too little to count in the sum
            row[s] = fast_exp(row[s] - most);
            sum += row[s];
        }
        const float inverse = 1.0f / sum;
        if (add) {
            SIMD
            for (int64_t s = 0; s < ld; ++s) row[s] = add[s] < 0 ? 0.0f : row[s] * inverse;
        } else {
            SIMD
            for (int64_t s = 0; s < ld; ++s) row[s] *= inverse;
        }
        for (int64_t s = S; s < ld; ++s) row[s] = 0;
    }
}

constexpr int64_t BLOCK = 48;  // queries whose scores are in memory at a time: a few hundred keys of them stay in cache

struct SoftmaxHead {
    float *q, *k, *kt, *v, *scores, *r_query, *r_key, *bias;
    int32_t* packed;
    int64_t ld;
    void allocate(const SoftmaxArgs& p) {
        ld = round_up(p.S);
        q = scratch.take(p.L * p.K);
        for (float** piece : {&k, &v, &kt}) *piece = scratch.take(ld * p.K);
        scores = scratch.take(BLOCK * ld);
        r_query = scratch.take(p.L);
        r_key = scratch.take(ld);
        bias = scratch.take(p.frames * ld);
        packed = reinterpret_cast<int32_t*>(scratch.take(packed_size(p)));
    }
    static size_t size(const SoftmaxArgs& p) {
        const int64_t ld = round_up(p.S);
        return round_up(p.L * p.K) + 3 * ld * p.K + BLOCK * ld + round_up(p.L) + ld + p.frames * ld +
               packed_size(p) + 256;
    }
    static size_t packed_size(const SoftmaxArgs& p) {  // of the largest pair of operands, see gemm_as
        return round_up(p.S) * p.K / 2 + BLOCK / 2 * (p.K + round_up(p.S));
    }
};

// The mask of one item as something to add to the scores: [frames, ld], or null where everything is visible.
const float* mask_bias(const SoftmaxArgs& p, SoftmaxHead& s, int64_t b) {
    if (!p.key_mask && !p.visible) return nullptr;
    const int64_t per_frame = p.S / p.frames;
    for (int64_t f = 0; f < p.frames; ++f) {
        SIMD
        for (int64_t j = 0; j < p.S; ++j) {
            const bool seen = (!p.key_mask || p.key_mask[b * p.S + j]) &&
                              (!p.visible || p.visible[f * p.frames + j / per_frame]);
            s.bias[f * s.ld + j] = seen ? 0.0f : -2e38f;
        }
        for (int64_t j = p.S; j < s.ld; ++j) s.bias[f * s.ld + j] = 0;  // scratch may hold the NaN of an earlier call
    }
    return s.bias;
}

// Queries, keys and values of one head, normed and turned.
template <class X>
void softmax_head_prepare(const SoftmaxArgs& p, SoftmaxHead& s, const X* query, const X* key, const X* value,
                          int64_t b) {
    const float scale = 1.0f / std::sqrt(float(p.K));
    norm_rows(query, p.query_row, p.wq, s.q, s.r_query, p.L, p.K, p.eps);
    norm_rows(key, p.key_row, p.wk, s.k, s.r_key, p.S, p.K, p.eps);
    if (p.cos) {
        const float *cos = p.cos + b * p.tables, *sin = p.sin + b * p.tables;
        turn(s.q, cos, sin, s.q, p.L, p.K, 1.0f, scale);
        turn(s.k, cos, sin, s.k, p.S, p.K, 1.0f);
    } else {
        SIMD
        for (int64_t i = 0; i < p.L * p.K; ++i) s.q[i] *= scale;
    }
    for (int64_t t = 0; t < p.S; ++t)
        SIMD
        for (int64_t k = 0; k < p.K; ++k) s.v[t * p.K + k] = load(value + t * p.key_row + k);
    transpose(p.S, p.K, s.k, p.K, s.kt, s.ld);
    for (int64_t k = 0; k < p.K; ++k)
        for (int64_t t = p.S; t < s.ld; ++t) s.kt[k * s.ld + t] = 0;
}

// Weights of the queries start .. start + count of one head.
template <class X>
void softmax_block(const SoftmaxArgs& p, SoftmaxHead& s, const float* bias, int64_t start, int64_t count) {
    gemm_as<X>(false, count, s.ld, p.K, s.q + start * p.K, p.K, s.kt, s.ld, s.scores, s.ld, s.packed);
    softmax_rows(s.scores, s.ld, bias, start, p.L / p.frames, count, p.S);
}

template <class X>
void softmax_head_forward(const SoftmaxArgs& p, const X* query, const X* key, const X* value, const X* gate, X* out,
                          int64_t i) {
    const int64_t b = i / p.N, a = i % p.N;
    scratch.reset(SoftmaxHead::size(p) + BLOCK * p.K);
    SoftmaxHead s;
    s.allocate(p);
    float* o = scratch.take(BLOCK * p.K);
    const float* bias = mask_bias(p, s, b);
    softmax_head_prepare(p, s, query + b * p.L * p.query_row + a * p.K, key + b * p.S * p.key_row + a * p.K,
                         value + b * p.S * p.key_row + a * p.K, b);
    for (int64_t start = 0; start < p.L; start += BLOCK) {
        const int64_t count = p.L - start < BLOCK ? p.L - start : BLOCK;
        softmax_block<X>(p, s, bias, start, count);
        gemm_as<X>(false, count, p.K, p.S, s.scores, s.ld, s.v, p.K, o, p.K, s.packed);
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = (b * p.L + start + t) * p.N + a;
            const float g = gate ? sigmoid(load(gate + at)) : 1.0f;
            SIMD
            for (int64_t k = 0; k < p.K; ++k) store(out + at * p.K + k, o[t * p.K + k] * g);
        }
    }
}

// query [B, L, .], key and value [B, S, .] with heads K apart; gate [B, L, N] before the sigmoid or null; out [B, L, N, K].
template <class X>
void softmax_mixer_forward(const SoftmaxArgs& p, const X* query, const X* key, const X* value, const X* gate, X* out) {
    PARALLEL(p.B * p.N * p.L * p.K)
    for (int64_t i = 0; i < p.B * p.N; ++i)
        softmax_head_forward(p, query, key, value, gate, out, i);
}

template <class X>
void softmax_head_backward(const SoftmaxArgs& p, const X* grad, const X* query, const X* key, const X* value,
                           const X* gate, X* grad_query, X* grad_key, X* grad_value, X* grad_gate, float* sums,
                           int64_t i) {
    const int64_t K = p.K;
    const float scale = 1.0f / std::sqrt(float(K));
    const int64_t ld = round_up(p.S);
    const int64_t b = i / p.N, a = i % p.N;
    float *own_wq = sums + i * 2 * K, *own_wk = own_wq + K;
    scratch.reset(SoftmaxHead::size(p) + BLOCK * ld + BLOCK * K + round_up(p.L * K) + 3 * ld * K + 256);
    SoftmaxHead s;
    s.allocate(p);
    float *gs = scratch.take(BLOCK * ld), *go = scratch.take(BLOCK * K), *gq = scratch.take(p.L * K);
    float *gk = scratch.take(ld * K), *gv = scratch.take(ld * K), *vt = scratch.take(ld * K);
    const float* bias = mask_bias(p, s, b);
    const int64_t at_query = b * p.L * p.query_row + a * K, at_key = b * p.S * p.key_row + a * K;
    softmax_head_prepare(p, s, query + at_query, key + at_key, value + at_key, b);
    transpose(p.S, K, s.v, K, vt, ld);
    for (int64_t k = 0; k < K; ++k)
        for (int64_t t = p.S; t < ld; ++t) vt[k * ld + t] = 0;
    for (int64_t start = 0; start < p.L; start += BLOCK) {
        const int64_t count = p.L - start < BLOCK ? p.L - start : BLOCK;
        softmax_block<X>(p, s, bias, start, count);
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = (b * p.L + start + t) * p.N + a;
            const float g = gate ? sigmoid(load(gate + at)) : 1.0f;
            SIMD
            for (int64_t k = 0; k < K; ++k) go[t * K + k] = load(grad + at * K + k) * g;
        }
        gemm_as<X>(true, p.S, K, count, s.scores, ld, go, K, gv, K, s.packed, start > 0);  // to the value
        gemm_as<X>(false, count, ld, K, go, K, vt, ld, gs, ld, s.packed);                  // to the weights
        for (int64_t t = 0; t < count; ++t) {
            float* g = gs + t * ld;
            const float* weights = s.scores + t * ld;
            float inner = 0;
            SIMD
            for (int64_t j = 0; j < ld; ++j) inner += g[j] * weights[j];
            SIMD
            for (int64_t j = 0; j < ld; ++j) g[j] = weights[j] * (g[j] - inner);
            if (gate) {  // inner = gradient * gated output
                const int64_t at = (b * p.L + start + t) * p.N + a;
                store(grad_gate + at, inner * (1.0f - sigmoid(load(gate + at))));
            }
        }
        gemm_as<X>(false, count, K, p.S, gs, ld, s.k, K, gq + start * K, K, s.packed);
        // The query carries the scale already.
        gemm_as<X>(true, p.S, K, count, gs, ld, s.q + start * K, K, gk, K, s.packed, start > 0);
    }
    if (p.cos) {
        const float *cos = p.cos + b * p.tables, *sin = p.sin + b * p.tables;
        turn(gq, cos, sin, gq, p.L, K, -1.0f);
        turn(gk, cos, sin, gk, p.S, K, -1.0f);
    }
    norm_rows_backward(gq, query + at_query, p.query_row, p.wq, s.r_query, grad_query + at_query, own_wq, p.L,
                       K, scale);
    norm_rows_backward(gk, key + at_key, p.key_row, p.wk, s.r_key, grad_key + at_key, own_wk, p.S, K);
    for (int64_t t = 0; t < p.S; ++t)
        SIMD
        for (int64_t k = 0; k < K; ++k) store(grad_value + at_key + t * p.key_row + k, gv[t * K + k]);
}

template <class X>
void softmax_mixer_backward(const SoftmaxArgs& p, const X* grad, const X* query, const X* key, const X* value,
                            const X* gate, X* grad_query, X* grad_key, X* grad_value, X* grad_gate, float* grad_wq,
                            float* grad_wk) {
    const int64_t K = p.K;
    std::vector<float> sums(p.B * p.N * 2 * K, 0.0f);  // of one head of one item: norms of query and key
    PARALLEL(p.B * p.N * p.L * K)
    for (int64_t i = 0; i < p.B * p.N; ++i)
        softmax_head_backward(p, grad, query, key, value, gate, grad_query, grad_key, grad_value, grad_gate,
                              sums.data(), i);
    for (int64_t i = 0; i < p.B * p.N; ++i)
        for (int64_t k = 0; k < K; ++k) {
            grad_wq[k] += sums[i * 2 * K + k];
            grad_wk[k] += sums[i * 2 * K + K + k];
        }
}

// ---- mixture of experts: choice, sorting, moving rows -----------------------------------------------------------------------

// logits [T, E] = x [T, D] weight [E, D]^T
template <class X>
void router_forward(const X* x, const float* weight, float* logits, int64_t T, int64_t D, int64_t E) {
    PARALLEL(T * D * E)
    for (int64_t t = 0; t < T; ++t)
        for (int64_t e = 0; e < E; ++e) {
            float sum = 0;
            SIMD
            for (int64_t d = 0; d < D; ++d) sum += load(x + t * D + d) * weight[e * D + d];
            logits[t * E + e] = sum;
        }
}

template <class X>
void router_backward(const float* grad, const X* x, const float* weight, X* grad_x, float* grad_weight, int64_t T,
                     int64_t D, int64_t E) {
    std::vector<float> sum(D), row(D);
    float *s = sum.data(), *wide = row.data();
    std::memset(grad_weight, 0, E * D * sizeof(float));
    for (int64_t t = 0; t < T; ++t) {
        SIMD
        for (int64_t d = 0; d < D; ++d) {
            s[d] = 0;
            wide[d] = load(x + t * D + d);
        }
        for (int64_t e = 0; e < E; ++e) {
            const float g = grad[t * E + e];
            SIMD
            for (int64_t d = 0; d < D; ++d) {
                s[d] += g * weight[e * D + d];
                grad_weight[e * D + d] += g * wide[d];
            }
        }
        SIMD
        for (int64_t d = 0; d < D; ++d) store(grad_x + t * D + d, s[d]);
    }
}

void route_forward(const float* logits, const float* bias, int64_t* indices, float* weights, int64_t T, int64_t E,
                   int64_t k) {
    PARALLEL(8 * T * E)
    for (int64_t t = 0; t < T; ++t) {
        scratch.reset(2 * E + 16);
        float *scores = scratch.take(E), *choice = scratch.take(E);
        for (int64_t e = 0; e < E; ++e) scores[e] = sigmoid(logits[t * E + e]);
        for (int64_t e = 0; e < E; ++e) choice[e] = scores[e] + (bias ? bias[e] : 0.0f);
        float sum = 0;
        for (int64_t c = 0; c < k; ++c) {
            int64_t best = 0;
            for (int64_t e = 1; e < E; ++e)
                if (choice[e] > choice[best]) best = e;
            choice[best] = -std::numeric_limits<float>::max();
            indices[t * k + c] = best;
            weights[t * k + c] = scores[best];
            sum += scores[best];
        }
        sum = sum < 1e-30f ? 1e-30f : sum;
        for (int64_t c = 0; c < k; ++c) weights[t * k + c] /= sum;
    }
}

void route_backward(const float* grad, const float* logits, const int64_t* indices, const float* weights,
                    float* grad_logits, int64_t T, int64_t E, int64_t k) {
    std::memset(grad_logits, 0, T * E * sizeof(float));
    for (int64_t t = 0; t < T; ++t) {
        float inner = 0, sum = 0;
        for (int64_t c = 0; c < k; ++c) {
            inner += grad[t * k + c] * weights[t * k + c];
            sum += sigmoid(logits[t * E + indices[t * k + c]]);
        }
        sum = sum < 1e-30f ? 1e-30f : sum;
        for (int64_t c = 0; c < k; ++c) {
            const int64_t e = indices[t * k + c];
            const float score = sigmoid(logits[t * E + e]);
            grad_logits[t * E + e] = (grad[t * k + c] - inner) / sum * score * (1.0f - score);
        }
    }
}

// Stable counting sort of the M = T * k choices by expert: place [M] of each choice and ends [E] of each expert's rows, which
// are rounded up to a multiple of `block`. Nothing is placed on the rows in between.
void sort_choices(const int64_t* indices, int64_t* place, int64_t* ends, int64_t M, int64_t E, int64_t block) {
    std::vector<int64_t> next(E, 0);
    for (int64_t m = 0; m < M; ++m) ++next[indices[m]];
    int64_t start = 0;
    for (int64_t e = 0; e < E; ++e) {
        const int64_t count = next[e];
        next[e] = start;
        start += (count + block - 1) / block * block;
        ends[e] = start;
    }
    for (int64_t m = 0; m < M; ++m) place[m] = next[indices[m]]++;
}

template <class X>
void dispatch(const X* x, const int64_t* place, X* routed, int64_t T, int64_t k, int64_t D) {
    PARALLEL(T * k * D)
    for (int64_t t = 0; t < T; ++t)
        for (int64_t c = 0; c < k; ++c) std::memcpy(routed + place[t * k + c] * D, x + t * D, D * sizeof(X));
}

// out [T, D] = sum over a token's choices, in their order, of weight * row; weights null = 1.
template <class X>
void combine(const X* rows, const float* weights, const int64_t* place, X* out, int64_t T, int64_t k, int64_t D) {
    PARALLEL(T * k * D)
    for (int64_t t = 0; t < T; ++t) {
        scratch.reset(D);
        float* sum = scratch.take(D);
        for (int64_t d = 0; d < D; ++d) sum[d] = 0;
        for (int64_t c = 0; c < k; ++c) {
            const X* row = rows + place[t * k + c] * D;
            const float weight = weights ? weights[t * k + c] : 1.0f;
            SIMD
            for (int64_t d = 0; d < D; ++d) sum[d] += weight * load(row + d);
        }
        SIMD
        for (int64_t d = 0; d < D; ++d) store(out + t * D + d, sum[d]);
    }
}

template <class X>
void combine_backward(const X* grad, const X* rows, const float* weights, const int64_t* place, X* grad_rows,
                      float* grad_weights, int64_t T, int64_t k, int64_t D) {
    PARALLEL(T * k * D)
    for (int64_t t = 0; t < T; ++t)
        for (int64_t c = 0; c < k; ++c) {
            const int64_t at = place[t * k + c] * D;
            const float weight = weights[t * k + c];
            float inner = 0;
            SIMD
            for (int64_t d = 0; d < D; ++d) {
                const float g = load(grad + t * D + d);
                inner += g * load(rows + at + d);
                store(grad_rows + at + d, weight * g);
            }
            grad_weights[t * k + c] = inner;
        }
}

}  // namespace

// ---- the C interface: one function per operator and dtype, named OPERATOR_f (float32) or OPERATOR_h (bfloat16) --------------

#define EXPORT extern "C" __attribute__((visibility("default")))

// Whether loops are shared among threads.
EXPORT int threads() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
#define NORM(NAME, X, O)                                                                                              \
    EXPORT void modulated_norm_forward_##NAME(const X* x, const float* factor, int64_t fs, const float* shift,        \
                                              int64_t ss, O* out, float* rstd, int64_t frames, int64_t tokens,        \
                                              int64_t D, float eps) {                                                 \
        modulated_norm_forward(x, factor, fs, shift, ss, out, rstd, frames, tokens, D, eps);                          \
    }                                                                                                                 \
    EXPORT void modulated_norm_backward_##NAME(const O* grad, const X* x, const float* factor, int64_t fs,            \
                                               const float* rstd, X* grad_x, float* grad_factor, float* grad_shift,   \
                                               int64_t frames, int64_t tokens, int64_t D) {                           \
        modulated_norm_backward(grad, x, factor, fs, rstd, grad_x, grad_factor, grad_shift, frames, tokens, D);       \
    }
NORM(ff, float, float)
NORM(fh, float, bf16)
NORM(hf, bf16, float)
NORM(hh, bf16, bf16)

#define RESIDUAL(NAME, X, Y)                                                                                          \
    EXPORT void gated_residual_forward_##NAME(const X* x, const Y* branch, const float* gate, int64_t stride, X* out, \
                                              int64_t frames, int64_t tokens, int64_t D) {                            \
        gated_residual_forward(x, branch, gate, stride, out, frames, tokens, D);                                      \
    }                                                                                                                 \
    EXPORT void gated_residual_backward_##NAME(const X* grad, const Y* branch, const float* gate, int64_t stride,     \
                                               Y* grad_branch, float* grad_gate, int64_t frames, int64_t tokens,      \
                                               int64_t D) {                                                           \
        gated_residual_backward(grad, branch, gate, stride, grad_branch, grad_gate, frames, tokens, D);               \
    }
RESIDUAL(ff, float, float)
RESIDUAL(fh, float, bf16)
RESIDUAL(hf, bf16, float)
RESIDUAL(hh, bf16, bf16)

#define OPERATORS(NAME, X)                                                                                            \
    EXPORT void swiglu_forward_##NAME(const X* hidden, X* out, int64_t rows, int64_t H) {                             \
        swiglu_forward(hidden, out, rows, H);                                                                         \
    }                                                                                                                 \
    EXPORT void swiglu_backward_##NAME(const X* grad, const X* hidden, X* grad_hidden, int64_t rows, int64_t H) {     \
        swiglu_backward(grad, hidden, grad_hidden, rows, H);                                                          \
    }                                                                                                                 \
    EXPORT void linear_mixer_forward_##NAME(const X* qkvg, const X* beta, const float* wq, const float* wk,           \
                                            const float* wo, const float* cos, const float* sin, const float* conv,   \
                                            X* out, int64_t B, int64_t n, int64_t h, int64_t w, int64_t N, int64_t K, \
                                            int64_t tables, float eps) {                                              \
        linear_mixer_forward({B, n, h, w, N, K, tables, wq, wk, wo, cos, sin, conv, eps}, qkvg, beta, out);           \
    }                                                                                                                 \
    EXPORT void linear_mixer_backward_##NAME(                                                                         \
        const X* grad, const X* qkvg, const X* beta, const float* wq, const float* wk, const float* wo,               \
        const float* cos, const float* sin, const float* conv, X* grad_qkvg, X* grad_beta, float* grad_wq,            \
        float* grad_wk, float* grad_wo, float* grad_conv, int64_t B, int64_t n, int64_t h, int64_t w, int64_t N,      \
        int64_t K, int64_t tables, float eps) {                                                                       \
        linear_mixer_backward({B, n, h, w, N, K, tables, wq, wk, wo, cos, sin, conv, eps}, grad, qkvg, beta,          \
                              grad_qkvg, grad_beta, grad_wq, grad_wk, grad_wo, grad_conv);                            \
    }                                                                                                                 \
    EXPORT void softmax_mixer_forward_##NAME(                                                                         \
        const X* query, const X* key, const X* value, const X* gate, const float* wq, const float* wk,                \
        const float* cos, const float* sin, const uint8_t* key_mask, const uint8_t* visible, X* out, int64_t B,       \
        int64_t L, int64_t S, int64_t N, int64_t K, int64_t query_row, int64_t key_row, int64_t frames,               \
        int64_t tables, float eps) {                                                                                  \
        softmax_mixer_forward(                                                                                        \
            {B, L, S, N, K, query_row, key_row, frames, tables, wq, wk, cos, sin, key_mask, visible, eps}, query,     \
            key, value, gate, out);                                                                                   \
    }                                                                                                                 \
    EXPORT void softmax_mixer_backward_##NAME(                                                                        \
        const X* grad, const X* query, const X* key, const X* value, const X* gate, const float* wq, const float* wk, \
        const float* cos, const float* sin, const uint8_t* key_mask, const uint8_t* visible, X* grad_query,           \
        X* grad_key, X* grad_value, X* grad_gate, float* grad_wq, float* grad_wk, int64_t B, int64_t L, int64_t S,    \
        int64_t N, int64_t K, int64_t query_row, int64_t key_row, int64_t frames, int64_t tables, float eps) {        \
        softmax_mixer_backward(                                                                                       \
            {B, L, S, N, K, query_row, key_row, frames, tables, wq, wk, cos, sin, key_mask, visible, eps}, grad,      \
            query, key, value, gate, grad_query, grad_key, grad_value, grad_gate, grad_wq, grad_wk);                  \
    }                                                                                                                 \
    EXPORT void router_forward_##NAME(const X* x, const float* weight, float* logits, int64_t T, int64_t D,           \
                                      int64_t E) {                                                                    \
        router_forward(x, weight, logits, T, D, E);                                                                   \
    }                                                                                                                 \
    EXPORT void router_backward_##NAME(const float* grad, const X* x, const float* weight, X* grad_x,                 \
                                       float* grad_weight, int64_t T, int64_t D, int64_t E) {                         \
        router_backward(grad, x, weight, grad_x, grad_weight, T, D, E);                                               \
    }                                                                                                                 \
    EXPORT void dispatch_##NAME(const X* x, const int64_t* place, X* routed, int64_t T, int64_t k, int64_t D) {       \
        dispatch(x, place, routed, T, k, D);                                                                          \
    }                                                                                                                 \
    EXPORT void combine_##NAME(const X* rows, const float* weights, const int64_t* place, X* out, int64_t T,          \
                               int64_t k, int64_t D) {                                                                \
        combine(rows, weights, place, out, T, k, D);                                                                  \
    }                                                                                                                 \
    EXPORT void combine_backward_##NAME(const X* grad, const X* rows, const float* weights, const int64_t* place,     \
                                        X* grad_rows, float* grad_weights, int64_t T, int64_t k, int64_t D) {         \
        combine_backward(grad, rows, weights, place, grad_rows, grad_weights, T, k, D);                               \
    }
OPERATORS(f, float)
OPERATORS(h, bf16)

EXPORT void route_forward_f(const float* logits, const float* bias, int64_t* indices, float* weights, int64_t T,
                            int64_t E, int64_t k) {
    route_forward(logits, bias, indices, weights, T, E, k);
}
EXPORT void route_backward_f(const float* grad, const float* logits, const int64_t* indices, const float* weights,
                             float* grad_logits, int64_t T, int64_t E, int64_t k) {
    route_backward(grad, logits, indices, weights, grad_logits, T, E, k);
}
EXPORT void sort_choices_f(const int64_t* indices, int64_t* place, int64_t* ends, int64_t M, int64_t E,
                           int64_t block) {
    sort_choices(indices, place, ends, M, E, block);
}
