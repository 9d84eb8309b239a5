// The operations of augmentation on one image: loaders/augment/ops.py says what each does, and is followed rounding by
// rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace twistnet {

// As loaders/augment/kinds.py has them; from kBrightness on a table of 256 values does it, from kContrast on one of the
// image's statistics.
enum Kind : std::int32_t {
  kIdentity,
  kShift,
  kWarp,
  kBilinear,
  kColor,
  kSharpness,
  kBlur,
  kBrightness,
  kPosterize,
  kSolarize,
  kSolarizeAdd,
  kContrast,
  kAutoContrast,
  kEqualize,
};

constexpr int kParameters = 8;  // of an operation

// Applies operations to images of one size, one after another; a thread's own.
class Operations {
 public:
  Operations(int height, int width, const std::uint8_t* fill) : height_(height), width_(width), fill_(fill) {}

  // `to` is another image than `from`, both of height * width * 3 bytes.
  void apply(Kind kind, const float* parameters, const std::uint8_t* from, std::uint8_t* to);

 private:
  std::size_t row_bytes() const { return 3 * static_cast<std::size_t>(width_); }
  std::size_t bytes() const { return row_bytes() * static_cast<std::size_t>(height_); }
  void fill(std::uint8_t* to, int pixels) const;
  void shift(int right, int down, const std::uint8_t* from, std::uint8_t* to) const;
  void warp(const float* parameters, const std::uint8_t* from, std::uint8_t* to);
  void bilinear(const float* parameters, const std::uint8_t* from, std::uint8_t* to);
  void sharpness(float change, const std::uint8_t* from, std::uint8_t* to) const;
  void blur(const float* weights, const std::uint8_t* from, std::uint8_t* to);
  float mean_luma(const std::uint8_t* from) const;
  void count(const std::uint8_t* from, std::int32_t (*counts)[256]) const;
  void tabulate(Kind kind, const float* parameters, const std::uint8_t* from, std::uint8_t (*tables)[256]) const;

  int height_, width_;
  const std::uint8_t* fill_;
  std::vector<std::int32_t> columns_, rows_;
  std::vector<float> across_, down_, sums_;
};

}  // namespace twistnet
