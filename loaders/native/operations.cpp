#include "operations.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "clones.h"

namespace twistnet {
namespace {

constexpr int kRadius = 6;  // of a blur, in pixels

// To 0 .. 255, fractions cut off. Not std::clamp, whose references keep the compiler from doing many at once.
inline std::uint8_t cut(float value) {
  const float positive = value > 0.0f ? value : 0.0f;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(positive < 255.0f ? positive : 255.0f));
}

// Halves to even; of less than 2**22. It is what the loops below can do many at once.
inline float rounded(float value) {
  constexpr float kMagic = 12582912.0f;
  return (value + kMagic) - kMagic;
}

inline float luma(std::uint8_t red, std::uint8_t green, std::uint8_t blue) {
  const float sum = (red * 0.2989f + green * 0.587f) + blue * 0.114f;
  return static_cast<float>(static_cast<std::int32_t>(sum));
}

// One source coordinate of each of a row's pixels, the nearest one: loaders/augment/ops.py's `_nearest`. At most
// `size`, at least -1, which are outside.
TWISTNET_CLONES void nearest(const float* row, float y, int width, int size, std::int32_t* out) {
  const float by_x = row[0], by_one = row[2], sides = static_cast<float>(size);
  const double of_y = static_cast<double>(y) * static_cast<double>(row[1]);
  const float half = static_cast<float>(width - 1) / 2.0f;
  for (int column = 0; column < width; ++column) {
    const float product = (static_cast<float>(column) - half) * by_x;
    const float share = static_cast<float>(static_cast<double>(product) + of_y) + by_one;
    const float pixel = rounded(((share + 1.0f) * sides - 1.0f) / 2.0f);
    const float above = pixel > -1.0f ? pixel : -1.0f;
    out[column] = static_cast<std::int32_t>(above < sides ? above : sides);
  }
}

// Where each of a row's pixels lies between four: along one axis the first of two places, and how far it is from that;
// -2 where it is outside of `size`.
TWISTNET_CLONES void between(const float* row, float y, int width, int size, std::int32_t* first, float* distance) {
  const float of_y = y * row[1], by_x = row[0], by_one = row[2], sides = static_cast<float>(size);
  for (int column = 0; column < width; ++column) {
    const float at = ((static_cast<float>(column) + 0.5f) * by_x + of_y) + by_one;
    const bool inside = at >= 0.0f && at < sides;
    const float middle = (inside ? at : 0.0f) - 0.5f;
    const std::int32_t towards_zero = static_cast<std::int32_t>(middle);
    const std::int32_t down = towards_zero - (middle < static_cast<float>(towards_zero) ? 1 : 0);
    first[column] = inside ? down : -2;
    distance[column] = middle - static_cast<float>(down);
  }
}

// A row between two, whose pixels are `columns` and the ones after those; `across` and `down` are how far.
TWISTNET_CLONES void blend(const std::uint8_t* from, std::size_t stride, const std::int32_t* columns,
                           const std::int32_t* rows, const float* across, const float* down, int width, int height,
                           const std::uint8_t* fill, std::uint8_t* to) {
  for (int column = 0; column < width; ++column, to += 3) {
    const std::int32_t left = columns[column], top = rows[column];
    if (left == -2 || top == -2) {
      std::memcpy(to, fill, 3);
      continue;
    }
    const std::uint8_t* upper = from + stride * static_cast<std::size_t>(top < 0 ? 0 : top);
    const std::uint8_t* lower = from + stride * static_cast<std::size_t>(top + 1 < height ? top + 1 : top);
    const std::size_t x0 = 3 * static_cast<std::size_t>(left < 0 ? 0 : left);
    const std::size_t x1 = 3 * static_cast<std::size_t>(left + 1 < width ? left + 1 : left);
    for (std::size_t channel = 0; channel < 3; ++channel) {
      const float a = upper[x0 + channel], b = upper[x1 + channel], c = lower[x0 + channel], d = lower[x1 + channel];
      const float first = a + (b - a) * across[column], second = c + (d - c) * across[column];
      to[channel] = cut(first + (second - first) * down[column]);
    }
  }
}

TWISTNET_CLONES void color(const float* parameters, const std::uint8_t* from, std::size_t pixels, std::uint8_t* to) {
  const float factor = parameters[0];
  const double of_gray = static_cast<double>(parameters[1]);
  for (std::size_t pixel = 0; pixel < pixels; ++pixel, from += 3, to += 3) {
    const double gray = static_cast<double>(luma(from[0], from[1], from[2])) * of_gray;
    to[0] = cut(static_cast<float>(static_cast<double>(from[0] * factor) + gray));
    to[1] = cut(static_cast<float>(static_cast<double>(from[1] * factor) + gray));
    to[2] = cut(static_cast<float>(static_cast<double>(from[2] * factor) + gray));
  }
}

// The values `begin` to `end` of a row, from those above and below it and of the pixels beside it.
TWISTNET_CLONES void sharper(const std::uint8_t* from, std::ptrdiff_t stride, std::size_t begin, std::size_t end,
                             float change, std::uint8_t* to) {
  const std::uint8_t *above = from - stride, *below = from + stride;
  for (std::size_t at = begin; at < end; ++at) {
    const std::uint16_t left = static_cast<std::uint16_t>(above[at - 3] + from[at - 3] + below[at - 3]);
    const std::uint16_t middle = static_cast<std::uint16_t>(above[at] + 5 * from[at] + below[at]);
    const std::uint16_t right = static_cast<std::uint16_t>(above[at + 3] + from[at + 3] + below[at + 3]);
    const std::uint16_t total = static_cast<std::uint16_t>(left + middle + right);
    const float smooth = static_cast<float>(static_cast<std::uint16_t>((2 * total + 13) / 26));
    const float own = from[at];
    to[at] = cut(own + (smooth - own) * change);
  }
}

TWISTNET_CLONES void add_scaled(const float* from, float weight, std::size_t count, float* sums) {
  for (std::size_t at = 0; at < count; ++at) sums[at] = sums[at] + from[at] * weight;
}

TWISTNET_CLONES void look_up(const std::uint8_t (*tables)[256], const std::uint8_t* from, std::size_t pixels,
                             std::uint8_t* to) {
  for (std::size_t pixel = 0; pixel < pixels; ++pixel, from += 3, to += 3) {
    to[0] = tables[0][from[0]];
    to[1] = tables[1][from[1]];
    to[2] = tables[2][from[2]];
  }
}

TWISTNET_CLONES std::int64_t sum_of_luma(const std::uint8_t* from, std::size_t pixels) {
  std::int64_t total = 0;
  for (std::size_t pixel = 0; pixel < pixels; ++pixel, from += 3) {
    total += static_cast<std::int32_t>(luma(from[0], from[1], from[2]));
  }
  return total;
}

TWISTNET_CLONES void extrema(const std::uint8_t* row, std::size_t count, std::uint8_t* low, std::uint8_t* high) {
  for (std::size_t at = 0; at < count; ++at) {
    low[at] = row[at] < low[at] ? row[at] : low[at];
    high[at] = row[at] > high[at] ? row[at] : high[at];
  }
}

// Past an edge the image is mirrored, without the edge itself again; once, and less than a blur's radius is a flat edge.
int mirrored(int place, int size) {
  const int once = place < 0 ? -place : place;
  return std::max(std::min(once, 2 * (size - 1) - once), 0);
}

void equalized(const std::int32_t* counts, int pixels, std::uint8_t* table) {
  int highest = 255;
  while (highest > 0 && counts[highest] == 0) --highest;
  const int step = (pixels - counts[highest]) / 255;
  int below = 0;
  for (int value = 0; value < 256; ++value) {
    table[value] = static_cast<std::uint8_t>(step > 0 ? std::min((below + step / 2) / step, 255) : value);
    below += counts[value];
  }
}

void stretched(std::uint8_t lowest, std::uint8_t highest, std::uint8_t* table) {
  const bool constant = lowest == highest;
  const float low = constant ? 0.0f : lowest;
  const float scale = constant ? 1.0f : (static_cast<float>(highest) - low) * (1.0f / 255.0f);
  for (int value = 0; value < 256; ++value) table[value] = cut((static_cast<float>(value) - low) / scale);
}

}  // namespace

