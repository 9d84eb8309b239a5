// Copies of what other decoders take, one after another in one piece of memory: whole JPEGs, or boxes of raw pixels.

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "batch.h"
#include "guard.h"
#include "jpeg.h"
#include "pool.h"

using namespace twistnet;

// Null where the threads cannot be started.
TWISTNET_PUBLIC void* twistnet_pack_open(std::int32_t threads) {
  try {
    Guard::install();
    return new Pool(threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

TWISTNET_PUBLIC void twistnet_pack_close(void* pool) { delete static_cast<Pool*>(pool); }

// Copies n images to `out` from `starts` (n) on. done (n) is 1 where the copy is a JPEG of 8-bit gray or three-channel
// pixels with an end, 2 where the memory has gone; the others, 0, are another decoder's.
TWISTNET_PUBLIC void twistnet_pack_jpegs(void* pool, std::int64_t n, const std::uint64_t* data,
                                         const std::uint64_t* lengths, const std::uint64_t* starts, std::uint8_t* out,
                                         std::uint8_t* done) {
  std::fill(done, done + n, std::uint8_t{kForAnother});
  try {
    static_cast<Pool*>(pool)->run_all(n, [&](int, std::int64_t image) {
      const auto* from = reinterpret_cast<const std::uint8_t*>(data[image]);
      std::uint8_t* to = out + starts[image];
      const std::size_t length = lengths[image];
      if (!Guard::run(from, length, [=] { std::memcpy(to, from, length); })) {
        done[image] = kGone;
        return;
      }
      const JpegHeader header = jpeg_header(to, length);
      const bool whole = header.size.height > 0 && header.scan > 0 && has_end(to + header.scan, length - header.scan);
      if (whole) done[image] = kDone;
    });
  } catch (const std::exception&) {  // memory has run out; another decoder says so
  }
}

// Copies the boxes of n images of raw pixels to `out`, each in rows without gaps from its of `starts` (m) on. shapes
// (n, 2), counts (n) and boxes (m, 4) are as for `twistnet_decode`; done (n) is 1 where all boxes are written, 2 where
// the memory has gone, 0 where a box is not inside its image.
TWISTNET_PUBLIC void twistnet_pack_boxes(void* pool, std::int64_t n, const std::uint64_t* data,
                                         const std::uint64_t* lengths, const std::int64_t* shapes,
                                         const std::int64_t* counts, const std::int64_t* boxes,
                                         const std::uint64_t* starts, std::uint8_t* out, std::uint8_t* done) {
  std::fill(done, done + n, std::uint8_t{kForAnother});
  try {
    std::vector<std::int64_t> first(static_cast<std::size_t>(n));
    for (std::int64_t image = 1; image < n; ++image) first[image] = first[image - 1] + counts[image - 1];
    static_cast<Pool*>(pool)->run_all(n, [&](int, std::int64_t image) {
      const auto* from = reinterpret_cast<const std::uint8_t*>(data[image]);
      const std::int64_t height = shapes[2 * image], width = shapes[2 * image + 1];
      const std::int64_t begin = first[image], end = begin + counts[image];
      for (std::int64_t box = begin; box < end; ++box) {
        const std::int64_t* at = boxes + 4 * box;
        if (at[0] < 0 || at[1] < 0 || at[2] < 1 || at[3] < 1 || at[2] > height - at[0] || at[3] > width - at[1]) return;
      }
      const bool there = Guard::run(from, lengths[image], [=] {
        for (std::int64_t box = begin; box < end; ++box) {
          const std::int64_t* at = boxes + 4 * box;
          const std::size_t row = 3 * static_cast<std::size_t>(at[3]), stride = 3 * static_cast<std::size_t>(width);
          const std::uint8_t* source = from + stride * static_cast<std::size_t>(at[0]) + 3 * at[1];
          std::uint8_t* to = out + starts[box];
          for (std::int64_t line = 0; line < at[2]; ++line, source += stride, to += row) std::memcpy(to, source, row);
        }
      });
      done[image] = there ? kDone : kGone;
    });
  } catch (const std::exception&) {  // memory has run out; another decoder says so
  }
}
