// The draws of loaders/philox.py and the boxes of loaders/draws.py, number for number: those are the definition, and what
// runs where this was not built.

#include <cmath>
#include <cstdint>

#include "batch.h"

namespace {

// What all draws of a call have in common.
struct Key {
  std::uint64_t seed;
  std::uint32_t epoch, purpose;
};

// One multiplication of a round: its high word and its low word.
inline std::uint32_t multiply(std::uint32_t factor, std::uint32_t word, std::uint32_t& low) {
  const std::uint64_t product = static_cast<std::uint64_t>(factor) * word;
  low = static_cast<std::uint32_t>(product);
  return static_cast<std::uint32_t>(product >> 32);
}

// Philox4x32-10.
inline void draw(Key key, std::int64_t id, std::int64_t block, std::uint32_t words[4]) {
  words[0] = static_cast<std::uint32_t>(id);
  words[1] = key.epoch;
  words[2] = key.purpose;
  words[3] = static_cast<std::uint32_t>(block);
  std::uint32_t key0 = static_cast<std::uint32_t>(key.seed), key1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    std::uint32_t low0, low1;
    const std::uint32_t high0 = multiply(0xD2511F53u, words[0], low0);
    const std::uint32_t high1 = multiply(0xCD9E8D57u, words[2], low1);
    words[0] = high1 ^ words[1] ^ key0;
    words[1] = low1;
    words[2] = high0 ^ words[3] ^ key1;
    words[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

inline double uniform(std::uint32_t word) { return (word + 0.5) * 0x1p-32; }

struct Ranges {
  double scale, scale_width, log_ratio, log_ratio_width, ratio, ratio_end;
};

void central_box(double height, double width, const Ranges& ranges, std::int64_t* box) {
  const double ratio = width / height;
  std::int64_t box_h = static_cast<std::int64_t>(height), box_w = static_cast<std::int64_t>(width);
  if (ratio < ranges.ratio) box_h = static_cast<std::int64_t>(std::nearbyint(width / ranges.ratio));
  if (ratio > ranges.ratio_end) box_w = static_cast<std::int64_t>(std::nearbyint(height * ranges.ratio_end));
  box_h = box_h < 1 ? 1 : box_h;
  box_w = box_w < 1 ? 1 : box_w;
  // Shifted, not divided: it rounds down as Python does.
  box[0] = (static_cast<std::int64_t>(height) - box_h) >> 1;
  box[1] = (static_cast<std::int64_t>(width) - box_w) >> 1;
  box[2] = box_h;
  box[3] = box_w;
}

}  // namespace

// `blocks` blocks of four words for each of n ids, from a sample's block `first` on, into out (n, 4 * blocks): 32 bits
// each, as 64-bit numbers.
TWISTNET_PUBLIC void twistnet_words(std::int64_t n, const std::int64_t* ids, std::uint64_t seed, std::uint32_t epoch,
                                    std::uint32_t purpose, std::int64_t first, std::int64_t blocks,
                                    std::uint64_t* out) {
  for (std::int64_t sample = 0; sample < n; ++sample) {
    for (std::int64_t block = first; block < first + blocks; ++block) {
      std::uint32_t words[4];
      draw({seed, epoch, purpose}, ids[sample], block, words);
      for (const std::uint32_t word : words) *out++ = word;
    }
  }
}

// The random resized crops of n samples with images of sizes (n, 2), into boxes (n, 4): top, left, height, width. scale
// and ratio (2) are ranges, log_ratio (2) the logarithms of the latter.
TWISTNET_PUBLIC void twistnet_crops(std::int64_t n, const std::int64_t* ids, std::uint64_t seed, std::uint32_t epoch,
                                    std::uint32_t purpose, std::int64_t tries, const std::int64_t* sizes,
                                    const double* scale, const double* ratio, const double* log_ratio,
                                    std::int64_t* boxes) {
  const Ranges ranges{scale[0], scale[1] - scale[0], log_ratio[0], log_ratio[1] - log_ratio[0], ratio[0], ratio[1]};
  for (std::int64_t sample = 0; sample < n; ++sample, sizes += 2, boxes += 4) {
    bool fits = false;
    for (std::int64_t number = 0; number < tries && !fits; ++number) {
      std::uint32_t words[4];
      draw({seed, epoch, purpose}, ids[sample], number, words);
      const double share = ranges.scale + ranges.scale_width * uniform(words[0]);
      const double area = static_cast<double>(sizes[0] * sizes[1]) * share;
      const double aspect = std::exp(ranges.log_ratio + ranges.log_ratio_width * uniform(words[1]));
      const std::int64_t box_w = static_cast<std::int64_t>(std::nearbyint(std::sqrt(area * aspect)));
      const std::int64_t box_h = static_cast<std::int64_t>(std::nearbyint(std::sqrt(area / aspect)));
      fits = box_w > 0 && box_w <= sizes[1] && box_h > 0 && box_h <= sizes[0];
      boxes[0] = static_cast<std::int64_t>(uniform(words[2]) * static_cast<double>(sizes[0] - box_h + 1));
      boxes[1] = static_cast<std::int64_t>(uniform(words[3]) * static_cast<double>(sizes[1] - box_w + 1));
      boxes[2] = box_h;
      boxes[3] = box_w;
    }
    if (!fits) central_box(static_cast<double>(sizes[0]), static_cast<double>(sizes[1]), ranges, boxes);
  }
}