void Operations::apply(Kind kind, const float* parameters, const std::uint8_t* from, std::uint8_t* to) {
  const std::size_t pixels = static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_);
  switch (kind) {
    case kIdentity:
      std::memcpy(to, from, bytes());
      return;
    case kShift:
      return shift(static_cast<int>(parameters[0]), static_cast<int>(parameters[1]), from, to);
    case kWarp:
      return warp(parameters, from, to);
    case kBilinear:
      return bilinear(parameters, from, to);
    case kColor:
      return color(parameters, from, pixels, to);
    case kSharpness:
      return sharpness(parameters[0], from, to);
    case kBlur:
      return blur(parameters, from, to);
    default: {
      std::uint8_t tables[3][256];
      tabulate(kind, parameters, from, tables);
      look_up(tables, from, pixels, to);
    }
  }
}

void Operations::fill(std::uint8_t* to, int pixels) const {
  for (int pixel = 0; pixel < pixels; ++pixel, to += 3) std::memcpy(to, fill_, 3);
}

void Operations::shift(int right, int down, const std::uint8_t* from, std::uint8_t* to) const {
  const int begin = std::min(std::max(right, 0), width_), end = std::max(std::min(width_ + right, width_), begin);
  for (int row = 0; row < height_; ++row, to += row_bytes()) {
    const int source = row - down;
    if (source < 0 || source >= height_) {
      fill(to, width_);
      continue;
    }
    fill(to, begin);
    const std::uint8_t* there = from + row_bytes() * static_cast<std::size_t>(source) + 3 * (begin - right);
    std::memcpy(to + 3 * begin, there, 3 * static_cast<std::size_t>(end - begin));
    fill(to + 3 * end, width_ - end);
  }
}

