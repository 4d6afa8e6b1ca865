// The dense passes of token losses over rows of float32 logits, one sweep each, for CPUs; see cpu_kernels.py.
//
// Plain pointers in, nothing of PyTorch: compiled once per instruction set when the package is built, and good for every
// version of Python and PyTorch. Threads are OpenMP's; the runtime is left to be found in the process when the library is
// loaded, so that it is PyTorch's own. A row is one thread's work: the same bits from any number of threads.
//
// A vectorising compiler turns every loop over j into 8 or 16 lanes: no branch, no library call, and sums that are
// double or, over runs of RUN classes, float. The formulas are those of row_reductions.py, evidential_passes.py
// and class_terms.py; the polynomials are longer, as a term costs next to nothing here: minimax fits of our own
// (Lawson iteration on 400 Chebyshev nodes, values in 40 digits) with relative errors, coefficients rounded to float,
// of 9e-9 (R), 2e-7 (N) and 7e-9 (Q, of -ln(1 - u) / u on [0, 1/2]).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t RUN = 1024;
constexpr float NOWHERE = -1e30f;
constexpr float R[] = {-0.5f,           0.07246715575f,   0.01022773422f,  3.566857e-05f,   -0.00091098156f,
                       -0.00073784211f, 0.00031545846f, -0.00070196157f, 0.00036623885f};
constexpr float N[] = {0.64493417740f,  -0.11425978691f, -0.03029438481f, -0.00680844905f,
                       0.00860679802f, -0.01157506462f, 0.01371040661f, -0.00431361608f};
constexpr float Q[] = {1.0f,          0.50000137091f,  0.33324539661f, 0.25216174126f,  0.17329362035f,
                       0.35335037112f, -0.63345885277f, 2.04670047760f, -2.55257487297f, 1.77561521530f};

template <int n>
inline float polynomial(const float (&c)[n], float x) {
  float value = c[n - 1];
  for (int i = n - 2; i >= 0; --i) value = value * x + c[i];
  return value;
}

inline int32_t bits(float x) {
  int32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}

inline float from_bits(int32_t b) {
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}

// exp for at most 88; 0 below -87, where float loses digits; NaN stays NaN. Taylor's series on [-ln 2 / 2, ln 2 / 2],
// its last terms fitted, after S. Moshier's Cephes.
inline float exponential(float z) {
  const float held = z < -87.0f ? -87.0f : z;
  const float k = std::nearbyint(held * 1.44269504f);
  const float f = (held - k * 0.693359375f) + k * 2.12194440e-4f;
  const float tail = ((((1.9875691500e-4f * f + 1.3981999507e-3f) * f + 8.3334519073e-3f) * f + 4.1665795894e-2f) * f +
                      1.6666665459e-1f) * f + 5.0000001201e-1f;
  const float value = (tail * f * f + f + 1.0f) * from_bits((static_cast<int32_t>(k) + 127) << 23);
  return z < -87.0f ? 0.0f : value;
}

// ln(d), d = 1 + e >= 1, given q = 1 / d and x = e / d: with d = 2^k m, ln d = k ln 2 - ln(1 - u), u = 1 - 1 / m; below
// 2 that is u = x, to all digits of e.
inline float log_one_plus(float d, float q, float x) {
  const int32_t exponent = bits(d) & 0x7f800000;
  const float k = static_cast<float>((exponent >> 23) - 127);
  const float u = k == 0.0f ? x : 1.0f - q * from_bits(exponent);
  return k * 0.69314718056f + u * polynomial(Q, u);
}

// The largest of a row, written to `top`, and where it first is.
int64_t first_largest(const float* row, int64_t width, float& top) {
  top = -INFINITY;
  int64_t run = 0;
  for (int64_t begin = 0; begin < width; begin += RUN) {
    const int64_t end = std::min(begin + RUN, width);
    float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t j = begin; j < end; ++j) largest = row[j] > largest ? row[j] : largest;
    if (largest > top) {
      top = largest;
      run = begin;
    }
  }
  int64_t at = run;
  while (at + 1 < std::min(run + RUN, width) && row[at] != top) ++at;
  return at;
}

