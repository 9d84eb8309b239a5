// Pillow's antialiased resampling of 8-bit images, bit for bit: the fixed-point weights of its Resample.c (the method,
// not the code), rows first, rounded to 8 bits, then columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace twistnet {

enum class Filter : int { bilinear = 0, bicubic = 1 };

constexpr int kRows = 4;   // that are resampled at a time
constexpr int kSlack = 8;  // bytes past the end of a row that may be read

// The part of `pixels` pixels that counts: all of it, or, where they were decoded smaller than the image is, without
// fractions of the first and the last.
struct Span {
  int pixels;
  double from, length;
};

// Which input pixels make up each output pixel of one side, and with what weights.
class Taps {
 public:
  // From the pixels of `span` to `out` pixels; `mirrored` puts the outputs in the opposite order.
  void set(Span span, int out, Filter filter, bool mirrored);

  int size() const { return static_cast<int>(first_.size()); }
  int first(int output) const { return first_[output]; }
  int count(int output) const { return count_[output]; }
  // `count` weights of 22 fractional bits, then a zero where the count is odd.
  const std::int32_t* weights(int output) const { return weights_.data() + stride_ * output; }
  // The same two by two: the upper parts of both in 16 bits each, then the lower 15 bits of both.
  const std::int16_t* pairs(int output) const { return pairs_.data() + 2 * stride_ * output; }

 private:
  std::size_t stride_ = 0;
  std::vector<int> first_, count_;
  std::vector<std::int32_t> weights_;
  std::vector<std::int16_t> pairs_;
  std::vector<double> exact_;
};

// `count` rows, at most kRows, of pixels of `bytes` (3 or 4) bytes, `stride` bytes apart, to rows of 3-byte pixels,
// `out_stride` bytes apart. kRows rows are read whatever the count.
void resample_rows(const std::uint8_t* pixels, int bytes, std::size_t stride, int count, const Taps& taps,
                   std::uint8_t* rgb, std::size_t out_stride);

// One output of the taps, `length` bytes, from rows `stride` bytes apart, the first being the output's first tap.
void resample_column(const std::uint8_t* rows, std::size_t stride, std::size_t length, const Taps& taps, int output,
                     std::uint8_t* out);

}  // namespace twistnet