void Operations::warp(const float* parameters, const std::uint8_t* from, std::uint8_t* to) {
  columns_.resize(static_cast<std::size_t>(width_));
  rows_.resize(static_cast<std::size_t>(width_));
  for (int row = 0; row < height_; ++row) {
    const float y = static_cast<float>(row) - static_cast<float>(height_ - 1) / 2.0f;
    nearest(parameters, y, width_, width_, columns_.data());
    nearest(parameters + 3, y, width_, height_, rows_.data());
    for (int column = 0; column < width_; ++column, to += 3) {
      const std::int32_t x = columns_[column], source = rows_[column];
      const bool inside = x >= 0 && x < width_ && source >= 0 && source < height_;
      const std::uint8_t* pixel = inside ? from + row_bytes() * static_cast<std::size_t>(source) + 3 * x : fill_;
      to[0] = pixel[0];
      to[1] = pixel[1];
      to[2] = pixel[2];
    }
  }
}

void Operations::bilinear(const float* parameters, const std::uint8_t* from, std::uint8_t* to) {
  const std::size_t size = static_cast<std::size_t>(width_);
  columns_.resize(size);
  rows_.resize(size);
  across_.resize(size);
  down_.resize(size);
  for (int row = 0; row < height_; ++row, to += row_bytes()) {
    const float y = static_cast<float>(row) + 0.5f;
    between(parameters, y, width_, width_, columns_.data(), across_.data());
    between(parameters + 3, y, width_, height_, rows_.data(), down_.data());
    blend(from, row_bytes(), columns_.data(), rows_.data(), across_.data(), down_.data(), width_, height_, fill_, to);
  }
}

void Operations::sharpness(float change, const std::uint8_t* from, std::uint8_t* to) const {
  std::memcpy(to, from, bytes());  // the edges stay
  if (height_ <= 2 || width_ <= 2) return;
  for (int row = 1; row < height_ - 1; ++row) {
    const std::size_t at = row_bytes() * static_cast<std::size_t>(row);
    sharper(from + at, static_cast<std::ptrdiff_t>(row_bytes()), 3, row_bytes() - 3, change, to + at);
  }
}

