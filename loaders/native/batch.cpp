// What Python calls through ctypes: sizes of a batch's images, and their boxes as pixels of one size.

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "batch.h"
#include "crop.h"
#include "guard.h"
#include "jpeg.h"
#include "pool.h"

namespace twistnet {
namespace {

constexpr int kStrip = 16;  // rows that are decoded at a time: what memory does not grow with the image's height
static_assert(kStrip % kRows == 0);
// A JPEG is decoded at half of its size where the resize that follows still makes it this many times smaller: over
// photographs the mean difference to a whole decode is about 0.2 levels then. At a quarter it is up to 0.4, where chroma
// is halved on one side only.
constexpr std::int64_t kLeft = 4;
// And only where a box is this large: what is smaller takes a few milliseconds, and stays exact.
constexpr std::int64_t kLarge = 1024;

// One image of a batch and the boxes that are wanted of it.
struct Task {
  const std::uint8_t* data;
  std::uint64_t length;
  Size shape;  // of raw pixels, three bytes each; 0 by 0 of a JPEG
  std::int64_t first, count;  // of its boxes
};

struct Request {
  const Box* boxes;
  const std::uint8_t* flips;
  Output output;
  std::uint8_t* out;
};

// What a thread keeps from one image to the next.
class Worker {
 public:
  bool decode(const Task& task, const Request& request) {
    const Box* boxes = request.boxes + task.first;
    Box region = boxes[0];
    for (std::int64_t box = 1; box < task.count; ++box) region = around(region, boxes[box]);
    if (crops_.size() < static_cast<std::size_t>(task.count)) crops_.resize(static_cast<std::size_t>(task.count));
    const int reduction = task.shape.height > 0 ? 1 : reduction_for(boxes, task.count, request.output);
    for (std::int64_t box = 0; box < task.count; ++box) {
      crops_[box].set(boxes[box], reduction, request.output, request.flips[task.first + box] != 0);
    }
    if (!(task.shape.height > 0 ? from_pixels(task, region) : from_jpeg(task, region, reduction))) return false;
    const std::size_t bytes = request.output.bytes();
    for (std::int64_t box = 0; box < task.count; ++box) {
      crops_[box].finish(request.out + bytes * static_cast<std::size_t>(task.first + box));
    }
    return true;
  }

 private:
  static Box around(Box one, Box other) {
    const int top = std::min(one.top, other.top), left = std::min(one.left, other.left);
    const int bottom = std::max(one.top + one.height, other.top + other.height);
    const int right = std::max(one.left + one.width, other.left + other.width);
    return {top, left, bottom - top, right - left};
  }

  // How many times smaller the JPEG may be decoded for all of the boxes.
  static int reduction_for(const Box* boxes, std::int64_t count, Output output) {
    const bool large = std::all_of(boxes, boxes + count, [output](Box box) {
      return box.height >= std::max(kLarge, 2 * kLeft * output.height) &&
             box.width >= std::max(kLarge, 2 * kLeft * output.width);
    });
    return large ? 2 : 1;
  }

  bool from_jpeg(const Task& task, Box region, int reduction) {
    bool whole = reader_.begin(task.data, task.length, region, reduction);
    if (whole) {
      region = region.reduced(reduction);
      const std::size_t stride = reader_.row_bytes();
      strip_.resize(stride * (kStrip + kRows) + kSlack);  // rows beyond the strip's end are read, and not used
      const int bottom = region.top + region.height;
      for (int top = region.top; whole && top < bottom; top += kStrip) {
        const int end = std::min(top + kStrip, bottom);
        whole = reader_.read(strip_.data(), stride, end - top);
        if (whole) give(task, strip_.data(), 4, stride, top, end, reader_.left());
      }
    }
    reader_.end();
    return whole;
  }

  bool from_pixels(const Task& task, Box region) {
    if (!region.inside(task.shape)) return false;
    const std::size_t stride = 3 * static_cast<std::size_t>(task.shape.width);
    const int bottom = region.top + region.height;
    // The last rows are copied, because some bytes beyond them are read, where the memory may end.
    const int copied = std::max(region.top, bottom - (kRows + 1));
    const std::uint8_t* rows = task.data + stride * static_cast<std::size_t>(region.top);
    give(task, rows, 3, stride, region.top, copied, 0);
    strip_.resize(stride * (2 * kRows + 1) + kSlack);
    std::memcpy(strip_.data(), task.data + stride * static_cast<std::size_t>(copied),
                stride * static_cast<std::size_t>(bottom - copied));
    give(task, strip_.data(), 3, stride, copied, bottom, 0);
    return true;
  }

  void give(const Task& task, const std::uint8_t* rows, int bytes, std::size_t stride, int top, int bottom, int left) {
    for (std::int64_t box = 0; box < task.count; ++box) crops_[box].take(rows, bytes, stride, top, bottom, left);
  }

