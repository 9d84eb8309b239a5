// Rows of a region of a JPEG, by libjpeg-turbo, as a decode of the whole image would give them.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
// clang-format off: jpeglib.h needs what comes before it.
#include <jpeglib.h>

#include "crop.h"

namespace twistnet {

constexpr std::int64_t kMaxPixels = 89478485;  // MAX_PIXELS of loaders/reference.py

// What stands before the pixels. The size is {0, 0} where the bytes are no JPEG of 8-bit gray or three-channel pixels,
// or of more of them than kMaxPixels; `scan` is where the first scan begins, 0 where there is none.
struct JpegHeader {
  Size size{0, 0};
  std::size_t scan = 0;
};
JpegHeader jpeg_header(const std::uint8_t* data, std::size_t length);

// Whether an end-of-image marker stands in the bytes: what lacks one was cut, and a region may end before the cut. To be
// asked from the first scan on: thumbnails before it have an end of their own.
bool has_end(const std::uint8_t* data, std::size_t length);

// One image after another. Not for several threads at once.
class JpegReader {
 public:
  JpegReader();
  ~JpegReader();
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  // Begins to read a region, `reduction` (1 or 2) times smaller, which spares most of the inverse transform; false
  // where another decoder must try: no JPEG, CMYK, torn, too large, too small for the region.
  bool begin(const std::uint8_t* data, std::size_t length, Box region, int reduction);
  // Bytes that a row takes in `read`: 4 a pixel, from column `left()` on.
  std::size_t row_bytes() const { return 4 * static_cast<std::size_t>(width_); }
  int left() const { return left_; }
  // The next `count` rows of what covers the region, `stride` bytes apart; false where the data end or are damaged.
  bool read(std::uint8_t* rows, std::size_t stride, int count);
  // Frees what the image took, wherever the reading ended.
  void end();

 private:
  [[noreturn]] static void fail(j_common_ptr info);

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_;
  jpeg_source_mgr source_;
  std::jmp_buf jump_;
  bool open_ = false;
  int left_ = 0, width_ = 0;
};

}  // namespace twistnet