void Operations::blur(const float* weights, const std::uint8_t* from, std::uint8_t* to) {
  // Rows with their margin, then sums over columns of each, then over rows; the taps in order, from the first.
  const std::size_t row = row_bytes(), wide = row + 3 * 2 * kRadius;
  across_.resize(wide);
  down_.resize(row * static_cast<std::size_t>(height_));
  sums_.resize(row);
  for (int source = 0; source < height_; ++source) {
    for (int place = -kRadius; place < width_ + kRadius; ++place) {
      const std::uint8_t* pixel = from + row * static_cast<std::size_t>(source) + 3 * mirrored(place, width_);
      float* wide_pixel = across_.data() + 3 * (place + kRadius);
      for (int channel = 0; channel < 3; ++channel) wide_pixel[channel] = pixel[channel];
    }
    float* sums = down_.data() + row * static_cast<std::size_t>(source);
    std::fill(sums, sums + row, 0.0f);
    for (int tap = -kRadius; tap <= kRadius; ++tap) {
      add_scaled(across_.data() + 3 * (tap + kRadius), weights[std::abs(tap)], row, sums);
    }
  }
  for (int line = 0; line < height_; ++line, to += row) {
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    for (int tap = -kRadius; tap <= kRadius; ++tap) {
      const std::size_t source = static_cast<std::size_t>(mirrored(line + tap, height_));
      add_scaled(down_.data() + row * source, weights[std::abs(tap)], row, sums_.data());
    }
    for (std::size_t at = 0; at < row; ++at) to[at] = cut(rounded(sums_[at]));
  }
}

float Operations::mean_luma(const std::uint8_t* from) const {
  const std::size_t pixels = static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_);
  return static_cast<float>(static_cast<double>(sum_of_luma(from, pixels)) / static_cast<double>(pixels));
}

void Operations::count(const std::uint8_t* from, std::int32_t (*counts)[256]) const {
  // Two of each, because equal neighbours would wait for each other's sum.
  std::int32_t others[3][256] = {};
  std::memset(counts, 0, 3 * sizeof(*counts));
  const std::size_t pixels = static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_);
  std::size_t pixel = 0;
  for (; pixel + 1 < pixels; pixel += 2, from += 6) {
    for (int channel = 0; channel < 3; ++channel) {
      ++counts[channel][from[channel]];
      ++others[channel][from[3 + channel]];
    }
  }
  for (int channel = 0; channel < 3; ++channel) {
    if (pixel < pixels) ++counts[channel][from[channel]];
    for (int value = 0; value < 256; ++value) counts[channel][value] += others[channel][value];
  }
}

void Operations::tabulate(Kind kind, const float* parameters, const std::uint8_t* from,
                          std::uint8_t (*tables)[256]) const {
  if (kind == kEqualize) {
    std::int32_t counts[3][256];
    count(from, counts);
    for (int channel = 0; channel < 3; ++channel) equalized(counts[channel], height_ * width_, tables[channel]);
    return;
  }
  if (kind == kAutoContrast) {
    std::vector<std::uint8_t> low(row_bytes(), 255), high(row_bytes(), 0);
    for (int row = 0; row < height_; ++row) {
      extrema(from + row_bytes() * static_cast<std::size_t>(row), row_bytes(), low.data(), high.data());
    }
    for (std::size_t channel = 0; channel < 3; ++channel) {
      std::uint8_t lowest = 255, highest = 0;
      for (std::size_t at = channel; at < row_bytes(); at += 3) {
        lowest = std::min(lowest, low[at]);
        highest = std::max(highest, high[at]);
      }
      stretched(lowest, highest, tables[channel]);
    }
    return;
  }
  const float other = kind == kContrast ? mean_luma(from) * parameters[1] : 0.0f;
  for (int value = 0; value < 256; ++value) {
    const float as_float = static_cast<float>(value);
    float result = as_float;
    if (kind == kBrightness) result = as_float * parameters[0];
    if (kind == kPosterize) result = static_cast<float>(value & static_cast<int>(parameters[0]));
    if (kind == kSolarize && as_float >= parameters[0]) result = static_cast<float>(255 - value);
    if (kind == kSolarizeAdd && as_float < parameters[1]) result = as_float + parameters[0];
    if (kind == kContrast) result = as_float * parameters[0] + other;
    tables[0][value] = cut(result);
  }
  std::memcpy(tables[1], tables[0], 256);
  std::memcpy(tables[2], tables[0], 256);
}

}  // namespace twistnet
