#include "resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "clones.h"

#ifdef TWISTNET_X86
#include <immintrin.h>
#endif

namespace twistnet {
namespace {

constexpr int kBits = 32 - 8 - 2;  // of a weight's fraction: 8 for the pixel, 2 for sums beyond 0 to 255
constexpr int kLower = 15;         // of a weight, where it is split in two
constexpr std::int32_t kHalf = 1 << (kBits - 1);
constexpr std::size_t kBlock = 32;  // bytes of a row that are summed at a time, in registers

double support_of(Filter filter) { return filter == Filter::bilinear ? 1.0 : 2.0; }

double value_of(Filter filter, double x) {
  x = std::fabs(x);
  if (filter == Filter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;  // Keys' cubic convolution
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

// Not std::clamp, whose references keep the compiler from doing many at once.
inline std::uint8_t clip(std::int32_t sum) {
  const std::int32_t value = sum >> kBits;
  const std::int32_t positive = value < 0 ? 0 : value;
  return static_cast<std::uint8_t>(positive > 255 ? 255 : positive);
}

void row_by_itself(const std::uint8_t* pixels, int bytes, const Taps& taps, std::uint8_t* rgb) {
  for (int output = 0, size = taps.size(); output < size; ++output, rgb += 3) {
    const std::uint8_t* pixel = pixels + static_cast<std::size_t>(bytes) * taps.first(output);
    const std::int32_t* weights = taps.weights(output);
    std::int32_t red = kHalf, green = kHalf, blue = kHalf;
    for (int tap = 0, count = taps.count(output); tap < count; ++tap, pixel += bytes) {
      red += pixel[0] * weights[tap];
      green += pixel[1] * weights[tap];
      blue += pixel[2] * weights[tap];
    }
    rgb[0] = clip(red);
    rgb[1] = clip(green);
    rgb[2] = clip(blue);
  }
}

#ifdef TWISTNET_X86
inline __m128i eight_bytes(const std::uint8_t* at) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)); }

// Four bytes where three count, as long as the next output takes the fourth.
inline void store(std::uint8_t* at, int pixel, bool last) {
  if (last) {
    std::memcpy(at, &pixel, 3);
  } else {
    std::memcpy(at, &pixel, 4);
  }
}

// Two taps of the channels of two rows at a time. A weight does not fit into the 16 bits that a product of the
// processor takes, so it is split into two whose products are added: exact, since sums may wrap around on their way.
template <int kBytes>
__attribute__((target("avx2"))) void rows_by_avx2(const std::uint8_t* pixels_of_rows, std::size_t stride,
                                                  int count, const Taps& taps, std::uint8_t* rgb,
                                                  std::size_t out_stride) {
  constexpr char b = kBytes;
  // The bytes of two pixels, channel by channel, as 16-bit numbers.
  const __m256i by_channel = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, b, -1, 1, -1, b + 1, -1, 2, -1, b + 2, -1, -1, -1, -1, -1));
  for (int output = 0, size = taps.size(); output < size; ++output, rgb += 3) {
    const std::uint8_t* top = pixels_of_rows + kBytes * static_cast<std::size_t>(taps.first(output));
    const std::uint8_t* bottom = top + 2 * stride;
    const std::int16_t* weights = taps.pairs(output);
    __m256i upper_top = _mm256_setzero_si256(), upper_bottom = upper_top;
    __m256i lower_top = _mm256_set1_epi32(kHalf), lower_bottom = lower_top;
    const int num_taps = taps.count(output);
    for (int tap = 0; tap < num_taps; tap += 2, top += 2 * kBytes, bottom += 2 * kBytes, weights += 4) {
      int upper_pair, lower_pair;
      std::memcpy(&upper_pair, weights, 4);
      std::memcpy(&lower_pair, weights + 2, 4);
      const __m256i upper = _mm256_set1_epi32(upper_pair), lower = _mm256_set1_epi32(lower_pair);
      __m256i pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(eight_bytes(top)), eight_bytes(top + stride), 1);
      pixels = _mm256_shuffle_epi8(pixels, by_channel);
      upper_top = _mm256_add_epi32(upper_top, _mm256_madd_epi16(pixels, upper));
      lower_top = _mm256_add_epi32(lower_top, _mm256_madd_epi16(pixels, lower));
      pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(eight_bytes(bottom)), eight_bytes(bottom + stride), 1);
      pixels = _mm256_shuffle_epi8(pixels, by_channel);
      upper_bottom = _mm256_add_epi32(upper_bottom, _mm256_madd_epi16(pixels, upper));
      lower_bottom = _mm256_add_epi32(lower_bottom, _mm256_madd_epi16(pixels, lower));
    }
    const __m256i sum_top = _mm256_add_epi32(_mm256_slli_epi32(upper_top, kLower), lower_top);
    const __m256i sum_bottom = _mm256_add_epi32(_mm256_slli_epi32(upper_bottom, kLower), lower_bottom);
    const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(sum_top, kBits), _mm256_srai_epi32(sum_bottom, kBits));
    const __m256i bytes = _mm256_packus_epi16(words, words);
    const __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
    const bool last = output + 1 == size;
    store(rgb, _mm_cvtsi128_si32(even), last);
    if (count > 1) store(rgb + out_stride, _mm_cvtsi128_si32(odd), last);
    if (count > 2) store(rgb + 2 * out_stride, _mm_extract_epi32(even, 1), last);
    if (count > 3) store(rgb + 3 * out_stride, _mm_extract_epi32(odd, 1), last);
  }
}
#endif

}  // namespace

