// A batch by FFCV's own decode and resize, whose addresses Python gives: the same pixels, without Python between them.

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "batch.h"
#include "guard.h"
#include "pool.h"

namespace twistnet {
namespace {

// As FFCV's libffcv.cpp declares them. Both take images of three bytes a pixel.
using Decode = int (*)(unsigned char* data, std::uint64_t length, std::uint32_t height, std::uint32_t width,
                       unsigned char* out, std::uint32_t out_height, std::uint32_t out_width, std::uint32_t left,
                       std::uint32_t top, std::uint32_t numerator, std::uint32_t denominator, bool crop, bool flip);
using Resize = void (*)(std::int64_t resizer, std::int64_t data, std::int64_t height, std::int64_t width,
                        std::int64_t top, std::int64_t bottom, std::int64_t left, std::int64_t right, std::int64_t out,
                        std::int64_t out_height, std::int64_t out_width);

constexpr std::size_t kKeptBytes = 1 << 24;  // of an image's memory; more is given back before the next
constexpr std::size_t kPage = 4096;          // or a part of one, which does no harm

// What a thread keeps from one image to the next.
struct Worker {
  std::vector<std::uint8_t> encoded, whole, mirrored;
};

struct Decoder {
  explicit Decoder(int threads) : workers(static_cast<std::size_t>(threads)), pool(threads) {}
  std::vector<Worker> workers;
  Pool pool;  // last, so that its threads end first
};

// Whether all of the memory is there: FFCV and OpenCV cannot be left in the middle of their work. A JPEG is copied, so
// that it stays; pixels are many more bytes, and only looked at.
bool is_there(const std::uint8_t* data, std::size_t length, std::vector<std::uint8_t>* copy) {
  if (copy) copy->resize(length);
  return Guard::run(data, length, [=] {
    if (copy) {
      std::memcpy(copy->data(), data, length);
      return;
    }
    volatile std::uint8_t seen;
    for (std::size_t at = 0; at < length; at += kPage) seen = data[at];
    if (length > 0) seen = data[length - 1];
    static_cast<void>(seen);
  });
}

void mirror(const std::uint8_t* from, int height, int width, std::uint8_t* to) {
  for (int row = 0; row < height; ++row, from += 3 * static_cast<std::size_t>(width)) {
    for (int column = width - 1; column >= 0; --column, to += 3) std::memcpy(to, from + 3 * column, 3);
  }
}

bool inside(const std::int64_t* box, std::int64_t rows, std::int64_t columns) {
  return box[0] >= 0 && box[1] >= 0 && box[2] > 0 && box[3] > 0 && box[2] <= rows && box[3] <= columns &&
         box[0] <= rows - box[2] && box[1] <= columns - box[3];
}

bool is_jpeg(const std::uint8_t* data, std::size_t length) { return length > 2 && data[0] == 0xFF && data[1] == 0xD8; }

}  // namespace
}  // namespace twistnet

using namespace twistnet;

TWISTNET_PUBLIC void* twistnet_ffcv_open(std::int32_t threads) {
  try {
    Guard::install();
    return new Decoder(threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

TWISTNET_PUBLIC void twistnet_ffcv_close(void* decoder) { delete static_cast<Decoder*>(decoder); }

// As `twistnet_decode`, whose arguments these are, with the addresses of FFCV's two functions and the sizes (n, 2) of
// all images.
TWISTNET_PUBLIC void twistnet_ffcv_decode(void* decoder, void* imdecode, void* resize, std::int64_t n,
                                          const std::uint64_t* data, const std::uint64_t* lengths,
                                          const std::int64_t* shapes, const std::int64_t* sizes,
                                          const std::int64_t* counts, const std::int64_t* boxes,
                                          const std::uint8_t* flips, std::int32_t height, std::int32_t width,
                                          std::uint8_t* out, std::uint8_t* done) {
  Decoder& all = *static_cast<Decoder*>(decoder);
  std::fill(done, done + n, std::uint8_t{kForAnother});
  const auto decode_jpeg = reinterpret_cast<Decode>(imdecode);
  const auto resize_box = reinterpret_cast<Resize>(resize);
  const std::size_t bytes = 3 * static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  try {
    std::vector<std::int64_t> first(static_cast<std::size_t>(n));
    for (std::int64_t image = 1; image < n; ++image) first[image] = first[image - 1] + counts[image - 1];
    all.pool.run_all(n, [&](int thread, std::int64_t image) {
      try {
        Worker& worker = all.workers[static_cast<std::size_t>(thread)];
        auto* from = reinterpret_cast<std::uint8_t*>(data[image]);
        const std::int64_t rows = sizes[2 * image], columns = sizes[2 * image + 1];
        const bool is_encoded = shapes[2 * image] == 0;
        if (!is_there(from, lengths[image], is_encoded ? &worker.encoded : nullptr)) {
          done[image] = kGone;
          return;
        }
        // OpenCV ends the process where a box leaves its image.
        for (std::int64_t number = first[image]; number < first[image] + counts[image]; ++number) {
          if (!inside(boxes + 4 * number, rows, columns)) return;
        }
        if (is_encoded) {
          from = worker.encoded.data();
          if (!is_jpeg(from, lengths[image])) return;
          if (worker.whole.capacity() > kKeptBytes) std::vector<std::uint8_t>().swap(worker.whole);
          worker.whole.resize(3 * static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
          const auto tall = static_cast<std::uint32_t>(rows), wide = static_cast<std::uint32_t>(columns);
          const int failed =
              decode_jpeg(from, lengths[image], tall, wide, worker.whole.data(), tall, wide, 0, 0, 1, 1, false, false);
          if (failed) return;
          from = worker.whole.data();
        }
        worker.mirrored.resize(bytes);
        for (std::int64_t number = first[image]; number < first[image] + counts[image]; ++number) {
          const std::int64_t* box = boxes + 4 * number;
          std::uint8_t* to = out + bytes * static_cast<std::size_t>(number);
          std::uint8_t* target = flips[number] ? worker.mirrored.data() : to;
          resize_box(0, reinterpret_cast<std::int64_t>(from), rows, columns, box[0], box[0] + box[2], box[1],
                     box[1] + box[3], reinterpret_cast<std::int64_t>(target), height, width);
          if (flips[number]) mirror(target, height, width, to);
        }
        done[image] = kDone;
      } catch (const std::exception&) {  // memory has run out; another decoder says so
      }
    });
  } catch (const std::exception&) {
  }
}
