// A batch's augmentation: operations on its bytes, then normalised and mixed. Threads take one sample at a time.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <vector>

#include "batch.h"
#include "clones.h"
#include "operations.h"
#include "pool.h"

using namespace twistnet;

namespace {

constexpr std::int32_t kMixup = 1, kCutmix = 2;  // as loaders/draws.py has them

// What the samples of a batch have in common when they are normalised.
struct Levels {
  std::vector<float> mean, std;  // of a row's values
};

TWISTNET_CLONES void normalise(const std::uint8_t* from, const Levels& levels, std::size_t count, float* to) {
  const float *mean = levels.mean.data(), *std = levels.std.data();
  for (std::size_t at = 0; at < count; ++at) to[at] = (static_cast<float>(from[at]) - mean[at]) / std[at];
}

TWISTNET_CLONES void mix(const float* other, float weight, std::size_t count, float* to) {
  const float rest = 1.0f - weight;
  for (std::size_t at = 0; at < count; ++at) to[at] = to[at] * weight + other[at] * rest;
}

// What of a row's values a box covers: nothing where the row is outside.
struct Span {
  std::size_t begin, end;
};

Span span_of(const std::int32_t* box, int row) {
  if (row < box[0] || row >= box[2] || box[3] <= box[1]) return {0, 0};
  return {3 * static_cast<std::size_t>(box[1]), 3 * static_cast<std::size_t>(box[3])};
}

}  // namespace

// Null where the threads cannot be started.
TWISTNET_PUBLIC void* twistnet_augment_open(std::int32_t threads) {
  try {
    return new Pool(threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

TWISTNET_PUBLIC void twistnet_augment_close(void* pool) { delete static_cast<Pool*>(pool); }

// Applies `slots` operations to each of n images of height x width RGB pixels, in order. kinds (n, slots) and parameters
// (n, slots, kParameters) are what loaders/augment/table.py makes; fill (3) is what comes from outside an image.
// Returns 0 where memory has run out.
TWISTNET_PUBLIC std::int32_t twistnet_operations(void* pool, std::int64_t n, std::int32_t height, std::int32_t width,
                                                 std::int32_t slots, const std::uint8_t* images,
                                                 const std::int32_t* kinds, const float* parameters,
                                                 const std::uint8_t* fill, std::uint8_t* out) {
  const std::size_t bytes = 3 * static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  std::atomic<std::int32_t> fine{1};
  try {
    static_cast<Pool*>(pool)->run_all(n, [&](int, std::int64_t sample) {
      try {
        thread_local std::vector<std::uint8_t> halves[2];
        Operations operations(height, width, fill);
        const std::uint8_t* from = images + bytes * static_cast<std::size_t>(sample);
        std::uint8_t* to = out + bytes * static_cast<std::size_t>(sample);
        const std::int32_t* own = kinds + sample * slots;
        int last = slots - 1, which = 0;
        while (last > 0 && own[last] == kIdentity) --last;
        for (int slot = 0; slot <= last; ++slot) {
          if (slot < last && own[slot] == kIdentity) continue;
          if (slot < last) halves[which].resize(bytes);
          std::uint8_t* next = slot < last ? halves[which].data() : to;
          operations.apply(static_cast<Kind>(own[slot]), parameters + (sample * slots + slot) * kParameters, from, next);
          from = next;
          which = 1 - which;
        }
      } catch (const std::exception&) {
        fine = 0;
      }
    });
  } catch (const std::exception&) {
    fine = 0;
  }
  return fine;
}

// Normalises n images of height x width RGB pixels by mean (3) and std (3), levels of 0 to 255; sets the box erased
// (n, 4: top, left, bottom, right) of each to its colour (n, 3), which is normalised already; and mixes each with its
// partner: mixing (n, 6) is kind, partner and the partner's box, weights (n) the sample's own share. out is
// (n, height, width, 3). Returns 0 where memory has run out.
TWISTNET_PUBLIC std::int32_t twistnet_finish(void* pool, std::int64_t n, std::int32_t height, std::int32_t width,
                                             const std::uint8_t* images, const float* mean, const float* std,
                                             const std::int32_t* erased, const float* colours,
                                             const std::int32_t* mixing, const float* weights, float* out) {
  const std::size_t row_values = 3 * static_cast<std::size_t>(width);
  const std::size_t values = row_values * static_cast<std::size_t>(height);
  std::atomic<std::int32_t> fine{1};
  try {
    Levels levels{std::vector<float>(row_values), std::vector<float>(row_values)};
    for (std::size_t at = 0; at < row_values; ++at) {
      levels.mean[at] = mean[at % 3];
      levels.std[at] = std[at % 3];
    }
    const auto finish_row = [&](std::int64_t sample, int row, float* to) {
      const std::size_t at = values * static_cast<std::size_t>(sample) + row_values * static_cast<std::size_t>(row);
      normalise(images + at, levels, row_values, to);
      const Span hole = span_of(erased + 4 * sample, row);
      for (std::size_t value = hole.begin; value < hole.end; ++value) to[value] = colours[3 * sample + value % 3];
    };
    static_cast<Pool*>(pool)->run_all(n, [&](int, std::int64_t sample) {
      try {
        thread_local std::vector<float> other;
        other.resize(row_values);
        const std::int32_t* mixed = mixing + 6 * sample;
        for (int row = 0; row < height; ++row) {
          float* to = out + values * static_cast<std::size_t>(sample) + row_values * static_cast<std::size_t>(row);
          finish_row(sample, row, to);
          const Span box = mixed[0] == kCutmix ? span_of(mixed + 2, row) : Span{0, 0};
          if (mixed[0] == kMixup || box.end > box.begin) finish_row(mixed[1], row, other.data());
          if (mixed[0] == kMixup) mix(other.data(), weights[sample], row_values, to);
          std::copy(other.data() + box.begin, other.data() + box.end, to + box.begin);
        }
      } catch (const std::exception&) {
        fine = 0;
      }
    });
  } catch (const std::exception&) {
    fine = 0;
  }
  return fine;
}