// Sums of a row, and its exponentials, written. The gradient scales with the sum; its digits are those of a float.
void exponentials_of_row(float* row, int64_t width, float top, double* sums) {
  for (int64_t begin = 0; begin < width; begin += RUN) {
    const int64_t end = std::min(begin + RUN, width);
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t j = begin; j < end; ++j) {
      const float shifted = row[j] - top, rest = exponential(shifted);
      sum += rest;
      dot += rest * shifted;
      row[j] = rest;
    }
    sums[0] += sum;
    sums[1] += dot;
  }
}

// Sums of a row, the first in double: a divergence of 1e4 nats is a difference of what follows from it.
void sums_of_row(const float* row, int64_t width, float top, double* sums) {
  for (int64_t begin = 0; begin < width; begin += RUN) {
    const int64_t end = std::min(begin + RUN, width);
    double sum = 0;
    float dot = 0, square = 0;
#pragma omp simd reduction(+ : sum, dot, square)
    for (int64_t j = begin; j < end; ++j) {
      const float shifted = row[j] - top, rest = exponential(shifted);
      sum += rest;
      dot += rest * shifted;
      square += rest * rest;
    }
    sums[0] += sum;
    sums[1] += dot;
    sums[2] += square;
  }
}

// One run of classes and one label: the sum of c(e~), and the gradient, added.
template <bool soft>
double divergence(const float* evidence, float* gradient, int64_t count, float keep, float weight, float lift,
                  float pull) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    const float e = soft ? evidence[j] * (1.0f + keep * evidence[j]) : evidence[j];
    const float d = 1.0f + e, q = 1.0f / d, x = e * q;
    sum += x * polynomial(R, x) - 0.5f * log_one_plus(d, q, x);
    gradient[j] += x * (weight * x * polynomial(N, x) + lift + pull * e);
  }
  return sum;
}

// One run of classes: the sum of e ln(1 + e), and the gradient e (share + mass x).
float likelihood(const float* evidence, float* gradient, int64_t count, float share, float mass) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    const float e = evidence[j], d = 1.0f + e, q = 1.0f / d, x = e * q;
    sum += e * log_one_plus(d, q, x);
    gradient[j] = e * (share + mass * x);
  }
  return sum;
}

}  // namespace

extern "C" {

// Raised whenever a function below takes or computes something else, so that no library of an older edition is left to
// be loaded beside a newer cpu_kernels.py, which asks for the same.
int32_t row_kernels_version() { return 1; }

// logits (n, V), top (n), largest (n): the first token that has it, sums (n, 3), 0 before; see
// row_reductions.Reduction and reduce_rows.
void reduce_rows(float* logits, int64_t n, int64_t width, float* top, int64_t* largest, double* sums, int32_t rival,
                 int32_t overwrite, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    float* row = logits + i * width;
    const int64_t at = largest[i] = first_largest(row, width, top[i]);
    if (rival) row[at] = NOWHERE;
    if (overwrite)
      exponentials_of_row(row, width, top[i], sums + 3 * i);
    else
      sums_of_row(row, width, top[i], sums + 3 * i);
    if (rival && overwrite) row[at] = 1.0f;
  }
}

// logits (n, V), over which the gradient is written where asked for; keeps (n, groups), columns (n, groups, 3), shares
// (n, 2) or null; sums (n, groups + 1), 0 before: see cpu_kernels.compiled_evidential_rows.
void evidential_rows(float* logits, int64_t n, int64_t width, float offset, const float* keeps, const float* columns,
                     int64_t groups, const float* shares, double* sums, int32_t needs_grad, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    float evidence[RUN], gradient[RUN];
    double* total = sums + i * (groups + 1);
    for (int64_t begin = 0; begin < width; begin += RUN) {
      const int64_t count = std::min(RUN, width - begin);
      float* z = logits + i * width + begin;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) evidence[j] = exponential(z[j] + offset);
      if (shares)
        total[groups] += likelihood(evidence, gradient, count, shares[2 * i], shares[2 * i + 1]);
      else
        std::fill(gradient, gradient + count, 0.0f);
      for (int64_t g = 0; g < groups; ++g) {
        const float keep = keeps[i * groups + g], *c = columns + 3 * (i * groups + g);
        total[g] += keep == 0.0f ? divergence<false>(evidence, gradient, count, keep, c[0], c[1], c[2])
                                 : divergence<true>(evidence, gradient, count, keep, c[0], c[1], c[2]);
      }
      if (needs_grad) std::copy(gradient, gradient + count, z);
    }
  }
}

}  // extern "C"
