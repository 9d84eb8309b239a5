// A box of an image on its way to its output: rows come in from above, a few at a time, and are not kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "resample.h"

namespace twistnet {

struct Size {
  int height, width;
};

// What is wanted of an image; its sides are positive.
struct Box {
  int top, left, height, width;

  bool inside(Size size) const { return top <= size.height - height && left <= size.width - width; }

  // The pixels that cover it in an image decoded `reduction` times smaller.
  Box reduced(int reduction) const {
    const int first_row = top / reduction, first_column = left / reduction;
    return {first_row, first_column, (top + height + reduction - 1) / reduction - first_row,
            (left + width + reduction - 1) / reduction - first_column};
  }
};

// What every box becomes: RGB of this size.
struct Output {
  int height, width;
  Filter filter;

  std::size_t row_bytes() const { return 3 * static_cast<std::size_t>(width); }
  std::size_t bytes() const { return row_bytes() * static_cast<std::size_t>(height); }
};

class Crop {
 public:
  // The box is one of the image, which comes `reduction` times smaller.
  void set(Box box, int reduction, Output output, bool flip);

  // Takes what it needs of the rows `top` to `bottom`, of pixels of `bytes` (3 or 4) bytes, whose first is that
  // of column `left`. kRows rows more may be read.
  void take(const std::uint8_t* rows, int bytes, std::size_t stride, int top, int bottom, int left);

  // Writes the output, once all rows were there.
  void finish(std::uint8_t* out);

 private:
  void keep(const std::uint8_t* row, int bytes);

  Box box_{};
  Output output_{};
  Taps columns_, rows_;
  bool columns_first_ = false;
  // Rows of the output's width, all of the box; or, columns first, all of the output, of the box's width.
  std::vector<std::uint8_t> half_;
  // Columns first: the rows that the next output still needs.
  std::vector<std::uint8_t> window_;
  int bytes_ = 0, window_top_ = 0, window_rows_ = 0, done_ = 0;
};

}  // namespace twistnet