void Taps::set(Span span, int out, Filter filter, bool mirrored) {
  const double scale = span.length / out;
  const double stretch = std::max(scale, 1.0);  // wider than a pixel where the image becomes smaller: antialiasing
  const double support = support_of(filter) * stretch, inverse = 1.0 / stretch;
  const int most = static_cast<int>(std::ceil(support)) * 2 + 1;
  stride_ = (most + 1) & ~1;
  first_.resize(out);
  count_.resize(out);
  weights_.assign(stride_ * out, 0);
  pairs_.resize(2 * stride_ * out);
  exact_.resize(most);
  for (int output = 0; output < out; ++output) {
    const double center = span.from + (output + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int count = std::min(static_cast<int>(center + support + 0.5), span.pixels) - first;
    double total = 0.0;
    for (int tap = 0; tap < count; ++tap) {
      const int pixel = tap + first;
      exact_[tap] = value_of(filter, (pixel - center + 0.5) * inverse);
      if (pixel == 0) exact_[tap] *= 1.0 - span.from;
      if (pixel == span.pixels - 1) exact_[tap] *= span.from + span.length - pixel;
      total += exact_[tap];
    }
    const int place = mirrored ? out - 1 - output : output;
    first_[place] = first;
    count_[place] = count;
    std::int32_t* weights = weights_.data() + stride_ * place;
    for (int tap = 0; tap < count; ++tap) {
      const double weight = (total != 0.0 ? exact_[tap] / total : exact_[tap]) * (1 << kBits);
      weights[tap] = static_cast<std::int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    std::int16_t* pairs = pairs_.data() + 2 * stride_ * place;
    for (int tap = 0; tap < count; tap += 2, pairs += 4) {
      for (int which = 0; which < 2; ++which) {
        pairs[which] = static_cast<std::int16_t>(weights[tap + which] >> kLower);
        pairs[2 + which] = static_cast<std::int16_t>(weights[tap + which] & ((1 << kLower) - 1));
      }
    }
  }
}

void resample_rows(const std::uint8_t* pixels, int bytes, std::size_t stride, int count, const Taps& taps,
                   std::uint8_t* rgb, std::size_t out_stride) {
#ifdef TWISTNET_X86
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return (bytes == 4 ? rows_by_avx2<4> : rows_by_avx2<3>)(pixels, stride, count, taps, rgb, out_stride);
#endif
  for (int row = 0; row < count; ++row) row_by_itself(pixels + row * stride, bytes, taps, rgb + row * out_stride);
}

TWISTNET_CLONES
void resample_column(const std::uint8_t* rows, std::size_t stride, std::size_t length, const Taps& taps, int output,
                     std::uint8_t* out) {
  const std::int32_t* weights = taps.weights(output);
  const int count = taps.count(output);
  std::size_t at = 0;
  for (; at + kBlock <= length; at += kBlock) {
    std::int32_t sums[kBlock];
    for (std::size_t lane = 0; lane < kBlock; ++lane) sums[lane] = kHalf;
    const std::uint8_t* row = rows + at;
    for (int tap = 0; tap < count; ++tap, row += stride) {
      for (std::size_t lane = 0; lane < kBlock; ++lane) sums[lane] += row[lane] * weights[tap];
    }
    std::uint8_t* to = out + at;
    for (std::size_t lane = 0; lane < kBlock; ++lane) to[lane] = clip(sums[lane]);
  }
  for (; at < length; ++at) {
    std::int32_t sum = kHalf;
    const std::uint8_t* row = rows + at;
    for (int tap = 0; tap < count; ++tap, row += stride) sum += *row * weights[tap];
    out[at] = clip(sum);
  }
}

}  // namespace twistnet