  JpegReader reader_;
  std::vector<Crop> crops_;
  std::vector<std::uint8_t> strip_;
};

struct Decoder {
  explicit Decoder(int threads) : workers(static_cast<std::size_t>(threads)), pool(threads) {}
  std::vector<Worker> workers;
  Pool pool;  // last, so that its threads end first
};

// Whether a box can be inside of some image: no side is negative or empty, and no sum wraps around.
bool is_sane(const std::int64_t* box) {
  constexpr std::int64_t kMost = 1 << 30;
  return box[0] >= 0 && box[0] < kMost && box[1] >= 0 && box[1] < kMost && box[2] > 0 && box[2] < kMost && box[3] > 0 &&
         box[3] < kMost;
}

}  // namespace
}  // namespace twistnet

using namespace twistnet;

// Null where the threads cannot be started.
TWISTNET_PUBLIC void* twistnet_open(std::int32_t threads) {
  try {
    Guard::install();
    return new Decoder(threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Copies memory that may go away; 0 where it has.
TWISTNET_PUBLIC std::int32_t twistnet_copy(const std::uint8_t* from, std::uint64_t length, std::uint8_t* to) {
  Guard::install();
  return Guard::run(from, length, [=] { std::memcpy(to, from, length); });
}

TWISTNET_PUBLIC void twistnet_close(void* decoder) { delete static_cast<Decoder*>(decoder); }

// Heights and widths of n images into sizes (n, 2), which hold those of raw pixels already and 0, 0 for the others; 0, 0
// stays for what `twistnet_decode` does not take; -1, -1 where the memory has gone.
TWISTNET_PUBLIC void twistnet_sizes(std::int64_t n, const std::uint64_t* data, const std::uint64_t* lengths,
                                    std::int64_t* sizes) {
  Guard::install();
  for (std::int64_t image = 0; image < n; ++image) {
    if (sizes[2 * image] > 0) continue;
    Size size{-1, -1};
    Guard::run(reinterpret_cast<const void*>(data[image]), lengths[image],
               [&] { size = jpeg_header(reinterpret_cast<const std::uint8_t*>(data[image]), lengths[image]).size; });
    sizes[2 * image] = size.height;
    sizes[2 * image + 1] = size.width;
  }
}

// Decodes n images, of which image i has `counts[i]` boxes, one after another in `boxes` (top, left, height, width),
// `flips` and `out` (height, width, 3). shapes (n, 2) are those of raw pixels, 0, 0 of JPEGs. done (n) is 1 where all
// boxes of the image are written, 2 where its memory has gone; the others, 0, are another decoder's.
TWISTNET_PUBLIC void twistnet_decode(void* decoder, std::int64_t n, const std::uint64_t* data,
                                     const std::uint64_t* lengths, const std::int64_t* shapes,
                                     const std::int64_t* counts, const std::int64_t* boxes, const std::uint8_t* flips,
                                     std::int32_t filter, std::int32_t height, std::int32_t width, std::uint8_t* out,
                                     std::uint8_t* done) {
  Decoder& all = *static_cast<Decoder*>(decoder);
  std::fill(done, done + n, std::uint8_t{kForAnother});
  try {
    std::vector<Task> tasks(static_cast<std::size_t>(n));
    std::vector<Box> wanted;
    for (std::int64_t image = 0, box = 0; image < n; ++image) {
      const Size shape{static_cast<int>(shapes[2 * image]), static_cast<int>(shapes[2 * image + 1])};
      tasks[image] = {reinterpret_cast<const std::uint8_t*>(data[image]), lengths[image], shape, box, 0};
      bool usable = true;
      for (const std::int64_t end = box + counts[image]; box < end; ++box) {
        usable = usable && is_sane(boxes + 4 * box);
        wanted.push_back({static_cast<int>(boxes[4 * box]), static_cast<int>(boxes[4 * box + 1]),
                          static_cast<int>(boxes[4 * box + 2]), static_cast<int>(boxes[4 * box + 3])});
      }
      if (usable) tasks[image].count = counts[image];
    }
    const Request request{wanted.data(), flips, {height, width, static_cast<Filter>(filter)}, out};
    all.pool.run_all(n, [&](int thread, std::int64_t image) {
      try {
        const Task& task = tasks[image];
        if (task.count == 0) return;
        Worker& worker = all.workers[static_cast<std::size_t>(thread)];
        bool decoded = false;
        const bool there = Guard::run(task.data, task.length, [&] { decoded = worker.decode(task, request); });
        done[image] = !there ? kGone : decoded ? kDone : kForAnother;
      } catch (const std::exception&) {  // memory has run out; another decoder says so
      }
    });
  } catch (const std::exception&) {
  }
}
